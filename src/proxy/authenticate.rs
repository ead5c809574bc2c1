//! Asks, before a server is chosen, whether a request may come in, and as whom.

use http::header;

use super::answer::Answer;
use super::exchange::Exchange;
use super::refuse::refuse;
use super::token;
use crate::auth::{Auth, Denied};
use crate::config::Route;

/// `Some`: the request may not come in.
pub async fn authenticate(exchange: &mut Exchange, route: &Route) -> Option<Answer> {
    let mut admitted = route.access.check(exchange.client());
    if let (Ok(()), Some(auth)) = (&admitted, &route.auth) {
        // Boxed, so that a request of another route has no room for it.
        admitted = Box::pin(by_auth(exchange, auth)).await;
    }
    admitted.err().map(|denied| deny(exchange, denied))
}

/// All methods must let the request in.
async fn by_auth(exchange: &mut Exchange, auth: &Auth) -> Result<(), Denied> {
    if let Some(jwt) = &auth.jwt {
        token::check(exchange, jwt).await?;
    }
    Ok(())
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
