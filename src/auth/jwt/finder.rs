//! Where a request has its token.

use std::borrow::Cow;
use std::{fmt, iter};

use http::{HeaderMap, HeaderValue, header};

use super::query;
use super::subprotocol::Offer;
use super::verify::LONGEST;

/// One place in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finder {
    /// `Authorization: Bearer TOKEN`.
    Bearer,
    Cookie(String),
    /// An argument of the query.
    Query(String),
    /// `Sec-WebSocket-Protocol: bearer, TOKEN`.
    Subprotocol,
}

/// The places in the order in which they are looked at. The first that has a token decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finders(pub Vec<Finder>);

/// What was found.
#[derive(Clone, PartialEq, Eq, Default)]
pub enum Presented {
    #[default]
    Nothing,
    /// The place that decides has several tokens, of which a server could read another.
    Several,
    /// The token is longer than any that is looked at.
    TooLong,
    Token(Box<[u8]>),
}

/// Hides the token, because `Debug` output goes to logs.
impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "Nothing",
            Self::Several => "Several",
            Self::TooLong => "TooLong",
            Self::Token(_) => "Token(…)",
        })
    }
}

impl Finders {
    /// `target`: path and query, as sent.
    pub fn find(&self, headers: &HeaderMap, target: &[u8]) -> Presented {
        let mut found = self.0.iter().map(|finder| finder.find(headers, target));
        let decides = found.find(|found| *found != Presented::Nothing);
        decides.unwrap_or_default()
    }

    /// The arguments that are never shown.
    pub fn arguments(&self) -> impl Iterator<Item = &str> + Clone {
        self.0.iter().filter_map(|finder| match finder {
            Finder::Query(name) => Some(name.as_str()),
            _ => None,
        })
    }

    pub fn reads_subprotocols(&self) -> bool {
        self.0.contains(&Finder::Subprotocol)
    }
}

impl Finder {
    fn find(&self, headers: &HeaderMap, target: &[u8]) -> Presented {
        match self {
            Self::Bearer => bearer(headers),
            Self::Cookie(name) => same(cookies(headers, name)),
            Self::Query(name) => {
                let query = memchr::memchr(b'?', target).map(|at| &target[at + 1..]);
                same(query::values(query.unwrap_or_default(), name))
            }
            Self::Subprotocol => {
                let tokens = Offer::read(headers).tokens;
                same(tokens.into_iter().map(Cow::Borrowed))
            }
        }
    }
}

/// Several fields would be several tokens: this field is no list (RFC 9110 section 11.6.2).
fn bearer(headers: &HeaderMap) -> Presented {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else {
        return match headers.contains_key(header::AUTHORIZATION) {
            true => Presented::Several,
            false => Presented::Nothing,
        };
    };
    let field = field.as_bytes();
    let scheme = field.get(..BEARER.len()).unwrap_or_default();
    match field.get(BEARER.len()) {
        Some(b' ') if scheme.eq_ignore_ascii_case(BEARER) => {
            let token = field[BEARER.len()..].trim_ascii();
            same(iter::once(Cow::Borrowed(token)))
        }
        _ => Presented::Nothing,
    }
}

const BEARER: &[u8] = b"bearer";

fn cookies<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = Cow<'a, [u8]>> {
    let fields = headers.get_all(header::COOKIE).iter();
    let pairs = fields
        .map(HeaderValue::as_bytes)
        .flat_map(|field| field.split(|byte| *byte == b';'));
    pairs.filter_map(move |pair| {
        let at = memchr::memchr(b'=', pair)?;
        let (key, value) = (pair[..at].trim_ascii(), pair[at + 1..].trim_ascii());
        let value = match value {
            [b'"', value @ .., b'"'] => value,
            value => value,
        };
        (key == name.as_bytes()).then_some(Cow::Borrowed(value))
    })
}

/// A place may have the same token more than once. An empty value is none.
fn same<'a>(found: impl Iterator<Item = Cow<'a, [u8]>>) -> Presented {
    let mut found = found.filter(|token| !token.is_empty());
    let Some(token) = found.next() else {
        return Presented::Nothing;
    };
    if found.any(|other| other != token) {
        return Presented::Several;
    }
    match token.len() {
        length if length > LONGEST => Presented::TooLong,
        _ => Presented::Token(token.into()),
    }
}

#[cfg(test)]
mod tests;
