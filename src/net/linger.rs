//! How a connection is closed whose peer still reads why: closed with bytes unread, it would be
//! reset, and the last word with it.

use std::time::Duration;

/// How long the peer may go on sending.
pub const LINGER: Duration = Duration::from_secs(1);

/// And what it may send in that time: who floods us is cut.
pub const LINGER_BYTES: u64 = 256 * 1024;

/// Those who linger at one time; others are cut. Their descriptors are set apart.
pub const LINGERING_MAX: usize = 32;
