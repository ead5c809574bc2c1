//! The limits of a listener.

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
    /// The limits of its connections.
    pub bounds: Bounds,
    /// The time for a whole head. A new connection's begins when it is accepted.
    pub header_timeout: Duration,
    pub head: HeadLimits,
    /// The time between two requests.
    pub idle: Duration,
    /// How long a client may take nothing of the bytes that wait for it.
    pub stall: Duration,
    /// How many requests and sessions one HTTP/2 connection may have at a time.
    pub streams: u32,
    /// `None`: any size.
    pub body_size: Option<u64>,
    /// How many bytes a second a client must send of a body while we wait for it.
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
