//! How a connection is closed whose peer must still read our last answer. If it were closed with
//! unread bytes, it would be reset, and the answer could be lost.

use std::time::Duration;

/// How long the peer may go on sending.
pub const LINGER: Duration = Duration::from_secs(1);

/// How much it may send in that time. A peer that sends more is cut.
pub const LINGER_BYTES: u64 = 256 * 1024;

/// How many connections linger at a time; further ones are cut. Their descriptors are reserved.
pub const LINGERING_MAX: usize = 32;
