//! Holds a request to the body size that its route takes.

use http::header;
use pingora_proxy::Session;

use super::exchange::Exchange;
use crate::config::Route;
use crate::http1::Rejection;
use crate::listener::LARGE_BODY;

/// Refuses a body that is too large by its own header. For one in chunks the limit is set, and the
/// body is cut there.
pub fn limit_body(
    session: &mut Session,
    exchange: &Exchange,
    route: &Route,
) -> Result<(), Rejection> {
    let Some(connection) = exchange.connection() else {
        return Ok(());
    };
    let listener = exchange.generation.config.listener(exchange.listener());
    let most = route.body_size.within(listener.limits.body_size);
    connection.limit_body(most);
    let Some(most) = most else {
        return Ok(());
    };
    let length = session.req_header().headers.get(header::CONTENT_LENGTH);
    let length: Option<u64> = length.and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_none_or(|length| length <= most) {
        return Ok(());
    }
    connection.refuse_body();
    session.set_keepalive(None);
    Err(LARGE_BODY)
}
