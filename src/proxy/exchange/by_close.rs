//! What is needed to refuse a handshake by a Close frame.

use http::{HeaderMap, HeaderValue, header};
use pingora_proxy::Session;

use crate::config::{Refusal, Route};
use crate::http1::is_token;
use crate::websocket::handshake::{self, Upgrade};

/// Made from the request as it came, but for what was withdrawn.
#[derive(Debug)]
pub struct ByClose {
    /// The answer to the client's key.
    pub accept: String,
    /// The subprotocol to answer.
    pub protocol: Option<HeaderValue>,
}

impl ByClose {
    /// `None`: the route does not want it, or the request is no valid handshake. `withdrawn`: a
    /// subprotocol that the client has offered too, beside a token.
    pub fn of(
        session: &mut Session,
        route: &Route,
        withdrawn: Option<&HeaderValue>,
    ) -> Option<Box<Self>> {
        if route.websocket.as_ref()?.refusal != Refusal::Close {
            return None;
        }
        let has_body = !session.is_body_empty();
        let request = session.req_header();
        if handshake::upgrade_of(&request.headers) != Upgrade::WebSocket {
            return None;
        }
        let accept = handshake::expected_accept(&request.method, &request.headers, has_body);
        Some(Box::new(Self {
            accept: accept.ok()?,
            protocol: first_protocol(&request.headers).or_else(|| withdrawn.cloned()),
        }))
    }
}

/// The first subprotocol that the client offers. Without one of them in the answer a browser gives
/// up before it reads the Close frame.
fn first_protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let offered = headers.get(header::SEC_WEBSOCKET_PROTOCOL)?.as_bytes();
    // A list may have empty elements (RFC 9110 section 5.6.1.2).
    let mut elements = offered.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let first = elements.find(|element| !element.is_empty())?;
    let protocol = HeaderValue::from_bytes(first).ok()?;
    is_token(first).then_some(protocol)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_protocols_the_first_is_answered_if_it_is_one() {
        let first = |value: &'static str| {
            let mut headers = HeaderMap::new();
            let value = HeaderValue::from_static(value);
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value);
            first_protocol(&headers)
        };
        assert_eq!(first("chat").unwrap(), "chat");
        assert_eq!(first(" bearer , a.b.c").unwrap(), "bearer");
        assert_eq!(first("two words, chat"), None);
        assert_eq!(first(", chat").unwrap(), "chat");
        assert_eq!(first(" , "), None);
        assert_eq!(first_protocol(&HeaderMap::new()), None);
    }
}
