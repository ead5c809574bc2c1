//! Decides how long a request's body is, or rejects the request (RFC 9112 section 6.3).

use http::StatusCode;

use crate::http1::{Rejection, is_token, trim};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Framing {
    /// The request has no body.
    #[default]
    None,
    Length(u64),
    Chunked,
}

impl Framing {
    /// The length as far as the head tells.
    pub fn length(self) -> u64 {
        match self {
            Self::Length(length) => length,
            Self::None | Self::Chunked => 0,
        }
    }
}

/// Nineteen digits could overflow, and nobody sends an exabyte.
const LENGTH_DIGITS: usize = 18;

/// Reads a `Content-Length`: digits, and no leading zero that a reader could take for octal.
pub fn length(value: &[u8]) -> Result<u64, Rejection> {
    let is_number = match value {
        [b'0'] => true,
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if !is_number {
        return Err(Rejection::bad("the Content-Length is not a decimal number"));
    }
    if value.len() > LENGTH_DIGITS {
        return Err(Rejection::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the Content-Length is beyond what can be sent",
        ));
    }
    let digits = value.iter().map(|digit| u64::from(digit - b'0'));
    Ok(digits.fold(0, |number, digit| number * 10 + digit))
}

/// Accepts a `Transfer-Encoding` only if it is `chunked` alone. A list may end in `chunked` too,
/// but a reader that does not know one of its codings reads another body (RFC 9112 section 6.1).
pub fn is_chunked(value: &[u8]) -> Result<(), Rejection> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let codings = || value.split(|byte| *byte == b',').map(trim);
    let is_chunked = |coding: &&[u8]| coding.eq_ignore_ascii_case(b"chunked");
    if !codings().all(is_token) {
        return Err(Rejection::bad(
            "the Transfer-Encoding is not a list of codings",
        ));
    }
    match codings().filter(is_chunked).count() {
        0 => {}
        1 if codings().next_back().as_ref().is_some_and(is_chunked) => {}
        1 => return Err(Rejection::bad("chunked is not the last transfer coding")),
        _ => return Err(Rejection::bad("the body is chunked more than once")),
    }
    Err(Rejection::new(
        StatusCode::NOT_IMPLEMENTED,
        "of the transfer codings only chunked is known",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_digits_and_nothing_else() {
        assert_eq!(length(b"0"), Ok(0));
        assert_eq!(length(b"1234567890"), Ok(1_234_567_890));
        for value in [
            "", "+1", "-1", "1 ", "1,1", "0x10", "1e3", "01", "00", "1.0", "١", "1_000",
        ] {
            assert_eq!(
                length(value.as_bytes()).map_err(|rejection| rejection.status),
                Err(StatusCode::BAD_REQUEST),
                "{value:?}"
            );
        }
        assert_eq!(
            length(b"18446744073709551616").map_err(|rejection| rejection.status),
            Err(StatusCode::PAYLOAD_TOO_LARGE)
        );
    }

    #[test]
    fn only_a_single_chunked_is_chunked() {
        assert_eq!(is_chunked(b"Chunked"), Ok(()));
        for (value, status) in [
            ("", 400),
            ("chunked,", 400),
            ("chunked, identity", 400),
            ("chunked, chunked", 400),
            ("chunked;a=b", 400),
            ("\"chunked\"", 400),
            ("chunked chunked", 400),
            ("\u{b}chunked", 400),
            ("gzip, chunked", 501),
            ("identity", 501),
            ("xchunked", 501),
        ] {
            assert_eq!(
                is_chunked(value.as_bytes()).map_err(|rejection| rejection.status.as_u16()),
                Err(status),
                "{value:?}"
            );
        }
    }
}
