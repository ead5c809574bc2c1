//! How fast a client sends a request body that we wait for.

use std::time::Duration;

use tokio::time::Instant;

/// The time before a rate is demanded: a connection may need a few retransmissions to reach its
/// speed.
const GRACE: Duration = Duration::from_secs(5);

/// Deadlines are set in milliseconds, so a shorter wait than this could be lost.
const TICK: Duration = Duration::from_millis(2);

/// Counts only the time that we have waited for the client, not the time that its server was slow.
#[derive(Debug, Default)]
pub struct BodyRate {
    since: Option<Instant>,
    waited: Duration,
    come: u64,
    /// The client waits for a 100 (RFC 9110 section 10.1.1), so its time begins with its first
    /// byte.
    expects: bool,
}

impl BodyRate {
    pub fn new(expects: bool) -> Self {
        Self {
            expects,
            ..Self::default()
        }
    }

    /// Called when no byte is there. Returns how long the client may send nothing at `rate` bytes a
    /// second. `None`: it is too slow.
    pub fn remaining(&mut self, rate: u64) -> Option<Duration> {
        if self.expects && self.come == 0 {
            return Some(GRACE);
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        let earned = Duration::from_secs_f64(self.come as f64 / rate as f64);
        let remaining = (GRACE + earned).saturating_sub(self.waited + since.elapsed());
        (remaining > TICK).then_some(remaining)
    }

    /// Called when this many bytes have come.
    pub fn go_on(&mut self, bytes: usize) {
        self.come += bytes as u64;
        if let Some(since) = self.since.take() {
            self.waited += since.elapsed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_has_the_grace_and_what_it_has_earned() {
        let mut body_rate = BodyRate::default();
        assert_eq!(body_rate.remaining(100), Some(GRACE));
        tokio::time::advance(Duration::from_secs(4)).await;
        body_rate.go_on(200);
        // Nobody waits for it now.
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(body_rate.remaining(100), Some(Duration::from_secs(3)));
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(body_rate.remaining(100), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_leave_to_send_is_not_slow() {
        let mut body_rate = BodyRate::new(true);
        assert_eq!(body_rate.remaining(100), Some(GRACE));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(body_rate.remaining(100), Some(GRACE));
        body_rate.go_on(1);
        assert!(body_rate.remaining(100).is_some());
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(body_rate.remaining(100), None);
    }
}
