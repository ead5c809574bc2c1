//! Asks, before a server is chosen, whether a request may come in, and as whom.

use http::header;

use super::answer::Answer;
use super::exchange::Exchange;
use super::refuse::refuse;
use crate::auth::Denied;
use crate::config::Route;

/// `Some`: the request may not come in.
pub fn authenticate(exchange: &mut Exchange, route: &Route) -> Option<Answer> {
    let admitted = route.access.check(exchange.client());
    admitted.err().map(|denied| deny(exchange, denied))
}

/// The answer to a request that may not come in. It is counted.
fn deny(exchange: &mut Exchange, denied: Denied) -> Answer {
    let metrics = exchange.generation.metrics_of(exchange.route_id());
    metrics.count_denied(denied.reason);
    exchange.outcome.deny();
    let mut answer = refuse(exchange, denied.rejection);
    if let Some(challenge) = denied.challenge {
        answer.fields.push((header::WWW_AUTHENTICATE, challenge));
    }
    answer
}
