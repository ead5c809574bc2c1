//! Servers that are not there: each answers after a time that depends on how many it has.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use proptest::prelude::*;

use super::*;

const MILLI: Duration = Duration::from_millis(1);

/// How long a server takes for a handshake while it has `under_way`. `None`: it fails it.
type Server = fn(under_way: usize) -> Option<Duration>;

/// A crowd that never ends in front of one server.
struct Crowd {
    concurrency: Concurrency,
    server: Server,
    now: Instant,
    /// When each handshake that is under way ends, when it began, and whether it is done.
    ends: BinaryHeap<Reverse<(Instant, Instant, bool)>>,
    /// The most that were under way at once.
    most: usize,
    done: usize,
    failed: usize,
}

impl Crowd {
    fn before(server: Server) -> Self {
        let now = Instant::now();
        Self {
            concurrency: Concurrency::default(),
            server,
            now,
            ends: BinaryHeap::new(),
            most: 0,
            done: 0,
            failed: 0,
        }
    }

    /// As many go to the server as may, until this time has passed.
    fn press(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            while let Some(began) = self.concurrency.admit(self.now) {
                let takes = (self.server)(self.concurrency.under_way());
                let ends = self.now + takes.unwrap_or(MILLI);
                self.ends.push(Reverse((ends, began, takes.is_some())));
            }
            self.most = self.most.max(self.concurrency.under_way());
            self.end_one();
        }
    }

    fn end_one(&mut self) {
        let Some(Reverse((now, began, is_done))) = self.ends.pop() else {
            return;
        };
        self.now = now;
        let ended = if is_done { Ended::Done } else { Ended::Failed };
        self.concurrency.end(ended, began, now);
        match is_done {
            true => self.done += 1,
            false => self.failed += 1,
        }
    }

    /// Nobody comes for this time.
    fn rest(&mut self, time: Duration) {
        while !self.ends.is_empty() {
            self.end_one();
        }
        self.now += time;
    }
}

/// Works on a hundred at once, so that more only wait for each other.
fn hundred_at_once(under_way: usize) -> Option<Duration> {
    Some(20 * MILLI * (under_way.max(100) as u32) / 100)
}

#[test]
fn a_server_gets_what_it_can_work_on_and_is_not_pushed_over() {
    let mut crowd = Crowd::before(hundred_at_once);
    crowd.press(Duration::from_secs(1));
    // The least that the server needs for five thousand is a second.
    assert!(crowd.done > 4600, "{}", crowd.done);
    crowd.press(Duration::from_secs(20));
    assert!(crowd.most < 200, "{}", crowd.most);
    assert!(crowd.done > 95 * 21 * 50, "{}", crowd.done);
}

#[test]
fn small_servers_are_not_pushed_over_either() {
    fn ten_at_once(under_way: usize) -> Option<Duration> {
        Some(20 * MILLI * (under_way.max(10) as u32) / 10)
    }
    fn thirty_at_once(under_way: usize) -> Option<Duration> {
        Some(20 * MILLI * (under_way.max(30) as u32) / 30)
    }
    for (server, works_on, most) in [(ten_at_once as Server, 10, 35), (thirty_at_once, 30, 70)] {
        let mut crowd = Crowd::before(server);
        crowd.press(Duration::from_secs(5));
        assert!(crowd.most < most, "{} of {works_on}", crowd.most);
        assert!(crowd.done > 240 * works_on, "{} by {works_on}", crowd.done);
    }
}

#[test]
fn a_server_whose_latency_says_nothing_is_approached_slowly() {
    let mut crowd = Crowd::before(|under_way| (under_way < 200).then_some(20 * MILLI));
    crowd.press(Duration::from_millis(1200));
    // Ten thousand came to two of them in the last second and a bit.
    assert!(crowd.done > 5000, "{}", crowd.done);
    assert!(crowd.most < 150, "{}", crowd.most);
    crowd.press(Duration::from_secs(3));
    assert!(crowd.failed == 0, "{}", crowd.failed);
}

#[test]
fn what_fails_halves_the_number_and_it_recovers() {
    let mut crowd = Crowd::before(|_| None);
    crowd.press(Duration::from_millis(100));
    assert_eq!(crowd.concurrency.most(), LEAST as usize);
    crowd.server = hundred_at_once;
    crowd.press(Duration::from_secs(5));
    assert!(crowd.concurrency.most() > 90, "{:?}", crowd.concurrency);
}

#[test]
fn a_few_failures_among_many_are_no_reason() {
    let mut concurrency = Concurrency::default();
    let start = Instant::now();
    for number in 0..2000_u32 {
        let began = start + MILLI * 20 * (number / 20);
        while concurrency.has_room() {
            concurrency.admit(began).expect("there is room");
        }
        let ended = if number % 50 == 0 {
            Ended::Failed
        } else {
            Ended::Done
        };
        concurrency.end(ended, began, began + 20 * MILLI);
    }
    assert!(concurrency.most() >= SAFE as usize, "{concurrency:?}");
}

#[test]
fn a_server_that_has_become_slower_is_learned_anew() {
    let mut crowd = Crowd::before(hundred_at_once);
    crowd.press(Duration::from_secs(1));
    crowd.server = |under_way| Some(100 * MILLI * (under_way.max(100) as u32) / 100);
    crowd.press(Duration::from_secs(20));
    assert!(crowd.concurrency.most() > 90, "{:?}", crowd.concurrency);
}

#[test]
fn a_latency_that_a_lower_number_does_not_change_is_no_reason() {
    let mut crowd = Crowd::before(hundred_at_once);
    crowd.press(Duration::from_secs(1));
    let learned = crowd.concurrency.most();
    crowd.server = |_| Some(70 * MILLI);
    crowd.press(Duration::from_secs(2));
    assert!(
        crowd.concurrency.most() >= learned,
        "{:?}",
        crowd.concurrency
    );
}

#[test]
fn after_a_rest_it_begins_low_again_unless_the_number_is_needed() {
    let mut crowd = Crowd::before(hundred_at_once);
    crowd.press(Duration::from_secs(3));
    let learned = crowd.concurrency.most();
    crowd.rest(MEMORY / 2);
    crowd.concurrency.admit(crowd.now).expect("there is room");
    assert_eq!(crowd.concurrency.most(), learned);
    crowd.now += MEMORY + MILLI;
    crowd.concurrency.admit(crowd.now).expect("there is room");
    assert_eq!(crowd.concurrency.most(), START as usize);
    assert_eq!(crowd.concurrency.under_way(), 2);
}

#[test]
fn handshakes_that_never_end_do_not_keep_the_others_out() {
    let mut concurrency = Concurrency::default();
    let start = Instant::now();
    while concurrency.admit(start).is_some() {}
    let soon = start + STUCK / 2;
    assert_eq!(concurrency.admit(soon), None);
    // Nothing has moved: one more is let in, and only one.
    let later = start + STUCK;
    let one = concurrency.admit(later).expect("one more");
    assert_eq!(concurrency.admit(later), None);
    assert_eq!(concurrency.under_way(), START as usize + 1);
    // It is answered, so the server does not hang: the others wait for something else.
    concurrency.end(Ended::Done, one, later + 20 * MILLI);
    assert_eq!(concurrency.under_way(), 0);
    let mut crowd = Crowd::before(hundred_at_once);
    crowd.concurrency = concurrency;
    crowd.now = later + 20 * MILLI;
    crowd.press(Duration::from_secs(1));
    assert!(crowd.done > 4000, "{}", crowd.done);
    // When they end at last, that says nothing.
    let before = crowd.concurrency.under_way();
    crowd.concurrency.end(Ended::Failed, start, crowd.now);
    assert_eq!(crowd.concurrency.under_way(), before);
}

#[test]
fn a_server_that_hangs_gets_one_more_now_and_then() {
    let mut concurrency = Concurrency::default();
    let start = Instant::now();
    let tries = 0..6000_u32;
    let admitted = tries.filter_map(|number| concurrency.admit(start + number * 10 * MILLI));
    assert_eq!(admitted.count(), START as usize + 29);
}

fn event() -> impl Strategy<Value = (u8, u16)> {
    (0..8_u8, 0..500_u16)
}

proptest! {
    #[test]
    fn whatever_happens_no_more_are_admitted_than_may_and_the_number_stays_in_its_bounds(
        events in prop::collection::vec(event(), 1..2000),
    ) {
        let mut concurrency = Concurrency::default();
        let mut now = Instant::now();
        let mut under_way: Vec<Instant> = Vec::new();
        for (what, millis) in events {
            now += MILLI * u32::from(millis);
            match what {
                0..4 => {
                    let had_room = concurrency.has_room();
                    let is_still = concurrency.full_until().is_some_and(|until| now >= until);
                    if let Some(began) = concurrency.admit(now) {
                        under_way.push(began);
                        let counted = concurrency.under_way();
                        prop_assert!(is_still || counted <= concurrency.most());
                    } else {
                        // Only an old number that was forgotten explains it.
                        prop_assert!(!had_room || concurrency.most() == START as usize);
                    }
                }
                what => {
                    let ended = match what {
                        4 | 5 => Ended::Done,
                        6 => Ended::Failed,
                        _ => Ended::Neutral,
                    };
                    if let Some(began) = under_way.pop() {
                        concurrency.end(ended, began, now);
                    }
                }
            }
            prop_assert!(concurrency.under_way() <= under_way.len());
            prop_assert!(concurrency.most >= LEAST && concurrency.most.is_finite());
        }
        // Whatever it was, a good server is used again.
        for began in under_way.drain(..) {
            concurrency.end(Ended::Neutral, began, now);
        }
        prop_assert_eq!(concurrency.under_way(), 0);
    }
}
