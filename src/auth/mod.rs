//! Who may come in, and as whom: what a route demands of a request before anything answers it.
//!
//! All that the route names must let the request in, in this order:
//!
//! 1. [`access`]: the client's address, by `allow` and `deny`;
//! 2. [`basic`]: a name and a password, from a file;
//! 3. [`jwt`]: a signed token;
//! 4. [`forward`]: another server, which is asked about each request.
//!
//! What was found out about who asks is a [`Caller`](crate::forward::Caller): templates, the
//! registry of sessions and the access log read it.

pub mod access;
pub mod basic;
pub mod endpoint;
pub mod forward;
pub mod jwt;

use std::sync::Arc;

use http::HeaderValue;

pub use access::Access;
pub use basic::Basic;
pub use forward::Forward;
pub use jwt::Jwt;

use crate::http1::Rejection;

/// The `auth` of a route, with at least one method.
#[derive(Debug, Clone, PartialEq)]
pub struct Auth {
    pub basic: Option<Basic>,
    pub jwt: Option<Jwt>,
    pub forward: Option<Arc<Forward>>,
}

impl Auth {
    /// Whether a request that is let in has a name, without a word of the operator on where it is.
    pub fn names_users(&self) -> bool {
        self.basic.is_some() || self.jwt.is_some()
    }

    /// The same for the next configuration: what is unchanged goes on with the connections and
    /// counts that it has.
    #[must_use]
    pub fn after(&self, before: &Self) -> Self {
        let mut next = self.clone();
        if self.forward == before.forward {
            next.forward.clone_from(&before.forward);
        }
        next
    }
}

/// Why a request may not come in, as a label of `prusik_auth_refused_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The client's address is not among those that may.
    Address,
    /// It shows nothing by which it could be known.
    Missing,
    /// What it shows does not count.
    Invalid,
    /// Its token has expired.
    Expired,
    /// A claim of its token is not what the route requires.
    Claims,
    /// The auth server has not let it in.
    Denied,
    /// What is needed to decide is not there.
    Unavailable,
}

impl Reason {
    pub const ALL: [Self; 7] = [
        Self::Address,
        Self::Missing,
        Self::Invalid,
        Self::Expired,
        Self::Claims,
        Self::Denied,
        Self::Unavailable,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Missing => "missing",
            Self::Invalid => "invalid",
            Self::Expired => "expired",
            Self::Claims => "claims",
            Self::Denied => "denied",
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
