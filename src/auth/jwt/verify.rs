//! Whether a token lets a request in: its size, its signature, its claims, in this order.

use std::time::SystemTime;

use http::{HeaderValue, StatusCode};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{decode, decode_header};
use serde_json::{Map, Value};

use super::claims::{Claims, Rules};
use super::keys::KeySet;
use crate::auth::{Denied, Reason};
use crate::http1::Rejection;

/// Longer tokens are not looked at. Those of people with hundreds of groups have some 8 KiB.
pub const LONGEST: usize = 16 * 1024;

/// What a token says that may come in.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    pub claims: Map<String, Value>,
    /// When it stops being valid, the leeway included. `None`: never.
    pub expires: Option<SystemTime>,
}

/// Why there is no way in. Nothing of a token is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    Missing,
    Several,
    TooLong,
    Unreadable,
    /// No key has the id that the token names. Perhaps it is a new one.
    UnknownKey,
    Signature,
    /// `exp` or `nbf` is no moment.
    Dates,
    Expired,
    NotYet,
    Issuer,
    Audience,
    /// A claim is not what the route requires.
    Claims,
    /// There are no keys yet.
    NoKeys,
}

/// Everything but [`Refused::Claims`] is decided by the token alone, and is refused by 401.
pub fn verify(
    token: &[u8],
    keys: &KeySet,
    rules: &Rules,
    now: SystemTime,
) -> Result<Verified, Refused> {
    if token.len() > LONGEST {
        return Err(Refused::TooLong);
    }
    let header = decode_header(token).map_err(|_| Refused::Unreadable)?;
    for (key, validation) in keys.candidates(header.alg, header.kid.as_deref()) {
        match decode::<Claims>(token, key, validation) {
            Ok(token) => {
                let Claims(claims) = token.claims;
                let expires = rules.check(&claims, now)?;
                return Ok(Verified { claims, expires });
            }
            // Another key may have made it.
            Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => {}
            Err(_) => return Err(Refused::Unreadable),
        }
    }
    match header.kid {
        Some(id) if !keys.has(&id) => Err(Refused::UnknownKey),
        _ => Err(Refused::Signature),
    }
}

impl Refused {
    fn reason(self) -> Reason {
        match self {
            Self::Missing => Reason::Missing,
            Self::Expired => Reason::Expired,
            Self::Claims => Reason::Claims,
            Self::NoKeys => Reason::Unavailable,
            Self::Several
            | Self::TooLong
            | Self::Unreadable
            | Self::UnknownKey
            | Self::Signature
            | Self::Dates
            | Self::NotYet
            | Self::Issuer
            | Self::Audience => Reason::Invalid,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Missing => "a token is needed",
            Self::Several => "there is more than one token",
            Self::TooLong => "the token is too long",
            Self::Unreadable => "the token cannot be read",
            Self::UnknownKey => "the token is of a key that is not known",
            Self::Signature => "the token is of none of the keys",
            Self::Dates => "the token has dates that are none",
            Self::Expired => "the token has expired",
            Self::NotYet => "the token is not valid yet",
            Self::Issuer => "the token is of another issuer",
            Self::Audience => "the token is for somebody else",
            Self::Claims => "the token does not allow this",
            Self::NoKeys => "the keys for tokens are not there yet",
        }
    }
}

impl From<Refused> for Denied {
    fn from(refused: Refused) -> Self {
        let status = match refused {
            Refused::NoKeys => StatusCode::SERVICE_UNAVAILABLE,
            Refused::Claims => StatusCode::FORBIDDEN,
            _ => StatusCode::UNAUTHORIZED,
        };
        // RFC 6750 section 3.
        let challenge = match (status, refused) {
            (StatusCode::UNAUTHORIZED, Refused::Missing) => Some("Bearer"),
            (StatusCode::UNAUTHORIZED, _) => Some("Bearer error=\"invalid_token\""),
            _ => None,
        };
        Denied {
            reason: refused.reason(),
            rejection: Rejection::new(status, refused.words()),
            challenge: challenge.map(HeaderValue::from_static),
        }
    }
}

#[cfg(test)]
mod tests;
