//! When a session began, in words that two processes understand alike.
//!
//! Its age alone would not do: each session would become younger by the time of its own way, so
//! that of two which began within a few milliseconds the younger might seem the older one. All
//! processes of a machine read one monotonic clock (`CLOCK_MONOTONIC`), which nobody sets.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// How much older a session may be when it has come. It took less, or the two processes do not read
/// one clock: containers can have a clock of their own (time_namespaces(7)).
const LONGEST_WAY: Duration = Duration::from_secs(600);

/// One moment by `Instant`, and in nanoseconds of the clock. Read until both are of one moment: the
/// thread may be made to wait between the two.
static ANCHOR: LazyLock<(Instant, i128)> = LazyLock::new(|| {
    let reading = || {
        let instant = Instant::now();
        let clock = clock_gettime(ClockId::Monotonic);
        let nanoseconds = i128::from(clock.tv_sec) * 1_000_000_000 + i128::from(clock.tv_nsec);
        (instant.elapsed(), (instant, nanoseconds))
    };
    let readings: [_; 5] = std::array::from_fn(|_| reading());
    let (_, anchor) = readings.into_iter().min().unwrap_or_else(reading);
    anchor
});

/// In nanoseconds of the clock.
pub fn sent(since: Instant) -> Option<u64> {
    let (instant, clock) = *ANCHOR;
    let later = since.saturating_duration_since(instant).as_nanos() as i128;
    let earlier = instant.saturating_duration_since(since).as_nanos() as i128;
    u64::try_from(clock + later - earlier).ok()
}

/// The inverse. `age`: what was left of it when the session was sent. `began`: `None` if the other
/// process does not know it.
pub fn received(age: Duration, began: Option<u64>) -> Instant {
    let now = Instant::now();
    let at_least = now.checked_sub(age).unwrap_or(now);
    let at_most = at_least.checked_sub(LONGEST_WAY).unwrap_or(at_least);
    let since = began.and_then(|began| {
        let (instant, clock) = *ANCHOR;
        let apart = i128::from(began) - clock;
        let distance = Duration::from_nanos(u64::try_from(apart.unsigned_abs()).ok()?);
        match apart {
            0.. => instant.checked_add(distance),
            _ => instant.checked_sub(distance),
        }
    });
    match since {
        Some(since) if (at_most..=at_least).contains(&since) => since,
        _ => at_least,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_way_takes_the_moment_stays() {
        let first = Instant::now() - Duration::from_secs(3);
        let second = first + Duration::from_nanos(1);
        let ages = [first.elapsed(), second.elapsed()];
        let words = [sent(first), sent(second)];
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(received(ages[1], words[1]), second);
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(received(ages[0], words[0]), first);
    }

    #[test]
    fn a_clock_that_is_not_ours_is_not_believed() {
        let (age, second) = (Duration::from_secs(100), Duration::from_secs(1));
        let now = sent(Instant::now()).unwrap();
        for began in [
            None,
            Some(0),
            Some(u64::MAX),
            Some(now),
            Some(now + 3_000_000_000),
        ] {
            let since = received(age, began);
            assert!((age..age + second).contains(&since.elapsed()), "{began:?}");
        }
        // Sent 9 minutes ago: a restart that took long.
        let began = Some(now - 640_000_000_000);
        let long = Duration::from_secs(640);
        assert!((long..long + second).contains(&received(age, began).elapsed()));
    }
}
