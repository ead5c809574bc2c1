//! When a peer that vanished without notice is given up.

use std::time::Duration;

use pingora::protocols::l4::ext::TcpKeepalive;

/// A peer that vanished is noticed after 30 s of silence and three probes, or when data that was
/// sent to it stays unacknowledged for a minute.
pub const TCP_KEEPALIVE: TcpKeepalive = TcpKeepalive {
    idle: Duration::from_secs(30),
    interval: Duration::from_secs(10),
    count: 3,
    user_timeout: Duration::from_secs(60),
};

/// The kernel stores this time as milliseconds in 31 bits.
const USER_TIMEOUT_MAX: Duration = Duration::from_millis(i32::MAX as u64);

/// The same for a peer that may take nothing for `stall`.
pub fn keepalive_with(stall: Duration) -> TcpKeepalive {
    TcpKeepalive {
        user_timeout: stall.min(USER_TIMEOUT_MAX),
        ..TCP_KEEPALIVE
    }
}
