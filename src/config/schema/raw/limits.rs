//! What clients of a listener may take, and the PROXY protocol.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::schema::units::{OptionalSize, Period, Size};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AcceptProxy {
    Off,
    /// Version 1 or 2, from `trusted_proxies` and unix sockets alone: others are closed.
    Required,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SendProxy {
    Off,
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// A reload takes in a change for connections that are there, too.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Connections, sessions among them: over it a client gets 503, by TLS a closed connection. One
    /// of HTTP/2 counts as many as it has requests and sessions under way, and as one at least:
    /// over it a request gets 503. 0: no limit but the process's descriptors.
    #[schemars(extend("default" = 0))]
    pub connections: Option<usize>,
    /// The same for each client address, an IPv6 one with its whole /64: over it 429. Trusted
    /// proxies are exempt. 0: no limit.
    #[schemars(extend("default" = 0))]
    pub connections_per_client: Option<usize>,
    /// Time for a whole request head, for a new connection with its TLS handshake and PROXY header:
    /// over it 408. At most 60s.
    #[schemars(extend("default" = "10s"))]
    pub header_timeout: Option<Period>,
    /// Size of a request head, 1KiB to 512KiB: over it 431.
    #[schemars(extend("default" = "64KiB"))]
    pub header_size: Option<Size>,
    /// Fields of a request head: over it 431.
    #[schemars(extend("default" = 256, "minimum" = 1, "maximum" = 256))]
    pub header_count: Option<u64>,
    /// Time that a connection may stand between two requests.
    #[schemars(extend("default" = "75s"))]
    pub idle: Option<Period>,
    /// How long a client may take nothing of what waits for it: then its exchange or its session
    /// ends. Within an exchange the route's `timeouts.idle` holds too. A reload takes in a change
    /// for new sessions.
    #[schemars(extend("default" = "60s"))]
    pub stall: Option<Period>,
    /// Requests and sessions of one HTTP/2 connection at a time. One more is refused, and may be
    /// asked again (REFUSED_STREAM). A reload takes in a change for new connections. At most 16384.
    #[schemars(extend("default" = 256, "minimum" = 1, "maximum" = 16_384))]
    pub streams: Option<u32>,
    /// Size of a request body: over it 413. 0: no limit.
    #[schemars(extend("default" = 0, "examples" = ["10MiB"]))]
    pub body_size: Option<OptionalSize>,
    /// What a client must send of a body in each second that it is waited for, after five of
    /// grace: under it 408. 0: no limit.
    #[schemars(extend("default" = 0, "examples" = ["500B"]))]
    pub body_rate: Option<OptionalSize>,
}
