//! Who waits for the servers of an upstream, in the order of arrival.
//!
//! ```text
//!            nobody waits in its line                       it is full
//!   arrives ──────────────────────────► tries      waits ◄──────────── tries
//!      │                                            │  ▲                 │
//!      │ others wait, or no server had room         │  │ no room again   │ a server has room
//!      └──────────► waits ──► is first in its line  ▼  │                 ▼
//!                     │       and is called ────────► tries ─────────► leaves, and the next
//!                     └───► leaves (gone, too late, stopping)          in line is called
//! ```
//!
//! Only the first of a line tries, so nobody is overtaken. It is called when a server of the line
//! may have room, and when the one before it has left. A call that finds no room costs one more
//! try and nothing else, so calling too often is safe, and calling too seldom is what the tests
//! look for.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Instant;

/// What a handshake waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Line {
    /// Any server of the upstream.
    Any,
    /// The server to which its key belongs.
    Of(SocketAddr),
}

/// One that waits: its line, and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Waiter {
    pub line: Line,
    number: i64,
}

/// `C`: how a waiter is called.
#[derive(Debug)]
pub struct Queue<C> {
    /// No line is empty.
    lines: HashMap<Line, BTreeMap<i64, Waiting<C>>>,
    waiting: usize,
    /// The numbers of the next one at the end of a line, and of the next one at its beginning.
    next: (i64, i64),
}

#[derive(Debug)]
struct Waiting<C> {
    since: Instant,
    call: C,
}

impl<C> Default for Queue<C> {
    fn default() -> Self {
        Self {
            lines: HashMap::new(),
            waiting: 0,
            next: (0, -1),
        }
    }
}

impl<C> Queue<C> {
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// When the one that has waited longest came.
    pub fn longest(&self) -> Option<Instant> {
        // Who came again stands before those who came earlier.
        let firsts = self.lines.values().filter_map(|line| {
            let in_order = line.range(0..).next().map(|(_, waiting)| waiting.since);
            let again = line.range(..0).map(|(_, waiting)| waiting.since).min();
            in_order.into_iter().chain(again).min()
        });
        firsts.min()
    }

    /// Whether somebody waits in this line.
    pub fn has(&self, line: Line) -> bool {
        self.lines.contains_key(&line)
    }

    /// Adds one at the end of the line, or, if it comes again after a server has failed or from
    /// another line, at the beginning. `None`: `most` wait already.
    pub fn enter(
        &mut self,
        line: Line,
        comes_again: bool,
        (most, now): (usize, Instant),
        call: C,
    ) -> Option<Waiter> {
        if self.waiting >= most {
            return None;
        }
        let number = match comes_again {
            true => self.next.1,
            false => self.next.0,
        };
        match comes_again {
            true => self.next.1 -= 1,
            false => self.next.0 += 1,
        }
        let waiting = Waiting { since: now, call };
        self.lines.entry(line).or_default().insert(number, waiting);
        self.waiting += 1;
        Some(Waiter { line, number })
    }

    /// Whether it is its turn to try.
    pub fn is_first(&self, waiter: Waiter) -> bool {
        let first = self
            .lines
            .get(&waiter.line)
            .and_then(BTreeMap::first_key_value);
        first.is_some_and(|(number, _)| *number == waiter.number)
    }

    /// It waits no more. Returns whom to call: who is first in its line now.
    pub fn leave(&mut self, waiter: Waiter) -> Option<&C> {
        let was_first = self.is_first(waiter);
        let line = self.lines.get_mut(&waiter.line)?;
        if line.remove(&waiter.number).is_some() {
            self.waiting -= 1;
        }
        if line.is_empty() {
            self.lines.remove(&waiter.line);
            return None;
        }
        self.first(waiter.line)
            .filter(|_| was_first)
            .map(|first| &first.call)
    }

    /// This server may have room. Returns whom to call, the one that has waited longer first.
    pub fn freed(&self, server: SocketAddr) -> impl Iterator<Item = &C> {
        let (any, own) = (self.first(Line::Any), self.first(Line::Of(server)));
        let is_own_first = match (any, own) {
            (Some(any), Some(own)) => own.since < any.since,
            _ => false,
        };
        let order = if is_own_first { [own, any] } else { [any, own] };
        order.into_iter().flatten().map(|first| &first.call)
    }

    fn first(&self, line: Line) -> Option<&Waiting<C>> {
        let first = self.lines.get(&line)?.first_key_value();
        first.map(|(_, waiting)| waiting)
    }
}

#[cfg(test)]
mod tests;
