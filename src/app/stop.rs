//! How a process ends: sessions and requests are told to go, and those left at the deadline are
//! cut.

use std::time::{Duration, Instant};

use super::*;
use crate::session::live::LiveSession;
use crate::session::traffic::{ClosedBy, Order};

/// How a process stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stop {
    /// Sessions are told to go according to `server.drain`, and requests get the same time.
    Gracefully,
    /// Everything is ended at once, after what can be sent without waiting.
    Now,
}

/// How long a client that has just connected has for its request.
const FIRST_REQUESTS: Duration = Duration::from_millis(100);

/// How long work takes that was begun before the phase changed.
const SETTLES_WITHIN: Duration = Duration::from_millis(20);

impl App {
    /// Tells every session to go. Returns when the last connection has ended, and at the latest
    /// after the drain's deadline. The phase must be one that drains. The log stays open; close it
    /// after this.
    pub async fn stop(&self, stop: Stop) {
        // Clients that have connected before are waited for too.
        let accepted = tokio::time::timeout(AT_ONCE, self.accepting.wait()).await;
        if accepted.is_err() {
            info!("not every listener is closed yet");
        }
        let mut plan = self.current.load().drain_plan();
        if stop == Stop::Now {
            plan.window = Duration::ZERO;
            plan.deadline = AT_ONCE;
        } else if let Some(began) = *self.winding_down_since.lock() {
            // Whoever waits for the end of this process has already waited this long.
            plan.deadline = plan.deadline.saturating_sub(began.elapsed());
            plan.window = plan.window.min(plan.deadline);
        }
        self.drains
            .start(DrainReason::Stop, &self.sessions.select(|_| true), plan);
        if stop == Stop::Gracefully {
            self.wait_for_connections(FIRST_REQUESTS).await;
        }
        // From here on a connection ends at once if no request is there to be read.
        self.edge.cleanup().await;
        self.close_idle();
        self.wait_for_connections(plan.deadline).await;
        self.cut(|_| true).await;
    }

    /// Ends what is left when a new process serves, at the latest when its time is up. When called
    /// again, it continues where it was.
    pub async fn wind_down(&self) {
        let plan = self.current.load().drain_plan();
        let before = *self.winding_down_since.lock();
        let began = before.unwrap_or_else(|| {
            let stay = self.sessions.select(|live| !self.runner.moves(live));
            self.drains.start(DrainReason::Upgrade, &stay, plan);
            self.close_idle();
            Instant::now()
        });
        *self.winding_down_since.lock() = Some(began);
        let remaining = plan.deadline.saturating_sub(began.elapsed());
        self.wait_for_connections(remaining).await;
        // Sessions that could move wait for a slow new process, and are not cut because of it.
        while !self.connections.is_empty() {
            self.cut(|live| !self.runner.moves(live)).await;
        }
    }

    /// Ends everything but the sessions that can move, and returns how many sessions that were.
    /// Like [`App::wind_down`], but nobody serves meanwhile who is not here already.
    pub async fn end_others(&self) -> usize {
        // An accept loop may not have seen yet that it accepts no more, and a session that has just
        // begun may still be with Pingora.
        tokio::time::sleep(SETTLES_WITHIN).await;
        let plan = self.current.load().drain_plan();
        let stay = self.sessions.select(|live| !self.runner.moves(live));
        self.drains.start(DrainReason::Upgrade, &stay, plan);
        self.close_idle();
        // A stop that follows has only the rest of this time.
        *self.winding_down_since.lock() = Some(Instant::now());
        let ended = async {
            while self.others() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(plan.deadline, ended).await.is_err() {
            self.cut(|live| !self.runner.moves(live)).await;
        }
        stay.len()
    }

    /// The number of connections that are no session that can move.
    fn others(&self) -> usize {
        let stay = self.sessions.select(|live| !self.runner.moves(live));
        let move_on = self.sessions.len().saturating_sub(stay.len());
        self.connections.len().saturating_sub(move_on)
    }

    /// Treats sessions as ones that cannot move if there are more than so many.
    pub fn hold_back(&self, above: usize) {
        let can_move = self.sessions.select(|live| self.runner.moves(live));
        if can_move.len() > above {
            let more = can_move.len() - above;
            warn!(
                "{more} of {} sessions are told to go: no more can be kept",
                can_move.len()
            );
        }
        for live in can_move.iter().skip(above) {
            live.traffic.set_refused(true);
        }
    }

    /// Ends every connection that is still served here. A moment is for those that are ending.
    pub async fn cut_all(&self) {
        self.wait_for_connections(AT_ONCE).await;
        if !self.connections.is_empty() {
            self.cut(|_| true).await;
        }
    }

    /// Writes the rest of the log. Nothing is logged after this.
    pub async fn close_log(&self) {
        repeated::tell_all();
        let log = self.log.clone();
        // The thread goes on writing even if nobody waits any more.
        let _ = tokio::task::spawn_blocking(move || log.close()).await;
    }

    /// The rest of the work needs no idle connections to servers.
    fn close_idle(&self) {
        let generation = self.current.load();
        generation
            .groups()
            .iter()
            .for_each(|group| group.close_idle());
    }

    /// Ends these sessions and every exchange. Returns when no connection is left, or after a
    /// moment.
    async fn cut(&self, must_go: impl Fn(&LiveSession) -> bool) {
        let must_go = self.sessions.select(|live| must_go(live));
        let stay = self.sessions.len().saturating_sub(must_go.len());
        let remaining = self.connections.len().saturating_sub(stay);
        if remaining == 0 {
            return self.wait_for_connections(LAST_LINES).await;
        }
        info!("{remaining} connections are cut");
        let cut = Order::Cut {
            by: ClosedBy::Drain,
        };
        must_go.iter().for_each(|live| live.traffic.ask(cut));
        let _cutting = self.edge.cut();
        self.wait_until_left(stay, LAST_LINES).await;
    }

    /// Waits until no connections are left, or the time is up.
    async fn wait_for_connections(&self, limit: Duration) {
        self.wait_until_left(0, limit).await;
    }

    /// Waits until only so many connections are left, or the time is up.
    async fn wait_until_left(&self, count: usize, limit: Duration) {
        let done = async {
            while self.connections.len() > count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        // The caller cuts what is left after the limit.
        let _ = tokio::time::timeout(limit, done).await;
    }
}
