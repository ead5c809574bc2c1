//! Who may come in, and as whom: what a route demands of a request before a server is asked.
//!
//! All that the route names must let the request in, in this order:
//!
//! 1. [`access`]: the client's address, by `allow` and `deny`.
//!
//! What was found out about who asks is a [`Caller`](crate::forward::Caller): templates, the
//! registry of sessions and the access log read it.

pub mod access;

use http::HeaderValue;

pub use access::Access;

use crate::http1::Rejection;

/// Why a request may not come in, as a label of `prusik_auth_refused_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The client's address is not among those that may.
    Address,
}

impl Reason {
    pub const ALL: [Self; 1] = [Self::Address];

    pub fn name(self) -> &'static str {
        match self {
            Self::Address => "address",
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
