//! A bucket of tokens that is refilled with time.

use std::num::NonZeroU32;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// In nanoseconds.
pub(super) const SECOND: u64 = 1_000_000_000;

/// Stores only the time at which the bucket is full again. Each take may have another rate.
#[derive(Debug, Default)]
pub struct Bucket {
    /// In nanoseconds since the first call in this process.
    full_at: AtomicU64,
}

impl Bucket {
    /// Takes a token if there is one: `rate` tokens come each second, and the bucket holds as many.
    pub fn take(&self, rate: NonZeroU32) -> bool {
        self.take_at(now(), rate)
    }

    fn take_at(&self, now: u64, rate: NonZeroU32) -> bool {
        let token = SECOND / u64::from(rate.get());
        let taken = self.full_at.fetch_update(Relaxed, Relaxed, |full_at| {
            take_token(full_at, now, token, SECOND).ok()
        });
        taken.is_ok()
    }
}

/// Takes a token from a bucket that is full again at `full_at`, and returns when it is full then.
/// `token` and `full`: how long it takes until one token has come, and until an empty bucket is
/// full. `Err`: how long it takes until there is a token.
pub(super) fn take_token(full_at: u64, now: u64, token: u64, full: u64) -> Result<u64, u64> {
    let then = full_at.max(now) + token;
    match (then - now).saturating_sub(full) {
        0 => Ok(then),
        missing => Err(missing),
    }
}

pub(super) fn now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(bucket: &Bucket, now: u64, rate: u32) -> usize {
        let rate = NonZeroU32::new(rate).unwrap();
        (0..100).filter(|_| bucket.take_at(now, rate)).count()
    }

    #[test]
    fn it_holds_a_seconds_worth_and_fills_with_time() {
        let bucket = Bucket::default();
        assert_eq!(taken(&bucket, SECOND, 10), 10);
        assert_eq!(taken(&bucket, SECOND, 10), 0);
        assert_eq!(taken(&bucket, SECOND + SECOND / 2, 10), 5);
        assert_eq!(taken(&bucket, 60 * SECOND, 10), 10);
    }

    #[test]
    fn a_rate_that_does_not_divide_a_second_and_one_a_second_work() {
        assert_eq!(taken(&Bucket::default(), 0, 7), 7);
        let bucket = Bucket::default();
        assert_eq!(taken(&bucket, 0, 1), 1);
        assert_eq!(taken(&bucket, SECOND - 1, 1), 0);
        assert_eq!(taken(&bucket, SECOND, 1), 1);
    }
}
