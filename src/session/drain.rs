//! Sessions that must go: told so at moments spread over a window, cut at a deadline.
//!
//! One engine for all occasions: a stop, what an upgrade leaves behind, a server that is drained,
//! that fails its checks or leaves the file, a route that is gone.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use log::info;
use rand::seq::SliceRandom;
use tokio::task::AbortHandle;
use uuid::Uuid;

use super::live::Live;
use super::traffic::{ClosedBy, Order};

/// How sessions are told to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manner {
    /// Who must go and why, in words.
    pub what: String,
    pub code: u16,
    /// Zero: all of them at once.
    pub window: Duration,
    pub deadline: Duration,
}

/// One that comes too late for a drain is told by itself, at a random moment of the window, unless
/// it may stay by then. Must run inside the runtime.
pub fn tell_late(
    session: &Arc<Live>,
    (code, window): (u16, Duration),
    must_go: impl Fn(&Live) -> bool + Send + 'static,
) {
    let session = Arc::downgrade(session);
    let moment = window.mul_f64(rand::random());
    tokio::spawn(async move {
        tokio::time::sleep(moment).await;
        if let Some(session) = session.upgrade()
            && must_go(&session)
        {
            session.traffic.ask(Order::End {
                by: ClosedBy::Drain,
                code,
            });
        }
    });
}

/// The drains that go on.
#[derive(Debug, Default)]
pub struct Drains {
    running: Mutex<Vec<Running>>,
}

#[derive(Debug)]
struct Running {
    manner: Manner,
    started: Instant,
    sessions: Arc<[Weak<Live>]>,
    task: AbortHandle,
}

/// How far one has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    pub manner: Manner,
    pub age: Duration,
    pub total: usize,
    pub left: usize,
}

impl Drains {
    /// Returns how many sessions will be told. Must run inside the runtime.
    pub fn start(&self, sessions: Vec<Arc<Live>>, manner: Manner) -> usize {
        let total = sessions.len();
        if total == 0 {
            return 0;
        }
        info!(
            "{}: {total} sessions are told to go ({}) within {:?}",
            manner.what, manner.code, manner.window
        );
        let mut sessions: Vec<Weak<Live>> = sessions.iter().map(Arc::downgrade).collect();
        sessions.shuffle(&mut rand::rng());
        let sessions: Arc<[Weak<Live>]> = sessions.into();
        let task = tokio::spawn(tell(sessions.clone(), manner.clone())).abort_handle();
        let mut running = self.lock();
        running.retain(|drain| !drain.task.is_finished());
        running.push(Running {
            manner,
            started: Instant::now(),
            sessions,
            task,
        });
        total
    }

    /// Those who have not been told yet may stay.
    pub fn cancel(&self, what: &str) {
        self.lock().retain(|drain| {
            let goes = drain.manner.what == what;
            if goes {
                drain.task.abort();
            }
            !goes
        });
    }

    /// The drains that are not done with what is left of them, for another process to go on with.
    pub fn rest(&self) -> Vec<(Manner, Vec<Uuid>)> {
        let running = self.lock();
        let unfinished = running.iter().filter(|drain| drain.left() > 0);
        unfinished
            .map(|drain| {
                let age = drain.started.elapsed();
                let mut manner = drain.manner.clone();
                manner.window = manner.window.saturating_sub(age);
                manner.deadline = manner.deadline.saturating_sub(age);
                let sessions = drain.sessions.iter().filter_map(Weak::upgrade);
                (manner, sessions.map(|live| live.identity.id).collect())
            })
            .collect()
    }

    /// Of the drains that are not done.
    pub fn progress(&self) -> Vec<Progress> {
        let mut running = self.lock();
        running.retain(|drain| drain.left() > 0);
        running
            .iter()
            .map(|drain| Progress {
                manner: drain.manner.clone(),
                age: drain.started.elapsed(),
                total: drain.sessions.len(),
                left: drain.left(),
            })
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Drains {
    fn drop(&mut self) {
        for drain in self.lock().drain(..) {
            drain.task.abort();
        }
    }
}

impl Running {
    fn left(&self) -> usize {
        self.sessions
            .iter()
            .filter(|session| session.strong_count() > 0)
            .count()
    }
}

/// The window is cut into as many parts as there are sessions, and each is told at a random moment
/// of its part: as random as it must be, and more even than chance.
async fn tell(sessions: Arc<[Weak<Live>]>, manner: Manner) {
    let started = tokio::time::Instant::now();
    let part = manner.window / u32::try_from(sessions.len()).unwrap_or(u32::MAX);
    for (number, session) in sessions.iter().enumerate() {
        let offset = part.mul_f64(number as f64 + rand::random::<f64>());
        // Many in one millisecond need no timer each.
        if offset > started.elapsed() {
            tokio::time::sleep_until(started + offset).await;
        }
        if let Some(session) = session.upgrade() {
            session.traffic.ask(Order::End {
                by: ClosedBy::Drain,
                code: manner.code,
            });
        }
    }
    tokio::time::sleep_until(started + manner.deadline).await;
    for session in sessions.iter().filter_map(Weak::upgrade) {
        session.traffic.ask(Order::Cut {
            by: ClosedBy::Drain,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use super::super::registry::tests::live;
    use super::*;

    fn manner(window: u64) -> Manner {
        Manner {
            what: "test".to_owned(),
            code: 1012,
            window: Duration::from_secs(window),
            deadline: Duration::from_secs(window + 5),
        }
    }

    fn told(sessions: &[Arc<Live>]) -> usize {
        sessions
            .iter()
            .filter(|session| session.traffic.order().is_some())
            .count()
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_are_told_evenly_over_the_window_and_cut_at_the_deadline() {
        let sessions: Vec<_> = (0..1000).map(|_| Arc::new(live())).collect();
        let drains = Drains::default();
        assert_eq!(drains.start(sessions.clone(), manner(10)), 1000);
        for second in 1..=10 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let told = told(&sessions);
            assert!(told.abs_diff(second * 100) <= 2, "{told} after {second} s");
        }
        assert_eq!(drains.progress()[0].left, 1000);
        tokio::time::sleep(Duration::from_secs(6)).await;
        let cut = Order::Cut {
            by: ClosedBy::Drain,
        };
        assert!(sessions.iter().all(|s| s.traffic.order() == Some(cut)));
        drop(sessions);
        assert_eq!(drains.progress(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_not_been_told_when_a_drain_is_cancelled_stays() {
        let sessions: Vec<_> = (0..100).map(|_| Arc::new(live())).collect();
        let drains = Drains::default();
        drains.start(sessions.clone(), manner(10));
        tokio::time::sleep(Duration::from_secs(5)).await;
        drains.cancel("test");
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(told(&sessions).abs_diff(50) <= 1);
    }

    #[tokio::test(start_paused = true)]
    async fn late_ones_are_told_within_the_window_unless_they_may_stay() {
        let sessions: Vec<_> = (0..200).map(|_| Arc::new(live())).collect();
        let may_stay = Arc::new(AtomicBool::new(false));
        for session in &sessions {
            let may_stay = may_stay.clone();
            let window = Duration::from_secs(10);
            tell_late(session, (1012, window), move |_| !may_stay.load(Relaxed));
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        let first = told(&sessions);
        assert!((60..140).contains(&first), "{first} in half of the time");
        may_stay.store(true, Relaxed);
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(told(&sessions), first);
    }
}
