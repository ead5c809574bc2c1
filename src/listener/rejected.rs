//! A request that goes no further: what the proxy is told of it, to answer and to log it.

use crate::http1::Rejection;

/// A request that goes no further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedRequest {
    pub rejection: Rejection,
    /// What the log gets of a head that is not sound, so that Pingora has a head of ours instead.
    /// `None`: the head was sound and Pingora has it, so that the request may have a route.
    pub unsound: Option<Unsound>,
}

/// What a head that is not sound was, as far as that can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsound {
    pub method: String,
    pub target: String,
}
