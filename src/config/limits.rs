//! What a listener allows.

use std::time::Duration;

use crate::http1::head::HeadLimits;
use crate::limits::Bounds;

/// Whether connections begin with a PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceptProxy {
    Off,
    Required,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerLimits {
    /// Of connections.
    pub bounds: Bounds,
    /// For a whole head; for a new connection from the moment that it is accepted.
    pub header_timeout: Duration,
    pub head: HeadLimits,
    /// Between two requests.
    pub idle: Duration,
    /// How long a client may take nothing of what waits for it.
    pub stall: Duration,
    /// Requests and sessions of one HTTP/2 connection at a time.
    pub streams: u32,
    /// `None`: any size.
    pub body_size: Option<u64>,
    /// Bytes a second that a client must send of a body while it is waited for.
    pub body_rate: Option<u64>,
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self {
            bounds: Bounds::default(),
            header_timeout: Duration::from_secs(10),
            head: HeadLimits::default(),
            idle: Duration::from_secs(75),
            stall: Duration::from_secs(60),
            streams: 256,
            body_size: None,
            body_rate: None,
        }
    }
}
