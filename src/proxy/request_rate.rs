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

/// `Some`: the request is one too many.
pub fn refuse_over_rate(
    session: &Session,
    exchange: &mut Exchange,
    route: &Route,
) -> Option<Answer> {
    let limit = route.requests_per_second.as_deref()?;
    let key = match &limit.key {
        RateKey::Client => client_key(exchange)?.to_number().to_ne_bytes().to_vec(),
        RateKey::Value(template) => render(template, session, exchange),
    };
    if key.is_empty() {
        return None;
    }
    let table = exchange.generation.rate_table(exchange.route_id()?)?;
    let wait = table.take(&key, limit.rate).err()?;
    Some(refuse(exchange, TOO_MANY).retry_after(wait))
}
