//! Fields that are meant for only one connection (RFC 9110 section 7.6.1).
//!
//! Pingora frames each connection itself: it handles `Content-Length`, `Transfer-Encoding`,
//! `Connection`, and the `Upgrade` of a WebSocket handshake. Forwarding headers are handled by
//! [`super::forwarded`]: trust decides about them, and a client behind a trusted proxy that passes
//! its `Connection` on must not be able to remove them.

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue};

use super::{Fields, forwarded};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Never forwarded, whether `Connection` names them or not.
static ALWAYS: [HeaderName; 5] = [
    KEEP_ALIVE,
    PROXY_CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRAILER,
];

/// Fields that `Connection` cannot remove: without them the message would have another meaning.
fn is_protected(name: &HeaderName) -> bool {
    [
        header::HOST,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        header::UPGRADE,
        header::SEC_WEBSOCKET_KEY,
        header::SEC_WEBSOCKET_VERSION,
        header::SEC_WEBSOCKET_ACCEPT,
        header::SEC_WEBSOCKET_PROTOCOL,
        header::SEC_WEBSOCKET_EXTENSIONS,
    ]
    .contains(name)
        || forwarded::is_forwarding(name)
}

/// Whether [`remove`] could find anything. Most messages have no such field, and one look at each
/// name costs less than a search for each field.
pub fn are_there(headers: &HeaderMap) -> bool {
    let mut names = headers.keys();
    names.any(|name| *name == header::CONNECTION || ALWAYS.contains(name))
}

/// Removes from `out`, a copy of `arrived`, the fields that `arrived` marks as hop-by-hop.
pub fn remove(out: &mut impl Fields, arrived: &HeaderMap) {
    if !are_there(arrived) {
        return;
    }
    for name in arrived.keys().filter(|name| ALWAYS.contains(name)) {
        out.remove(name);
    }
    for name in arrived
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(nominated)
    {
        if !is_protected(&name) && out.map().contains_key(&name) {
            out.remove(&name);
        }
    }
}

fn nominated(connection: &HeaderValue) -> impl Iterator<Item = HeaderName> {
    connection
        .as_bytes()
        .split(|byte| *byte == b',')
        .filter_map(|option| HeaderName::from_bytes(option.trim_ascii()).ok())
}
