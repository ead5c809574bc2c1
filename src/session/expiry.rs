//! When a session ends because its credential stops being valid.
//!
//! The wall clock decides, as it does for the credential. Timers run by another clock, which
//! stands still while a machine is suspended and knows nothing of a clock that is set. So the wall
//! clock is [looked at](Alarm::rings) again and again, and at the moment itself.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Sessions are told within this time before their credentials end.
pub const LAST_MOMENTS: Duration = Duration::from_secs(2);

/// How long a client may take to answer that it was told: its credential is still good then.
pub const ANSWER: Duration = Duration::from_millis(500);

/// What is left of the last moments at least, so that a session on a busy thread is told in time.
const MARGIN: Duration = Duration::from_millis(100);

/// How often the wall clock is looked at.
const LOOK: Duration = Duration::from_secs(30);

/// No timer is set for longer: a sum with a clock must not overflow.
const FAR: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

/// When a session is told that its credential has expired, and with which close code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    /// Milliseconds since the epoch.
    told_at: u64,
    code: u16,
}

impl Expiry {
    /// `until`: the credential's end. `share`, from 0 to 1, is a random number: it spreads sessions
    /// whose credentials end together over what is left of the last moments.
    pub fn spread(until: SystemTime, code: u16, now: SystemTime, share: f64) -> Self {
        let last = until.checked_sub(ANSWER + MARGIN).unwrap_or(until);
        let first = until.checked_sub(LAST_MOMENTS - MARGIN).unwrap_or(until);
        // A credential in its last moments, or after them.
        let first = first.max(now.min(last));
        let room = last.duration_since(first).unwrap_or_default();
        let told_at = (first + room.mul_f64(share)).duration_since(UNIX_EPOCH);
        Self {
            told_at: u64::try_from(told_at.unwrap_or_default().as_millis()).unwrap_or(u64::MAX),
            code,
        }
    }

    /// What another process has sent.
    pub fn from_parts(told_at: u64, code: u16) -> Self {
        Self { told_at, code }
    }

    /// Milliseconds since the epoch.
    pub fn told_at(self) -> u64 {
        self.told_at
    }

    pub fn code(self) -> u16 {
        self.code
    }

    /// How long it is until nothing of the client may pass any more.
    pub fn is_good_for(self, now: SystemTime) -> Duration {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let until = Duration::from_millis(self.told_at) + ANSWER;
        until.saturating_sub(now).min(ANSWER)
    }

    /// How long it is until the session is told, if that is within years. Zero: it is time.
    pub fn remaining(self, now: SystemTime) -> Duration {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        Duration::from_millis(self.told_at)
            .saturating_sub(now)
            .min(FAR)
    }
}

/// An [`Expiry`], and when the wall clock is to be looked at next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alarm {
    pub expiry: Expiry,
    look: Instant,
}

impl Alarm {
    pub fn new(expiry: Expiry) -> Self {
        // The first look is made at once, as the session begins.
        let look = Instant::now();
        Self { expiry, look }
    }

    /// When to ask whether it [rings](Alarm::rings).
    pub fn due(&self) -> Instant {
        self.look
    }

    /// Whether the session is to be told at `now`, which is `wall` by the wall clock. If not, it is
    /// [due](Alarm::due) again later.
    pub fn rings(&mut self, now: Instant, wall: SystemTime) -> bool {
        let remaining = self.expiry.remaining(wall);
        self.look = now + remaining.min(LOOK);
        remaining.is_zero()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CODE: u16 = 4401;

    fn at(seconds: f64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs_f64(seconds)
    }

    fn told_at(until: f64, now: f64, share: f64) -> f64 {
        Expiry::spread(at(until), CODE, at(now), share).told_at() as f64 / 1000.0
    }

    proptest! {
        #[test]
        fn a_session_is_told_within_the_last_moments(
            until in 1e9..2e9,
            ahead in 2.0..1e6,
            share in 0.0..=1.0,
        ) {
            let told = told_at(until, until - ahead, share);
            prop_assert!(until - 2.0 < told && told < until, "{told} for {until}");
        }

        /// However the clocks run, it rings exactly when the wall clock says so.
        #[test]
        fn it_rings_by_the_wall_clock(steps in prop::collection::vec((0..90_000_u64, -60_000..90_000_i64), 1..40)) {
            let mut wall = 1_000_000_000_000_u64;
            let told_at = wall + 600_000;
            let mut now = Instant::now();
            let mut alarm = Alarm::new(Expiry::from_parts(told_at, CODE));
            for (slept, set) in steps {
                let until_look = alarm.due().saturating_duration_since(now);
                prop_assert!(until_look <= LOOK);
                now += Duration::from_millis(slept);
                wall = wall.saturating_add(slept).saturating_add_signed(set);
                let rings = alarm.rings(now, UNIX_EPOCH + Duration::from_millis(wall));
                prop_assert_eq!(rings, wall >= told_at);
                prop_assert!(alarm.due() <= now + LOOK);
            }
        }
    }

    #[test]
    fn what_is_left_of_the_last_moments_is_used() {
        assert_eq!(told_at(1000.0, 900.0, 0.0), 998.1);
        assert_eq!(told_at(1000.0, 900.0, 1.0), 999.4);
        assert_eq!(told_at(1000.0, 999.2, 0.0), 999.2);
        assert_eq!(told_at(1000.0, 999.2, 1.0), 999.4);
        assert_eq!(told_at(1000.0, 999.8, 0.5), 999.4);
        // It has ended: at once.
        let expiry = Expiry::spread(at(1000.0), CODE, at(1005.0), 0.5);
        assert!(expiry.remaining(at(1005.0)).is_zero());
        assert_eq!(expiry.code(), CODE);
    }

    #[test]
    fn its_client_has_time_to_answer_before_the_end_and_none_behind_it() {
        let expiry = Expiry::spread(at(1000.0), CODE, at(900.0), 1.0);
        assert_eq!(expiry.is_good_for(at(999.4)), ANSWER);
        assert_eq!(
            expiry.is_good_for(at(999.8)),
            ANSWER - Duration::from_millis(400)
        );
        assert_eq!(expiry.is_good_for(at(1000.0)), Duration::ZERO);
        assert_eq!(expiry.is_good_for(at(5000.0)), Duration::ZERO);
    }

    #[test]
    fn a_credential_without_an_end_in_sight_does_no_harm() {
        let until = at(253_402_300_799.0);
        let expiry = Expiry::spread(until, CODE, at(1e9), 0.5);
        assert!(!Alarm::new(expiry).rings(Instant::now(), at(1e9)));
    }
}
