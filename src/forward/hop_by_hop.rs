//! Fields that were meant for one connection only (RFC 9110 section 7.6.1).
//!
//! Pingora frames each connection by itself: `Content-Length` and `Transfer-Encoding` are its
//! business, as is `Connection`, and the `Upgrade` of a WebSocket handshake, which it renews.
//! Forwarding headers are left to [`super::forwarded`]: whether they pass is a matter of trust, and
//! a client behind a trusted proxy that hands its `Connection` on must not take them away.

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue};

use super::{Fields, forwarded};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Never forwarded, nominated or not.
static ALWAYS: [HeaderName; 5] = [
    KEEP_ALIVE,
    PROXY_CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRAILER,
];

/// What a `Connection` field cannot take away: without these the message would be another one.
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

/// Whether [`remove`] could find anything: most messages carry nothing of the kind. A look at each
/// name costs less than a search for each of ours.
pub fn are_there(headers: &HeaderMap) -> bool {
    let mut names = headers.keys();
    names.any(|name| *name == header::CONNECTION || ALWAYS.contains(name))
}

/// Takes out of `out`, which has no others than `arrived`, what that marks as hop-by-hop.
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
