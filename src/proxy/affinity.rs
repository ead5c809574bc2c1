//! What a server's answer says of the client's affinity: a cookie of ours is set, or a session of
//! the server's is learned.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use pingora::http::ResponseHeader;
use pingora_proxy::Session;

use super::exchange::Exchange;
use super::fields::ResponseFields;
use crate::forward::{Fields, Trust, forwarded};
use crate::tls::Security;
use crate::websocket::handshake::has_token;

/// Learns the session that the server names. Called with its answer as it came.
pub fn learn(response: &ResponseHeader, exchange: &Exchange) {
    if let Some(attempts) = &exchange.attempts
        && let Some(server) = attempts.server()
        && is_final(response.status)
        // A server that does not know a session may name it all the same.
        && response.status.as_u16() < 400
    {
        attempts.group().learn(server, &response.headers);
    }
}

/// Sets the cookie, if the client has none that names this server. Called when the route's rules
/// are applied: they are about what servers set.
pub fn set_cookie(session: &Session, response: &mut ResponseHeader, exchange: &Exchange) {
    let Some(attempts) = &exchange.attempts else {
        return;
    };
    let Some(server) = attempts.server() else {
        return;
    };
    let status = response.status;
    if attempts.upstream().affinity.is_none() || attempts.own() == Some(server) || !is_final(status)
    {
        return;
    }
    let cookie = attempts
        .group()
        .cookie_for(server, is_by_tls(session, exchange));
    let Some(cookie) = cookie.and_then(|cookie| HeaderValue::try_from(cookie).ok()) else {
        return;
    };
    // A cache would give the cookie of one client to all.
    let is_private = ["private", "no-store"]
        .iter()
        .any(|word| has_token(&response.headers, &header::CACHE_CONTROL, word));
    let private = (!is_private && status != StatusCode::SWITCHING_PROTOCOLS)
        .then(|| private(&response.headers));
    let mut fields = ResponseFields(response);
    fields.append(
        &header::SET_COOKIE,
        Bytes::from_static(b"Set-Cookie"),
        cookie,
    );
    if let Some(private) = private {
        fields.set(
            &header::CACHE_CONTROL,
            Bytes::from_static(b"Cache-Control"),
            private,
        );
    }
}

/// What the answer says to caches, but for what lets shared ones store it.
fn private(headers: &HeaderMap) -> HeaderValue {
    let fields = headers.get_all(header::CACHE_CONTROL).iter();
    let text = fields
        .map(HeaderValue::to_str)
        .collect::<Result<Vec<_>, _>>();
    let text = text.unwrap_or_default().join(",");
    let mut is_quoted = false;
    let directives = text.split(|letter: char| {
        is_quoted ^= letter == '"';
        letter == ',' && !is_quoted
    });
    let is_for_shared = |directive: &&str| {
        let name = directive
            .split_once('=')
            .map_or(*directive, |(name, _)| name);
        let names = ["", "public", "s-maxage", "private"];
        names.iter().any(|other| name.eq_ignore_ascii_case(other))
    };
    let kept = directives.map(str::trim).filter(|one| !is_for_shared(one));
    let all: Vec<&str> = kept.chain(["private"]).collect();
    HeaderValue::from_str(&all.join(", ")).unwrap_or(HeaderValue::from_static("private"))
}

fn is_final(status: StatusCode) -> bool {
    !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS
}

/// Whether the client uses TLS, to us or to a trusted proxy in front of us.
fn is_by_tls(session: &Session, exchange: &Exchange) -> bool {
    let security = exchange
        .connection()
        .map(|connection| connection.security());
    match security {
        Some(Security::Tls { .. }) => true,
        Some(Security::Plain) | None => {
            exchange.trust() == Trust::Trusted
                && forwarded::is_by_tls(&session.req_header().headers)
        }
    }
}
