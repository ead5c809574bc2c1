//! Why a token, or the lack of one, lets nobody in; and the answer to that.

use http::{HeaderValue, StatusCode};

use crate::auth::{Denied, Reason};
use crate::http1::Rejection;

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
mod tests {
    use super::*;

    #[test]
    fn no_refusal_lets_in() {
        for refused in [
            Refused::Missing,
            Refused::Several,
            Refused::TooLong,
            Refused::Unreadable,
            Refused::UnknownKey,
            Refused::Signature,
            Refused::Dates,
            Refused::Expired,
            Refused::NotYet,
            Refused::Issuer,
            Refused::Audience,
            Refused::Claims,
            Refused::NoKeys,
        ] {
            let denied = Denied::from(refused);
            let status = denied.rejection.status.as_u16();
            assert_eq!(denied.challenge.is_some(), status == 401, "{refused:?}");
            assert!(matches!(status, 401 | 403 | 503), "{refused:?}");
        }
    }
}
