//! Which server has brought which value of a header: a bounded table.
//!
//! Times are milliseconds of any steady clock, passed in by the caller.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use lru::LruCache;
use ring::digest::{SHA256, digest};

const FINGERPRINT_LEN: usize = 16;

/// Stands for a value, so that each takes as much memory as any other, and none can be read from
/// the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; FINGERPRINT_LEN]);

impl Fingerprint {
    pub fn of(value: &[u8]) -> Self {
        let mut bytes = [0; FINGERPRINT_LEN];
        bytes.copy_from_slice(&digest(&SHA256, value).as_ref()[..FINGERPRINT_LEN]);
        Self(bytes)
    }

    pub fn to_text(self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.0)
    }

    /// Reads the result of [`Fingerprint::to_text`].
    pub fn from_text(text: &str) -> Option<Self> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        bytes.try_into().ok().map(Self)
    }
}

/// A value and its server, for another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    pub value: Fingerprint,
    pub server: SocketAddr,
    /// How long ago it was used.
    pub idle: Duration,
}

/// The table of an upstream.
#[derive(Debug)]
pub struct Learned {
    /// In the order of their last use.
    known: LruCache<Fingerprint, Known>,
    max: NonZeroUsize,
    /// In milliseconds.
    idle: u64,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    server: SocketAddr,
    used: u64,
}

impl Learned {
    /// `idle`: how long a value is kept that nobody uses.
    pub fn new(max: NonZeroUsize, idle: Duration) -> Self {
        Self {
            known: LruCache::unbounded(),
            max,
            idle: millis(idle),
        }
    }

    /// Another configuration has other bounds.
    pub fn set_bounds(&mut self, max: NonZeroUsize, idle: Duration) {
        self.max = max;
        self.idle = millis(idle);
        self.keep_within_max();
    }

    /// The server that has brought this value. This use counts.
    pub fn find(&mut self, value: Fingerprint, now: u64) -> Option<SocketAddr> {
        let known = self.known.get_mut(&value)?;
        if is_idle(known.used, self.idle, now) {
            self.known.pop(&value);
            return None;
        }
        known.used = now;
        Some(known.server)
    }

    /// A server has brought this value. If there are too many, the one that was used least recently
    /// is forgotten.
    pub fn learn(&mut self, value: Fingerprint, server: SocketAddr, now: u64) {
        self.known.put(value, Known { server, used: now });
        self.keep_within_max();
    }

    pub fn forget_idle(&mut self, now: u64) {
        while let Some((_, oldest)) = self.known.peek_lru()
            && is_idle(oldest.used, self.idle, now)
        {
            self.known.pop_lru();
        }
    }

    /// Those that were used at this time or later, the most recent one last.
    pub fn used_since(&self, since: u64, now: u64) -> Vec<Binding> {
        let recent = self
            .known
            .iter()
            .take_while(|(_, known)| known.used >= since);
        let mut bindings: Vec<Binding> = recent
            .map(|(value, known)| Binding {
                value: *value,
                server: known.server,
                idle: Duration::from_millis(now.saturating_sub(known.used)),
            })
            .collect();
        bindings.reverse();
        bindings
    }

    /// Adds what another process has learned, unless it was used here more recently.
    pub fn restore(&mut self, bindings: impl IntoIterator<Item = Binding>, now: u64) {
        for Binding {
            value,
            server,
            idle,
        } in bindings
        {
            let used = now.saturating_sub(millis(idle));
            let is_older = |known: &Known| known.used < used;
            if self.known.peek(&value).is_none_or(is_older) {
                self.known.put(value, Known { server, used });
            }
        }
        self.keep_within_max();
    }

    pub fn len(&self) -> usize {
        self.known.len()
    }

    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    fn keep_within_max(&mut self) {
        while self.known.len() > self.max.get() {
            self.known.pop_lru();
        }
    }
}

fn is_idle(used: u64, idle: u64, now: u64) -> bool {
    now.saturating_sub(used) >= idle
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn learned(max: usize) -> Learned {
        Learned::new(NonZeroUsize::new(max).unwrap(), HOUR)
    }

    fn value(number: u16) -> Fingerprint {
        Fingerprint::of(&number.to_be_bytes())
    }

    fn server(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut table = learned(2);
        table.learn(value(1), server(1), 0);
        table.learn(value(2), server(2), 1);
        assert_eq!(table.find(value(1), 2), Some(server(1)));
        table.learn(value(3), server(3), 3);
        assert_eq!(table.find(value(2), 4), None);
        assert_eq!(table.find(value(1), 4), Some(server(1)));
        assert_eq!(table.find(value(3), 4), Some(server(3)));
        table.set_bounds(NonZeroUsize::MIN, HOUR);
        assert_eq!((table.len(), table.find(value(1), 5)), (1, None));
    }

    #[test]
    fn what_nobody_uses_for_the_time_is_forgotten() {
        let hour = millis(HOUR);
        let mut table = learned(10);
        table.learn(value(1), server(1), 0);
        table.learn(value(2), server(2), 0);
        assert_eq!(table.find(value(1), hour - 1), Some(server(1)));
        assert_eq!(table.find(value(2), hour), None);
        assert_eq!(table.find(value(1), 2 * hour - 2), Some(server(1)));
        table.forget_idle(3 * hour - 2);
        assert!(table.is_empty());
    }

    #[test]
    fn another_process_goes_on_with_it() {
        let mut old = learned(10);
        for number in 1..=4 {
            old.learn(value(number), server(number), u64::from(number) * 1000);
        }
        let mut new = learned(3);
        // It has already learned that a session has moved on.
        new.learn(value(4), server(9), 500_000);
        let sent = old.used_since(2000, 5000);
        assert_eq!(sent.len(), 3);
        assert_eq!(sent[0].idle, Duration::from_secs(3));
        new.restore(sent, 500_001);
        assert_eq!(new.len(), 3);
        assert_eq!(new.find(value(4), 500_001), Some(server(9)));
        assert_eq!(new.find(value(2), 500_001), Some(server(2)));
        new.learn(value(5), server(5), 500_002);
        assert_eq!(
            new.find(value(3), 500_003),
            None,
            "it was used least recently"
        );
        assert_eq!(old.used_since(5000, 5000), []);
        let text = value(1).to_text();
        assert_eq!(Fingerprint::from_text(&text), Some(value(1)));
        assert_eq!(Fingerprint::from_text(&text[1..]), None);
    }

    proptest! {
        /// Beside a table without any bound: what is found is right, and there is never too much.
        #[test]
        fn it_finds_what_was_learned_last_or_nothing(
            max in 1..8_usize,
            steps in prop::collection::vec((0..10_u16, 0..5_u16, 0..40 * 60_000_u64), 0..200),
        ) {
            let (mut table, mut model) = (learned(max), HashMap::new());
            let mut now = 0;
            for (number, port, pause) in steps {
                now += pause;
                if port == 0 {
                    let found = table.find(value(number), now);
                    if let Some(found) = found {
                        let (expected, used) = model[&number];
                        prop_assert_eq!(found, expected);
                        prop_assert!(now - used < millis(HOUR));
                        model.insert(number, (found, now));
                    }
                } else {
                    table.learn(value(number), server(port), now);
                    model.insert(number, (server(port), now));
                    prop_assert_eq!(table.find(value(number), now), Some(server(port)));
                }
                prop_assert!(table.len() <= max);
            }
        }
    }
}
