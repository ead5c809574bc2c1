//! Counts requests for their keys, and refuses those of a key that has too many.

use http::StatusCode;
use pingora_proxy::Session;

use super::admission::client_key;
use super::answer::Answer;
use super::exchange::Exchange;
use super::fields::render;
use super::refuse::refuse;
use crate::config::{RateKey, Route};
use crate::http1::Rejection;

const TOO_MANY: Rejection = Rejection::new(
    StatusCode::TOO_MANY_REQUESTS,
    "this route takes no more requests of this kind now",
);

/// Called before anybody is asked who the caller is, and again when that is known: each key is
/// counted as soon as it can be. `Some`: the request is one too many.
pub fn refuse_over_rate(
    session: &Session,
    exchange: &mut Exchange,
    route: &Route,
    caller_is_known: bool,
) -> Option<Answer> {
    let limit = route.requests_per_second.as_deref()?;
    if matches!(limit.key, RateKey::Caller(_)) != caller_is_known {
        return None;
    }
    let table = exchange
        .generation
        .states
        .rate_table(exchange.route_id()?)?;
    let taken = match &limit.key {
        RateKey::Client => {
            let client = client_key(exchange)?.to_number();
            table.take(&client.to_ne_bytes(), limit.rate)
        }
        RateKey::Value(template) | RateKey::Caller(template) => {
            match &render(template, session, exchange)[..] {
                [] => return None,
                key => table.take(key, limit.rate),
            }
        }
    };
    let wait = taken.err()?;
    Some(refuse(exchange, TOO_MANY).retry_after(wait))
}
