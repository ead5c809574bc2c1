//! Checks the head of a request (RFC 9112 sections 2 to 6) before any parser corrects it.
//!
//! Each line is checked once, when it is complete. So bytes that no request begins with are refused
//! at once, without waiting for the blank line.

use std::ops::Range;

use http::StatusCode;

use crate::http1::authority;
use crate::http1::framing::{self, Framing};
use crate::http1::target;
use crate::http1::{Rejection, is_control, is_token, trim};

/// A request line may not be longer, because Pingora writes some bytes as three, and its URI type
/// holds at most 64 KiB.
const LINE_MAX: usize = 16 * 1024;

/// The size of the table in Pingora's parser.
pub const FIELDS_MAX: usize = 256;

/// The limits of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes in total.
    pub size: usize,
    /// At most [`FIELDS_MAX`].
    pub fields: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self {
            size: 64 * 1024,
            fields: FIELDS_MAX,
        }
    }
}

/// A head that was found sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidHead {
    /// The index after its blank line.
    pub end: usize,
    pub framing: Framing,
    /// The client waits for a 100 before it sends the body.
    pub expects: bool,
    /// The range of the target, if it is [odd](target::is_odd) or writes the host differently.
    pub odd: Option<Range<usize>>,
    /// The ranges of the host in the target and in `Host`, if they differ. Pingora compares the
    /// bytes.
    pub respelt: Option<Respelt>,
}

/// The ranges of the host in the target and in `Host`.
pub type Respelt = (Range<usize>, Range<usize>);

/// Checks one head.
#[derive(Debug, Default)]
pub struct HeadCheck {
    limits: HeadLimits,
    /// Where the incomplete line begins.
    line: usize,
    /// Up to where the end of the line was searched.
    looked: usize,
    /// `None` before the request line.
    version: Option<Version>,
    fields: usize,
    /// `None`: the target has no host.
    absolute: Option<Absolute>,
    host: Option<Range<usize>>,
    odd: Option<Range<usize>>,
    length: Option<u64>,
    chunked: bool,
    expects: bool,
    blank_before: bool,
}

/// A target in absolute form.
#[derive(Debug)]
struct Absolute {
    range: Range<usize>,
    authority: Range<usize>,
    /// The default port of its scheme.
    port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
}

impl HeadCheck {
    pub fn new(limits: HeadLimits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Whether it has seen no bytes yet.
    pub fn is_new(&self) -> bool {
        self.looked == 0
    }

    /// `bytes`: everything that has come since the first byte of the head. To be called again with
    /// more bytes until it returns a head or a rejection.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<ValidHead>, Rejection> {
        while let Some(found) = memchr::memchr(b'\n', &bytes[self.looked..]) {
            let line_feed = self.looked + found;
            let line = self.line..line_feed.saturating_sub(1).max(self.line);
            if line_feed >= self.limits.size {
                return Err(TOO_LARGE);
            }
            if line_feed == self.line || bytes[line.end] != b'\r' {
                return Err(Rejection::bad(
                    "a line of the head ends without a carriage return",
                ));
            }
            self.line = line_feed + 1;
            self.looked = self.line;
            match (self.version, line.is_empty()) {
                // RFC 9112 section 2.2: one empty line may remain from the request before.
                (None, true) if !self.blank_before => self.blank_before = true,
                (None, true) => return Err(Rejection::bad("blank lines stand before the request")),
                (None, false) => self.request_line(bytes, line)?,
                (Some(version), true) => return self.finish(version, bytes).map(Some),
                (Some(_), false) => self.field(bytes, line)?,
            }
        }
        let rest = &bytes[self.looked..];
        if rest.iter().any(|byte| is_control(*byte) && *byte != b'\r') {
            return Err(CONTROL);
        }
        self.looked = bytes.len();
        if self.version.is_none() && bytes.len() > LINE_MAX {
            return Err(TOO_LONG);
        }
        if bytes.len() > self.limits.size {
            return Err(TOO_LARGE);
        }
        Ok(None)
    }

    fn request_line(&mut self, bytes: &[u8], line: Range<usize>) -> Result<(), Rejection> {
        let text = &bytes[line.clone()];
        if text.len() > LINE_MAX {
            return Err(TOO_LONG);
        }
        if text.iter().any(|byte| is_control(*byte)) {
            return Err(CONTROL);
        }
        let (method, asked, version) = parts(text).ok_or(Rejection::bad(
            "the request line is not a method, a target and a version",
        ))?;
        if method.is_empty()
            || !method
                .iter()
                .all(|byte| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_'))
        {
            return Err(Rejection::bad("the method is not one in capital letters"));
        }
        self.version = Some(match version {
            b"HTTP/1.1" => Version::Http11,
            b"HTTP/1.0" => Version::Http10,
            [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
                if major.is_ascii_digit() && minor.is_ascii_digit() =>
            {
                return Err(Rejection::new(
                    StatusCode::HTTP_VERSION_NOT_SUPPORTED,
                    "only HTTP/1.1 and HTTP/1.0 are spoken here",
                ));
            }
            _ => return Err(Rejection::bad("the request line names no version of HTTP")),
        });
        if matches!(method, b"CONNECT" | b"TRACE" | b"TRACK") {
            return Err(Rejection::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this method is not for a gateway",
            ));
        }
        let start = line.start + method.len() + 1;
        if target::is_odd(asked) {
            self.odd = Some(start..start + asked.len());
        }
        if let Some(authority) = target::authority_of(method, asked)? {
            self.absolute = Some(Absolute {
                range: start..start + asked.len(),
                authority: start + authority.start..start + authority.end,
                port: target::default_port(asked),
            });
        }
        Ok(())
    }

    fn field(&mut self, bytes: &[u8], line: Range<usize>) -> Result<(), Rejection> {
        let text = &bytes[line.clone()];
        if matches!(text, [b' ' | b'\t', ..]) {
            return Err(Rejection::bad("a field is folded over lines"));
        }
        self.fields += 1;
        if self.fields > self.limits.fields {
            return Err(TOO_LARGE);
        }
        let (name, value) = text
            .iter()
            .position(|byte| *byte == b':')
            .map(|colon| (&text[..colon], &text[colon + 1..]))
            .ok_or(Rejection::bad("a line of the head is no field"))?;
        if !is_token(name) {
            return Err(Rejection::bad("the name of a field is not a token"));
        }
        if value.iter().any(|byte| is_control(*byte)) {
            return Err(CONTROL);
        }
        let is = |wanted: &[u8]| name.eq_ignore_ascii_case(wanted);
        // The length is compared first: hardly any field is one of these.
        match name.len() {
            4 if is(b"host") => self.host(bytes, line.start + name.len() + 1, trim(value)),
            6 if is(b"expect") => self.expect(trim(value)),
            14 if is(b"content-length") => {
                if self.length.is_some() {
                    return Err(Rejection::bad("there is more than one Content-Length"));
                }
                self.length = Some(framing::length(trim(value))?);
                Ok(())
            }
            17 if is(b"transfer-encoding") => {
                if self.chunked {
                    return Err(Rejection::bad("there is more than one Transfer-Encoding"));
                }
                self.chunked = true;
                framing::is_chunked(trim(value))
            }
            _ => Ok(()),
        }
    }

    /// `from`: where the value begins before it is trimmed.
    fn host(&mut self, bytes: &[u8], from: usize, value: &[u8]) -> Result<(), Rejection> {
        if self.host.is_some() {
            return Err(Rejection::bad("there is more than one Host"));
        }
        if !authority::is_sound(value) {
            return Err(Rejection::bad(
                "the Host is not a name or address, and perhaps a port",
            ));
        }
        let blanks = bytes[from..]
            .iter()
            .take_while(|byte| matches!(byte, b' ' | b'\t'));
        let start = from + blanks.count();
        self.host = Some(start..start + value.len());
        Ok(())
    }

    /// RFC 9110 section 10.1.1 defines one expectation. With any other, one side could wait for a
    /// body that the other has already sent.
    fn expect(&mut self, value: &[u8]) -> Result<(), Rejection> {
        if self.expects || !value.eq_ignore_ascii_case(b"100-continue") {
            return Err(Rejection::new(
                StatusCode::EXPECTATION_FAILED,
                "the only expectation is one 100-continue",
            ));
        }
        self.expects = true;
        Ok(())
    }

    fn finish(&mut self, version: Version, bytes: &[u8]) -> Result<ValidHead, Rejection> {
        if self.host.is_none() && version == Version::Http11 {
            return Err(Rejection::bad("there is no Host"));
        }
        let respelt = self.compare_hosts(bytes)?;
        let framing = match (self.chunked, self.length) {
            (true, Some(_)) => {
                return Err(Rejection::bad(
                    "there are both a Transfer-Encoding and a Content-Length",
                ));
            }
            (true, None) if version == Version::Http10 => {
                return Err(Rejection::bad("HTTP/1.0 has no Transfer-Encoding"));
            }
            (true, None) => Framing::Chunked,
            (false, Some(0) | None) => Framing::None,
            (false, Some(length)) => Framing::Length(length),
        };
        Ok(ValidHead {
            end: self.line,
            framing,
            expects: self.expects,
            odd: self.odd.take(),
            respelt,
        })
    }

    /// The ranges of target and `Host`, if they name the same host in two notations.
    fn compare_hosts(&mut self, bytes: &[u8]) -> Result<Option<Respelt>, Rejection> {
        let (Some(host), Some(absolute)) = (&self.host, &self.absolute) else {
            return Ok(None);
        };
        let (host, authority) = (host.clone(), absolute.authority.clone());
        let (one, other) = (&bytes[host.clone()], &bytes[authority.clone()]);
        if one == other {
            return Ok(None);
        }
        if !authority::is_same(one, other, absolute.port) {
            return Err(Rejection::bad(
                "the Host is not the one that the target names",
            ));
        }
        self.odd = Some(absolute.range.clone());
        Ok(Some((authority, host)))
    }
}

const TOO_LARGE: Rejection = Rejection::new(
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    "the head is larger, or has more fields, than this listener takes",
);

const TOO_LONG: Rejection = Rejection::new(
    StatusCode::URI_TOO_LONG,
    "the request line is longer than 16 KiB",
);

const CONTROL: Rejection = Rejection::bad("the head holds a control byte");

/// Splits at exactly two single spaces (RFC 9112 section 3).
fn parts(line: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let mut parts = line.split(|byte| *byte == b' ');
    let found = (parts.next()?, parts.next()?, parts.next()?);
    parts.next().is_none().then_some(found)
}

/// A sound head without the fields that announce a body.
pub fn without_body(head: &[u8]) -> Vec<u8> {
    let announces = |line: &[u8]| {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        [&b"content-length"[..], b"transfer-encoding", b"expect"]
            .iter()
            .any(|known| name.eq_ignore_ascii_case(known))
    };
    // All lines of a sound head end in CRLF.
    let lines = head.split_inclusive(|byte| *byte == b'\n');
    lines
        .filter(|line| !announces(line))
        .flatten()
        .copied()
        .collect()
}

/// Method and target of a refused head, for the log, as far as they are there.
pub fn asked(head: &[u8]) -> (&[u8], &[u8]) {
    let line = head
        .split(|byte| matches!(byte, b'\r' | b'\n'))
        .find(|line| !line.is_empty());
    let mut parts = line.unwrap_or_default().split(|byte| *byte == b' ');
    (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests;
