//! How many messages a client may send.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

/// A bucket that holds as many messages as a second brings. Only the moment is kept at which it is
/// full again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageRate {
    per_second: NonZeroU32,
    full_at: Instant,
}

impl MessageRate {
    /// A whole burst may come.
    pub fn new(per_second: NonZeroU32, now: Instant) -> Self {
        Self {
            per_second,
            full_at: now,
        }
    }

    /// For a session that another process has begun. `until_full`: how long it takes until a whole
    /// burst may come.
    pub fn continued(per_second: NonZeroU32, until_full: Duration, now: Instant) -> Self {
        Self {
            per_second,
            full_at: now + until_full.min(SECOND),
        }
    }

    pub fn per_second(&self) -> NonZeroU32 {
        self.per_second
    }

    pub fn until_full(&self, now: Instant) -> Duration {
        self.full_at.saturating_duration_since(now)
    }

    /// How many messages may come now.
    pub fn available(&self, now: Instant) -> u64 {
        let full = SECOND.saturating_sub(self.until_full(now));
        (full.as_nanos() / self.one().as_nanos()) as u64
    }

    /// Messages have come, at most as many as were [available](Self::available).
    pub fn spend(&mut self, messages: u64, now: Instant) {
        let messages = u32::try_from(messages).unwrap_or(u32::MAX);
        self.full_at = self.full_at.max(now) + self.one().saturating_mul(messages);
    }

    /// Messages have come. Returns false if they were too many.
    pub fn take(&mut self, messages: u64, now: Instant) -> bool {
        let may_come = messages <= self.available(now);
        if may_come {
            self.spend(messages, now);
        }
        may_come
    }

    /// How long it takes until one more may come. Rounded down, so that a second brings them all.
    fn one(&self) -> Duration {
        SECOND / self.per_second.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(per_second: u32, now: Instant) -> MessageRate {
        MessageRate::new(NonZeroU32::new(per_second).unwrap(), now)
    }

    #[test]
    fn a_burst_is_as_large_as_a_second_brings_and_comes_again_with_time() {
        for per_second in [1, 7, 10, 1_000_000] {
            let now = Instant::now();
            let mut rate = rate(per_second, now);
            let burst = u64::from(per_second);
            assert_eq!(rate.available(now), burst, "{per_second}");
            assert!(!rate.take(burst + 1, now) && rate.take(burst, now));
            assert_eq!(rate.available(now), 0);
            assert!(!rate.take(1, now) && rate.take(0, now));
            let half = rate.available(now + SECOND / 2);
            assert_eq!(half, burst / 2, "{per_second}");
            assert_eq!(rate.available(now + 60 * SECOND), burst);
        }
    }

    #[test]
    fn what_is_spent_stays_spent_in_another_process() {
        let now = Instant::now();
        let mut rate = rate(10, now);
        rate.spend(8, now);
        let until_full = rate.until_full(now);
        let later = now + 60 * SECOND;
        let there = MessageRate::continued(rate.per_second(), until_full, later);
        assert_eq!(there.available(later), 2);
        let hostile = MessageRate::continued(rate.per_second(), Duration::MAX, later);
        assert_eq!(hostile.available(later + SECOND), 10);
    }
}
