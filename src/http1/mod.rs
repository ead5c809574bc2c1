//! What of a message is ambiguous or forbidden, so that it never reaches a server.
//!
//! Pure: bytes in, a verdict out. The listener asks before Pingora sees a byte, because Pingora's
//! parser mends what it reads (bare line feeds, spaces in a target, a `Content-Length` beside a
//! `Transfer-Encoding`) and what was mended can no longer be told from what was sound. The proxy
//! asks for what depends on routes.
//!
//! - [`head`]: a request's head, line by line, and the [`framing`] of its body;
//! - [`target`] and [`authority`]: what it asks for, and of whom;
//! - [`chunks`]: the framing of a chunked body;
//! - [`response`]: what a server answers.
//!
//! `docs/security.md` maps each known attack to its place here.

pub mod authority;
pub mod chunked;
pub mod framing;
pub mod head;
pub mod head_end;
pub mod response;
pub mod target;

use http::StatusCode;

/// Why a request goes no further. The reason never holds anything that the client sent.
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
fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| is_token_byte(*byte))
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Without optional whitespace (RFC 9110 section 5.6.3): spaces and tabs, and nothing else.
fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// What no line of a head may hold, besides the line's own end (RFC 9110 section 5.5).
fn is_control(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t') || byte == 0x7F
}
