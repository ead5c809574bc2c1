//! Finds what is ambiguous or forbidden in a message, so that it never reaches a server.
//!
//! Pure: bytes in, a verdict out. The listener checks before Pingora sees a byte, because Pingora's
//! parser corrects some errors (bare line feeds, spaces in a target, a `Content-Length` beside a
//! `Transfer-Encoding`), and after that nobody can tell that they were there. The proxy checks what
//! depends on routes.
//!
//! - [`head`]: a request's head, line by line, and the [`framing`] of its body;
//! - [`target`] and [`authority`]: what the request asks for, and from which host;
//! - [`chunked`]: the framing of a chunked body; [`body`]: its content;
//! - [`response`]: the answer of a server.
//!
//! `docs/security.md` maps each known attack to the place here that stops it.

pub mod authority;
pub mod body;
pub mod chunked;
pub mod framing;
pub mod head;
pub mod head_end;
pub mod response;
pub mod target;

use http::StatusCode;

/// Why a request is refused. The reason never contains anything that the client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejection {
    pub status: StatusCode,
    pub reason: &'static str,
}

impl Rejection {
    pub const fn new(status: StatusCode, reason: &'static str) -> Self {
        Self { status, reason }
    }

    pub const fn bad(reason: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason)
    }
}

/// RFC 9110 section 5.6.2.
pub fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| is_token_byte(*byte))
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Removes optional white space (RFC 9110 section 5.6.3): only spaces and tabs.
fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// Bytes that a line of a head may not contain, except at its end (RFC 9110 section 5.5).
fn is_control(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t') || byte == 0x7F
}
