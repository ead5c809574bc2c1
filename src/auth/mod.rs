//! Who may come in, and as whom: what a route demands of a request before a server is asked.
//!
//! All that the route names must let the request in, in this order:
//!
//! 1. [`access`]: the client's address, by `allow` and `deny`;
//! 2. [`jwt`]: a signed token.
//!
//! What was found out about who asks is a [`Caller`](crate::forward::Caller): templates, the
//! registry of sessions and the access log read it.

pub mod access;
pub mod jwt;

use http::HeaderValue;

pub use access::Access;
pub use jwt::Jwt;

use crate::http1::Rejection;

/// The `auth` of a route, with at least one method.
#[derive(Debug, Clone, PartialEq)]
pub struct Auth {
    pub jwt: Option<Jwt>,
}

/// Why a request may not come in, as a label of `prusik_auth_refused_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The client's address is not among those that may.
    Address,
    /// It has no token.
    Missing,
    /// Its token does not count.
    Invalid,
    /// Its token has expired.
    Expired,
    /// A claim of its token is not what the route requires.
    Claims,
    /// What is needed to decide is not there.
    Unavailable,
}

impl Reason {
    pub const ALL: [Self; 6] = [
        Self::Address,
        Self::Missing,
        Self::Invalid,
        Self::Expired,
        Self::Claims,
        Self::Unavailable,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Missing => "missing",
            Self::Invalid => "invalid",
            Self::Expired => "expired",
            Self::Claims => "claims",
            Self::Unavailable => "unavailable",
        }
    }
}

/// A request that may not come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    pub reason: Reason,
    pub rejection: Rejection,
    /// For an answer of 401 (RFC 9110 section 11.6.1).
    pub challenge: Option<HeaderValue>,
}
