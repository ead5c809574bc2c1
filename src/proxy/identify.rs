//! Finds out whose a request is, once it may come in.

use http::StatusCode;
use pingora_proxy::Session;

use super::exchange::Exchange;
use super::fields::render;
use crate::config::Route;
use crate::http1::Rejection;

/// A user's name is kept with each session, and stands in each line of the log. One that is cut
/// short could be another's.
const NAME_MAX: usize = 512;

const TOO_LONG: Rejection = Rejection::new(
    StatusCode::BAD_REQUEST,
    "the user's name is longer than 512 bytes",
);

/// Fills in the exchange's user. An error: the name cannot be used.
pub fn identify(
    session: &Session,
    exchange: &mut Exchange,
    route: &Route,
) -> Result<(), Rejection> {
    let name: Option<String> = match &route.user {
        Some(template) => {
            let name = render(template, session, exchange);
            Some(String::from_utf8_lossy(&name).into_owned())
        }
        None => {
            let caller = exchange.caller.as_ref();
            caller.and_then(|caller| caller.known_as()).map(Into::into)
        }
    };
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return Ok(());
    };
    if name.len() > NAME_MAX {
        return Err(TOO_LONG);
    }
    exchange.caller.get_or_insert_default().user = Some(name.into());
    Ok(())
}
