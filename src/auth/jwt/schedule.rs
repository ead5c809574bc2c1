//! When keys are fetched. A value: it is told what happens, and knows what is due.
//!
//! ```text
//!              begin                   succeeded
//!  ┌─ waiting ────────► fetching ─────────────────► waiting, for `refresh`
//!  │   (due)               │
//!  │                       └──────────────────────► waiting, for 1 s, 2 s, 4 s … 60 s
//!  │                          failed                (never longer than `refresh`)
//!  │
//!  ├─ a token names a key that is not there: due now, once a minute at most
//!  └─ a reload: due now
//! ```
//!
//! Without `refresh` nothing is ever due again once there are keys.

use std::time::{Duration, Instant};

/// How often keys that are not there may cause a fetch. Anybody can name such keys.
const UNKNOWN_KEY: Duration = Duration::from_secs(60);

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Schedule {
    refresh: Option<Duration>,
    /// When to fetch next. `None`: never, or a fetch is under way.
    due: Option<Instant>,
    is_fetching: bool,
    /// How many fetches in a row have failed.
    failures: u32,
    /// When a token last caused a fetch by naming a key that is not there.
    unknown_key: Option<Instant>,
}

impl Schedule {
    /// `has_keys`: those are fresh.
    pub fn new(refresh: Option<Duration>, has_keys: bool, now: Instant) -> Self {
        Self {
            refresh,
            due: match has_keys {
                true => refresh.map(|refresh| now + refresh),
                false => Some(now),
            },
            is_fetching: false,
            failures: 0,
            unknown_key: None,
        }
    }

    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether a fetch is under way, or about to begin.
    pub fn is_coming(&self, now: Instant) -> bool {
        self.is_fetching || self.due.is_some_and(|due| due <= now)
    }

    /// Whether the last fetch has failed.
    pub fn has_failed(&self) -> bool {
        self.failures > 0
    }

    /// Whether it is time for a fetch, which then begins.
    pub fn begin(&mut self, now: Instant) -> bool {
        let is_due = self.due.is_some_and(|due| due <= now);
        if is_due {
            self.due = None;
            self.is_fetching = true;
        }
        is_due
    }

    pub fn succeeded(&mut self, now: Instant) {
        self.is_fetching = false;
        self.failures = 0;
        self.due = self.refresh.map(|refresh| now + refresh);
    }

    /// Returns how long nothing is tried.
    pub fn failed(&mut self, now: Instant) -> Duration {
        self.is_fetching = false;
        let doubled = FIRST_RETRY.saturating_mul(1 << self.failures.min(16));
        let longest = LONGEST_RETRY.min(self.refresh.unwrap_or(LONGEST_RETRY));
        let pause = doubled.min(longest);
        self.failures = self.failures.saturating_add(1);
        self.due = Some(now + pause);
        pause
    }

    /// An operator wants fresh keys now.
    pub fn hurry(&mut self, now: Instant) {
        if self.refresh.is_some() && !self.is_fetching {
            self.due = Some(now);
        }
    }

    /// A token names a key that is not there. Returns whether that causes a fetch: not if there was
    /// one for that reason within the last minute, and not while one is under way.
    pub fn miss(&mut self, now: Instant) -> bool {
        let is_too_soon = self
            .unknown_key
            .is_some_and(|last| now.saturating_duration_since(last) < UNKNOWN_KEY);
        if self.refresh.is_none() || self.is_fetching || is_too_soon {
            return false;
        }
        self.unknown_key = Some(now);
        self.due = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REFRESH: Duration = Duration::from_secs(300);

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn keys_are_fetched_at_once_and_then_each_interval() {
        let start = Instant::now();
        let mut schedule = Schedule::new(Some(REFRESH), false, start);
        assert!(schedule.begin(start));
        assert_eq!(schedule.due(), None);
        assert!(!schedule.begin(after(start, 1000)), "one is under way");
        schedule.succeeded(after(start, 1));
        assert_eq!(schedule.due(), Some(after(start, 301)));
        assert!(!schedule.begin(after(start, 300)));
        assert!(schedule.begin(after(start, 301)));
    }

    #[test]
    fn a_failure_is_followed_by_longer_and_longer_pauses() {
        let start = Instant::now();
        let pauses = |refresh| {
            let mut schedule = Schedule::new(Some(refresh), false, start);
            let mut now = start;
            let pauses = (0..9).map(|_| {
                assert!(schedule.begin(now));
                let pause = schedule.failed(now);
                now += pause;
                pause.as_secs()
            });
            pauses.collect::<Vec<_>>()
        };
        assert_eq!(pauses(REFRESH), [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(pauses(Duration::from_secs(5)), [1, 2, 4, 5, 5, 5, 5, 5, 5]);
    }

    #[test]
    fn keys_of_a_file_without_refresh_are_never_looked_at_again() {
        let start = Instant::now();
        let mut schedule = Schedule::new(None, true, start);
        assert_eq!(schedule.due(), None);
        assert!(!schedule.miss(after(start, 1)));
        schedule.hurry(after(start, 1));
        assert_eq!(schedule.due(), None);
    }

    #[test]
    fn an_unknown_key_causes_a_fetch_once_a_minute_at_most() {
        let start = Instant::now();
        let mut schedule = Schedule::new(Some(REFRESH), true, start);
        assert!(schedule.miss(after(start, 10)));
        assert!(schedule.begin(after(start, 10)));
        assert!(!schedule.miss(after(start, 10)), "it is under way");
        schedule.succeeded(after(start, 11));
        assert!(!schedule.miss(after(start, 69)));
        assert!(schedule.miss(after(start, 70)));
    }

    #[derive(Debug, Clone, Copy)]
    enum Event {
        Wait(u64),
        Miss,
        Hurry,
        Succeed,
        Fail,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0_u64..400).prop_map(Event::Wait),
            Just(Event::Miss),
            Just(Event::Hurry),
            Just(Event::Succeed),
            Just(Event::Fail),
        ]
    }

    proptest! {
        /// Whatever happens, a fetch is under way or due within the interval, and unknown keys
        /// cause one a minute at most.
        #[test]
        fn it_never_stands_still_and_never_runs_away(
            events in prop::collection::vec(event(), 1..100)
        ) {
            let mut now = Instant::now();
            let mut schedule = Schedule::new(Some(REFRESH), false, now);
            let mut caused: Option<Instant> = None;
            for event in events {
                match event {
                    Event::Wait(seconds) => now = after(now, seconds),
                    Event::Miss => if schedule.miss(now) {
                        prop_assert!(caused.is_none_or(|last| now - last >= UNKNOWN_KEY));
                        caused = Some(now);
                    },
                    Event::Hurry => schedule.hurry(now),
                    Event::Succeed if schedule.is_fetching => schedule.succeeded(now),
                    Event::Fail if schedule.is_fetching => {
                        schedule.failed(now);
                    }
                    Event::Succeed | Event::Fail => {}
                }
                schedule.begin(now);
                let is_due = schedule.due().is_some_and(|due| due <= now + REFRESH);
                prop_assert!(schedule.is_fetching != is_due);
            }
        }
    }
}
