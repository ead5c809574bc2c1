//! Ends all sessions of a user, those included that are still to come from the process before.

use super::*;
use crate::session::live::LiveSession;
use crate::session::traffic::{ClosedBy, Order};

impl App {
    /// Returns how many sessions are told to go.
    pub fn close_user(&self, user: &str, code: u16) -> usize {
        if let Some(closed) = &mut *self.closed_users.lock() {
            closed.retain(|(other, _)| other != user);
            closed.push((user.to_owned(), code));
        }
        let is_theirs = |live: &LiveSession| live.identity.user.as_deref() == Some(user);
        let sessions = self.sessions.select(is_theirs);
        sessions.iter().for_each(|live| close(live, code));
        sessions.len()
    }

    /// Whether sessions may still come from the process before.
    pub fn expect_sessions(&self, are_expected: bool) {
        *self.closed_users.lock() = are_expected.then(Vec::new);
    }

    /// For a session that has come from there: its user may have been logged out meanwhile.
    pub fn close_if_asked(&self, live: &LiveSession) {
        let Some(user) = &live.identity.user else {
            return;
        };
        let closed = self.closed_users.lock();
        let mut closed = closed.iter().flatten();
        if let Some((_, code)) = closed.find(|(closed, _)| **closed == **user) {
            close(live, *code);
        }
    }
}

fn close(live: &LiveSession, code: u16) {
    let by = ClosedBy::Operator;
    live.traffic.ask(Order::End { by, code });
}
