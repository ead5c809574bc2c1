use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::super::registry::tests::live;
use super::*;

fn plan(window: u64) -> DrainPlan {
    DrainPlan {
        code: 1012,
        window: Duration::from_secs(window),
        deadline: Duration::from_secs(window + 5),
    }
}

fn sessions(count: usize) -> Vec<Arc<LiveSession>> {
    (0..count).map(|_| Arc::new(live())).collect()
}

fn told(sessions: &[Arc<LiveSession>]) -> usize {
    sessions
        .iter()
        .filter(|session| session.traffic.order().is_some())
        .count()
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

/// With a switch: whether sessions must go.
fn drains() -> (Drains, Arc<AtomicBool>) {
    let must_go = Arc::new(AtomicBool::new(true));
    let asked = must_go.clone();
    (Drains::new(Arc::new(move |_| asked.load(Relaxed))), must_go)
}

const CUT: Order = Order::Cut {
    by: ClosedBy::Drain,
};

#[tokio::test(start_paused = true)]
async fn sessions_are_told_evenly_over_the_window_and_cut_at_the_deadline() {
    let sessions = sessions(1000);
    let (drains, _) = drains();
    assert_eq!(drains.start(DrainReason::Stop, &sessions, plan(10)), 1000);
    for second in 1..=10 {
        pass(1).await;
        let told = told(&sessions);
        assert!(told.abs_diff(second * 100) <= 2, "{told} after {second} s");
        assert_eq!(drains.progress()[0].told, told);
    }
    assert_eq!(drains.progress()[0].remaining, 1000);
    pass(6).await;
    assert!(sessions.iter().all(|s| s.traffic.order() == Some(CUT)));
    assert_eq!(drains.progress(), []);
}

#[tokio::test(start_paused = true)]
async fn a_drain_is_shown_until_its_last_session_has_gone() {
    let mut sessions = sessions(3);
    let (drains, _) = drains();
    drains.start(DrainReason::Upgrade, &sessions, plan(10));
    sessions.pop();
    let progress = drains.progress();
    assert_eq!((progress[0].remaining, progress[0].total), (2, 3));
    sessions.clear();
    assert_eq!(drains.progress(), []);
}

#[tokio::test(start_paused = true)]
async fn who_may_stay_by_its_moment_is_neither_told_nor_cut() {
    let sessions = sessions(100);
    let (drains, must_go) = drains();
    drains.start(DrainReason::Stop, &sessions, plan(10));
    pass(5).await;
    must_go.store(false, Relaxed);
    let first = told(&sessions);
    assert!(first.abs_diff(50) <= 1);
    assert_eq!(drains.progress()[0].remaining, first);
    pass(60).await;
    assert_eq!(told(&sessions), first);
    assert!(sessions.iter().all(|s| s.traffic.order() != Some(CUT)));
}

#[tokio::test(start_paused = true)]
async fn a_second_drain_for_the_same_reason_takes_the_place_of_the_first() {
    let sessions = sessions(100);
    let (drains, _) = drains();
    drains.start(DrainReason::Stop, &sessions, plan(10));
    pass(5).await;
    drains.start(DrainReason::Stop, &sessions, plan(1000));
    pass(10).await;
    let told = told(&sessions);
    assert!(told.abs_diff(51) <= 2, "{told}");
    assert_eq!(drains.progress().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn late_ones_are_told_in_what_is_left_of_the_window() {
    let early = sessions(1);
    let late = sessions(200);
    let (drains, _) = drains();
    let start = Instant::now();
    drains.start(DrainReason::Stop, &early, plan(10));
    pass(5).await;
    for session in &late {
        drains.admit(DrainReason::Stop, session, plan(1000));
    }
    pass(3).await;
    let first = told(&late);
    assert!((80..160).contains(&first), "{first} in 3 of 5 s");
    pass(2).await;
    // Timers fire within a millisecond: the last one's moment may be the window's last.
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert_eq!(told(&late), 200);
    // Behind the window: in time for a goodbye before the deadline.
    let last = sessions(1);
    drains.admit(DrainReason::Stop, &last[0], plan(1000));
    pass(2).await;
    assert_eq!(told(&last), 1);
    assert!(last[0].traffic.order() != Some(CUT));
    assert!(start.elapsed() < Duration::from_secs(13));
    pass(4).await;
    assert_eq!(last[0].traffic.order(), Some(CUT));
}

#[tokio::test(start_paused = true)]
async fn one_that_no_drain_is_for_has_one_of_its_own() {
    let session = sessions(1);
    let (drains, _) = drains();
    drains.admit(DrainReason::Upgrade, &session[0], plan(10));
    assert_eq!(drains.progress()[0].remaining, 1);
    pass(10).await;
    assert_eq!(told(&session), 1);
}

#[tokio::test(start_paused = true)]
async fn a_drain_without_sessions_waits_for_those_who_come() {
    let session = sessions(1);
    let (drains, _) = drains();
    drains.start(DrainReason::Stop, &[], plan(10));
    assert_eq!(drains.progress(), []);
    pass(9).await;
    drains.admit(DrainReason::Stop, &session[0], plan(1000));
    pass(1).await;
    assert_eq!(told(&session), 1);
}

mod any_schedule {
    use proptest::prelude::*;

    use super::super::schedule::{Schedule, Step};
    use super::*;

    /// One thing that happens.
    #[derive(Debug, Clone)]
    enum Event {
        Start {
            reason: u8,
            members: usize,
            window: u64,
        },
        Admit {
            reason: u8,
        },
        Pass {
            millis: u64,
        },
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0..3_u8, 0..20_usize, 0..20_u64).prop_map(|(reason, members, window)| {
                Event::Start {
                    reason,
                    members,
                    window,
                }
            }),
            (0..3_u8).prop_map(|reason| Event::Admit { reason }),
            (0..8_000_u64).prop_map(|millis| Event::Pass { millis }),
        ]
    }

    proptest! {
        /// Whatever happens: who is in a drain that is not replaced is told once, within the
        /// window, and cut once, behind it; and nothing is due that is not given out.
        #[test]
        fn everybody_is_told_once_and_in_time(events in prop::collection::vec(event(), 1..40)) {
            let mut schedule = Schedule::default();
            let mut now = Instant::now();
            let mut alive = Vec::new();
            let mut orders = std::collections::HashMap::new();
            let reason = |number: u8| DrainReason::Other(number.to_string());
            let mut step = |schedule: &mut Schedule, now: Instant| {
                for (member, step) in schedule.take_due(now) {
                    let key = member.as_ptr() as usize;
                    let (told, cut) = orders.entry(key).or_insert((0, 0));
                    match step {
                        Step::Tell { .. } => *told += 1,
                        Step::Cut => *cut += 1,
                    }
                    assert!(*cut <= *told, "cut before it was told");
                }
                assert!(schedule.next_due().is_none_or(|due| due > now));
            };
            for event in events {
                match event {
                    Event::Start { reason: number, members, window } => {
                        let members = sessions(members);
                        schedule.start(now, reason(number), &members, plan(window));
                        alive.extend(members);
                    }
                    Event::Admit { reason: number } => {
                        let one = sessions(1);
                        schedule.admit(now, reason(number), &one[0], plan(10));
                        alive.extend(one);
                    }
                    Event::Pass { millis } => now += Duration::from_millis(millis),
                }
                step(&mut schedule, now);
            }
            let left: usize = schedule.progress(now, |_| true).iter().map(|drain| drain.remaining).sum();
            prop_assert!(left <= alive.len());
            step(&mut schedule, now + Duration::from_secs(1000));
            prop_assert_eq!(schedule.progress(now, |_| true), []);
            prop_assert!(schedule.next_due().is_none());
            for (told, cut) in orders.values() {
                prop_assert!(*told == 1 && *cut <= 1);
            }
        }
    }
}
