//! Checks a WebSocket handshake (RFC 6455 section 4.2.1) before a server gets it.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, PAD};
use http::{HeaderMap, Method, StatusCode, Version, header};
use itertools::Itertools;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::http1::Rejection;

/// What the request's `Upgrade` field asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upgrade {
    None,
    WebSocket,
    /// Anything else, such as h2c: the field is removed, and the request is served without it (RFC
    /// 9110 section 7.8 lets a server ignore an upgrade).
    Other,
}

/// What a request asks for. HTTP/1.0 has no upgrades. If `Connection` lacks the option, the field
/// was meant for a proxy before us (RFC 9110 section 7.8).
pub fn asked_upgrade(version: Version, headers: &HeaderMap) -> Upgrade {
    match upgrade_of(headers) {
        Upgrade::WebSocket
            if version != Version::HTTP_11
                || !has_token(headers, &header::CONNECTION, "upgrade") =>
        {
            Upgrade::Other
        }
        upgrade => upgrade,
    }
}

pub fn upgrade_of(headers: &HeaderMap) -> Upgrade {
    if !headers.contains_key(header::UPGRADE) {
        Upgrade::None
    } else if has_token(headers, &header::UPGRADE, "websocket") {
        Upgrade::WebSocket
    } else {
        Upgrade::Other
    }
}

/// If clients make keys by hand from 22 characters, the last one may have extra low bits. RFC 4648
/// section 3.5 lets a decoder accept or refuse these; servers accept them.
const LENIENT: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, PAD.with_decode_allow_trailing_bits(true));

/// The `Sec-WebSocket-Accept` that the server must answer, or why the server is not asked. The
/// headers must be those of a request that [asks](asked_upgrade) for a WebSocket.
pub fn expected_accept(
    method: &Method,
    headers: &HeaderMap,
    has_body: bool,
) -> Result<String, Rejection> {
    if method != Method::GET {
        return Err(Rejection::bad("a websocket handshake must be a GET"));
    }
    if has_body {
        return Err(Rejection::bad("a websocket handshake must not have a body"));
    }
    let versions = headers.get_all(header::SEC_WEBSOCKET_VERSION);
    match versions.iter().at_most_one() {
        Ok(Some(version)) if version == "13" => {}
        Ok(Some(_)) | Err(_) => {
            return Err(Rejection::new(
                StatusCode::UPGRADE_REQUIRED,
                "only websocket version 13 is spoken here",
            ));
        }
        Ok(None) => {
            return Err(Rejection::bad(
                "a websocket handshake needs `Sec-WebSocket-Version: 13`",
            ));
        }
    }
    let keys = headers.get_all(header::SEC_WEBSOCKET_KEY);
    let Ok(key) = keys.iter().exactly_one() else {
        return Err(Rejection::bad(
            "a websocket handshake needs one Sec-WebSocket-Key",
        ));
    };
    match LENIENT.decode(key) {
        Ok(nonce) if nonce.len() == 16 => Ok(derive_accept_key(key.as_bytes())),
        _ => Err(Rejection::bad(
            "the Sec-WebSocket-Key must be 16 bytes in base64",
        )),
    }
}

/// Whether a field of this name contains this token in its comma-separated list.
pub fn has_token(headers: &HeaderMap, name: &header::HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|found| found.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(changes: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let good = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        for (name, value) in good {
            headers.insert(name, value.parse().unwrap());
        }
        for (name, value) in changes {
            headers.remove(*name);
            if !value.is_empty() {
                headers.insert(*name, value.parse().unwrap());
            }
        }
        headers
    }

    fn status(method: Method, changes: &[(&'static str, &'static str)]) -> u16 {
        match expected_accept(&method, &headers(changes), false) {
            Ok(_) => 101,
            Err(rejection) => rejection.status.as_u16(),
        }
    }

    #[test]
    fn the_example_of_rfc_6455_gets_its_accept() {
        let accept = expected_accept(&Method::GET, &headers(&[]), false);
        assert_eq!(accept.as_deref(), Ok("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    }

    #[test]
    fn anything_but_a_whole_handshake_is_refused() {
        assert_eq!(status(Method::GET, &[]), 101);
        assert_eq!(status(Method::POST, &[]), 400);
        assert_eq!(status(Method::GET, &[("sec-websocket-version", "")]), 400);
        assert_eq!(status(Method::GET, &[("sec-websocket-version", "8")]), 426);
        assert_eq!(status(Method::GET, &[("sec-websocket-key", "")]), 400);
        assert_eq!(
            status(Method::GET, &[("sec-websocket-key", "c2hvcnQ=")]),
            400
        );
        assert_eq!(
            status(Method::GET, &[("sec-websocket-key", "not base64!")]),
            400
        );
        let body = expected_accept(&Method::GET, &headers(&[]), true);
        assert_eq!(
            body.map_err(|rejection| rejection.status),
            Err(StatusCode::BAD_REQUEST)
        );
    }

    #[test]
    fn a_key_with_stray_low_bits_is_one() {
        for key in ["dGhlIHNhbXBsZSBub25jZR==", "zzzzzzzzzzzzzzzzzzzzzz=="] {
            assert_eq!(status(Method::GET, &[("sec-websocket-key", key)]), 101);
        }
        for key in ["dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZQ="] {
            assert_eq!(status(Method::GET, &[("sec-websocket-key", key)]), 400);
        }
    }

    #[test]
    fn a_stray_upgrade_asks_for_nothing() {
        let asks =
            |version, connection| asked_upgrade(version, &headers(&[("connection", connection)]));
        assert_eq!(asks(Version::HTTP_11, "upgrade"), Upgrade::WebSocket);
        assert_eq!(asks(Version::HTTP_10, "upgrade"), Upgrade::Other);
        for connection in ["", "keep-alive", "close"] {
            assert_eq!(asks(Version::HTTP_11, connection), Upgrade::Other);
        }
    }

    #[test]
    fn websocket_is_found_among_other_upgrades_and_h2c_is_not_it() {
        assert_eq!(upgrade_of(&headers(&[("upgrade", "")])), Upgrade::None);
        assert_eq!(upgrade_of(&headers(&[("upgrade", "h2c")])), Upgrade::Other);
        assert_eq!(
            upgrade_of(&headers(&[("upgrade", "h2c, websocket")])),
            Upgrade::WebSocket
        );
    }
}
