//! A request that goes no further: what the proxy is told of it, to answer and to log it.

use crate::http1::Rejection;

/// A request that goes no further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedRequest {
    pub rejection: Rejection,
    /// What the log gets if the head was not sound, because Pingora then has a head of ours
    /// instead. `None`: the head was sound and Pingora has it, so the request may have a route.
    pub unsound: Option<Unsound>,
}

/// The parts of a head that is not sound, as far as they could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsound {
    pub method: String,
    pub target: String,
}
