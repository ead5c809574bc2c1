//! Asks, before a server is chosen, whether a request may come in, and as whom.

use http::header;
use pingora_proxy::Session;

use super::answer::Answer;
use super::exchange::Exchange;
use super::refuse::refuse;
use super::request_rate::refuse_over_rate;
use crate::auth::Denied;
use crate::config::Route;

/// `Some`: the request may not come in.
pub fn authenticate(session: &Session, exchange: &mut Exchange, route: &Route) -> Option<Answer> {
    if let Err(denied) = route.access.check(exchange.client()) {
        return Some(deny(exchange, denied));
    }
    // Guessing a password is what a rate is often for, and this costs less than asking for one.
    refuse_over_rate(session, exchange, route)
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
