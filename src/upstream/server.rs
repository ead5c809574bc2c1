//! One server of one upstream: its live load, its health, and its settings in the file.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;

use super::eject::Ejection;
use super::health::counter::{Counter, Health, Transition};
use super::history::{Change, History, Standing};
use super::keys_in_use::KeyUse;
use super::pacing::Pace;
use crate::config::{self, Start};
use crate::limits::descriptors::Descriptor;

pub use state::ServerState;

/// What a [`Lease`] counts. A session counts against `max_sessions`, a request does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    Request,
    Session,
}

/// Whether a pick takes ejected servers. It does so only if there are no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ejected {
    /// Avoids servers that are ejected at this time, in [`now_ms`]. Reading the clock for each
    /// server would cost more than the rest of the pick.
    Avoid {
        now: u64,
    },
    Accept,
}

impl Ejected {
    pub fn avoid() -> Self {
        Self::Avoid { now: now_ms() }
    }
}

/// The last check of a server that had a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastCheck {
    pub at: Timestamp,
    /// Why the check failed. `None`: it passed.
    pub failure: Option<String>,
}

/// The lasting state of one address in one upstream. It survives reloads while the address stays.
#[derive(Debug)]
pub struct Server {
    pub address: SocketAddr,
    /// Requests in flight and live sessions together.
    load: AtomicUsize,
    sessions: AtomicUsize,
    health: Mutex<Counter>,
    /// A copy of the counter's state, so that picks need no lock.
    health_now: AtomicUsize,
    /// How often the results of checks were forgotten.
    epoch: AtomicUsize,
    ejection: Ejection,
    /// Whether the operator has taken the server out.
    drained: AtomicBool,
    /// Until when the server, though drained, keeps the requests of clients that belong to it, in
    /// [`now_ms`].
    keeps_own_until: AtomicU64,
    connect_errors: AtomicU64,
    /// Sessions that began on this server in this process.
    handshakes: AtomicU64,
    /// Messages in both directions of sessions that are gone. Live sessions have their own counts.
    messages: AtomicU64,
    history: History,
    last_check: Mutex<Option<LastCheck>>,
    /// When the slow start began, in [`now_ms`]. 0: no slow start.
    started_ms: AtomicU64,
    /// The handshakes that are under way on it.
    pub pace: Pace,
}

impl Server {
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            load: AtomicUsize::new(0),
            sessions: AtomicUsize::new(0),
            health: Mutex::new(Counter::default()),
            health_now: AtomicUsize::new(Health::Unchecked as usize),
            epoch: AtomicUsize::new(0),
            ejection: Ejection::default(),
            drained: AtomicBool::new(false),
            keeps_own_until: AtomicU64::new(0),
            connect_errors: AtomicU64::new(0),
            handshakes: AtomicU64::new(0),
            messages: AtomicU64::new(0),
            history: History::default(),
            last_check: Mutex::default(),
            started_ms: AtomicU64::new(0),
            pace: Pace::default(),
        }
    }

    pub fn load(&self) -> usize {
        self.load.load(Relaxed)
    }

    pub fn sessions(&self) -> usize {
        self.sessions.load(Relaxed)
    }

    pub fn health(&self) -> Health {
        Health::from_code(self.health_now.load(Relaxed))
    }

    /// Counts the result of one check. Returns a change of health, to be logged.
    pub fn observe_check(&self, passed: bool, check: &config::HealthCheck) -> Option<Transition> {
        let mut counter = self.health.lock();
        let transition = counter.observe(passed, check.rise, check.fall);
        self.health_now.store(counter.health() as usize, Relaxed);
        if transition == Some(Transition::Recovered) {
            self.start_slowly();
        }
        transition
    }

    /// Notes the last check. `failure`: why it failed, if it did.
    pub fn note_check(&self, failure: Option<String>) {
        let at = Timestamp::now();
        *self.last_check.lock() = Some(LastCheck { at, failure });
    }

    pub fn last_check(&self) -> Option<LastCheck> {
        self.last_check.lock().clone()
    }

    /// Takes over what the process before had found.
    pub fn inherit_health(&self, was_up: bool, check: &config::HealthCheck) {
        let mut counter = self.health.lock();
        counter.inherit(was_up, check.fall);
        self.health_now.store(counter.health() as usize, Relaxed);
    }

    /// Forgets the results of checks: the server left, or comes from a configuration without
    /// checks. It must be checked before it gets traffic.
    pub fn forget_health(&self) {
        let mut counter = self.health.lock();
        *counter = Counter::default();
        self.health_now.store(Health::Unchecked as usize, Relaxed);
        self.epoch.fetch_add(1, Relaxed);
    }

    /// If this number has changed, a check is due, whenever the last one was.
    pub fn epoch(&self) -> usize {
        self.epoch.load(Relaxed)
    }

    /// Counts a failed connect, handshake or answer. Returns true if this failure ejects the
    /// server.
    pub fn record_failure(&self, rule: &config::Eject) -> bool {
        let ejected = self.ejection.record_failure(rule, now_ms());
        if ejected {
            // After the ejection the server starts slowly, as after a failed check.
            self.started_ms
                .store(now_ms() + rule.duration.as_millis() as u64, Relaxed);
            self.pace.begin_anew();
        }
        ejected
    }

    pub fn count_connect_error(&self) {
        self.connect_errors.fetch_add(1, Relaxed);
    }

    pub fn connect_errors(&self) -> u64 {
        self.connect_errors.load(Relaxed)
    }

    pub fn count_handshake(&self) {
        self.handshakes.fetch_add(1, Relaxed);
    }

    pub fn handshakes(&self) -> u64 {
        self.handshakes.load(Relaxed)
    }

    /// Adds the messages of a session that has ended or left.
    pub fn add_messages(&self, count: u64) {
        self.messages.fetch_add(count, Relaxed);
    }

    /// Takes off the messages that a session brought from another process; it adds them when it
    /// leaves. The count may wrap below zero until then.
    pub fn take_off_messages(&self, count: u64) {
        self.messages.fetch_sub(count, Relaxed);
    }

    /// The messages of sessions that are gone, minus those that live sessions brought along. Add,
    /// wrapping, what the live sessions have carried.
    pub fn messages(&self) -> u64 {
        self.messages.load(Relaxed)
    }

    /// Whether the operator has taken the server out. Then no pick takes it, even without others.
    pub fn is_drained(&self) -> bool {
        self.drained.load(Relaxed)
    }

    /// A server that is put back starts slowly, as after a failed check.
    pub fn set_drained(&self, drained: bool) {
        let was_drained = self.drained.swap(drained, Relaxed);
        if was_drained && !drained {
            self.start_slowly();
        }
    }

    pub fn is_ejected(&self) -> bool {
        self.ejection.is_active(now_ms())
    }

    /// Begins the slow start, because the server is new or back.
    pub fn start_slowly(&self) {
        self.started_ms.store(now_ms().max(1), Relaxed);
        self.pace.begin_anew();
    }

    /// The part of its weight that the server has now, from 0.1 to 1.
    fn warmth(&self, slow_start: Duration) -> f64 {
        let started = self.started_ms.load(Relaxed);
        if slow_start.is_zero() || started == 0 {
            return 1.0;
        }
        let age = now_ms().saturating_sub(started) as f64 / 1000.0;
        let warmth = age / slow_start.as_secs_f64();
        if warmth >= 1.0 {
            // The slow start is over, so later picks need not read the clock. A slow start that
            // begins at this very moment stays.
            let _ = self
                .started_ms
                .compare_exchange(started, 0, Relaxed, Relaxed);
        }
        warmth.clamp(0.1, 1.0)
    }

    /// Adds to the load only if the load is still the one on which the caller decided.
    fn add_load_if(&self, seen: usize) -> bool {
        self.load
            .compare_exchange(seen, seen + 1, Relaxed, Relaxed)
            .is_ok()
    }
}

/// A server as one configuration has it.
#[derive(Debug)]
pub struct Member {
    pub server: Arc<Server>,
    pub weight: u32,
    /// `None`: no limit.
    pub max_sessions: Option<usize>,
    pub backup: bool,
    pub slow_start: Duration,
    /// Whether this configuration checks and ejects servers. If not, the state left by one that did
    /// is ignored.
    pub checked: bool,
    /// How the server counts until its first check has a result.
    pub start: Start,
    pub ejectable: bool,
}

impl Member {
    pub fn standing(&self) -> Standing {
        match () {
            () if self.server.is_drained() => Standing::Drained,
            () if !self.is_healthy() => Standing::Down,
            () if self.ejectable && self.server.is_ejected() => Standing::Ejected,
            () if self.checked && self.server.health() == Health::Up => Standing::Up,
            () => Standing::Unchecked,
        }
    }

    /// Notes the present standing, if it is new.
    pub fn note(&self) {
        let (standing, now) = (self.standing(), Timestamp::now());
        let remaining = self.server.ejection.remaining(now_ms());
        let until = remaining
            .filter(|_| standing == Standing::Ejected)
            .and_then(|remaining| now.checked_add(Duration::from_millis(remaining)).ok());
        self.server.history.note(standing, until, now);
    }

    /// The last entry is the present standing.
    pub fn history(&self) -> Vec<Change> {
        let standing = self.standing();
        self.server.history.changes(standing, Timestamp::now())
    }

    /// Puts the changes that the process before has seen first.
    pub fn restore(&self, history: Vec<Change>) {
        self.server.history.restore(history);
        self.note();
    }

    pub fn is_healthy(&self) -> bool {
        !self.checked || self.server.health() != Health::Down
    }

    /// The result of its checks. `None`: no result yet, or no checks.
    pub fn found_up(&self) -> Option<bool> {
        match self.server.health() {
            Health::Up if self.checked => Some(true),
            Health::Down if self.checked => Some(false),
            _ => None,
        }
    }

    /// Whether the server gets no traffic because its first check has no result yet.
    pub fn is_held_back(&self) -> bool {
        self.start == Start::Down && self.checked && self.server.health() == Health::Unchecked
    }

    pub fn is_usable(&self, ejected: Ejected) -> bool {
        !self.server.is_drained() && self.is_able(ejected)
    }

    /// Whether the server takes a client that belongs to it. A drained one takes its requests until
    /// the window of the drain is over, and no new session.
    pub fn is_usable_for_own(&self, ejected: Ejected, load: Load) -> bool {
        let is_kept = || load == Load::Request && self.server.keeps_own();
        (!self.server.is_drained() || is_kept()) && self.is_able(ejected)
    }

    /// Whether the server could take traffic, whatever the operator says.
    fn is_able(&self, ejected: Ejected) -> bool {
        let is_avoided = match ejected {
            Ejected::Avoid { now } => self.ejectable && self.server.ejection.is_active(now),
            Ejected::Accept => false,
        };
        self.is_healthy() && !self.is_held_back() && !is_avoided
    }

    /// The weight in hundredths. It is less while the server starts slowly.
    pub fn weight_now(&self) -> u64 {
        ((f64::from(self.weight) * 100.0 * self.warmth()) as u64).max(1)
    }

    /// The part of its weight that the server has now. It is below 1 only during the slow start.
    pub fn warmth(&self) -> f64 {
        self.server.warmth(self.slow_start)
    }

    pub fn has_room(&self, load: Load) -> bool {
        load == Load::Request
            || self
                .max_sessions
                .is_none_or(|max| self.server.sessions() < max)
    }

    /// Counts one more. `None`: the server is full.
    pub fn lease(&self, load: Load) -> Option<Lease> {
        self.take_session(load)?;
        self.server.load.fetch_add(1, Relaxed);
        Some(Lease::new(self.server.clone(), load))
    }

    /// Like [`Member::lease`], but returns `None` also if the load is no longer `seen`: another
    /// pick has taken the same server, so the choice must be made again.
    pub fn lease_if_load_is(&self, seen: usize, load: Load) -> Option<Lease> {
        self.take_session(load)?;
        if !self.server.add_load_if(seen) {
            if load == Load::Session {
                self.server.sessions.fetch_sub(1, Relaxed);
            }
            return None;
        }
        Some(Lease::new(self.server.clone(), load))
    }

    fn take_session(&self, load: Load) -> Option<()> {
        if load == Load::Session {
            let max = self.max_sessions.unwrap_or(usize::MAX);
            self.server
                .sessions
                .fetch_update(Relaxed, Relaxed, |now| (now < max).then_some(now + 1))
                .ok()?;
        }
        Some(())
    }
}

/// One request or session on a server, counted from the pick until this is dropped.
#[derive(Debug)]
pub struct Lease {
    server: Arc<Server>,
    load: Load,
    /// With `load_bound`: the hash key, which stays on the server as long as this lease lives.
    key: Option<Arc<KeyUse>>,
    /// The descriptor of a session's connection to the server. A request's is reserved by its
    /// client's connection.
    _descriptor: Option<Descriptor>,
}

impl Lease {
    /// The caller has already added it to the server's load.
    fn new(server: Arc<Server>, load: Load) -> Self {
        Self {
            server,
            load,
            key: None,
            _descriptor: (load == Load::Session).then(Descriptor::hold),
        }
    }

    pub fn with_key(self, key: Arc<KeyUse>) -> Self {
        let mut lease = self;
        lease.key = Some(key);
        lease
    }

    /// For a session that is already running, whatever the server's limits are.
    pub fn of_session(server: Arc<Server>) -> Self {
        server.load.fetch_add(1, Relaxed);
        server.sessions.fetch_add(1, Relaxed);
        Self::new(server, Load::Session)
    }

    /// The request has become a session, whatever the server's limits are.
    pub fn into_session(mut self) -> Self {
        if self.load == Load::Request {
            self.server.sessions.fetch_add(1, Relaxed);
            self.load = Load::Session;
            self._descriptor = Some(Descriptor::hold());
        }
        self
    }

    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(key) = &self.key {
            key.touch(now_ms());
        }
        self.server.load.fetch_sub(1, Relaxed);
        if self.load == Load::Session {
            self.server.sessions.fetch_sub(1, Relaxed);
        }
    }
}

/// Milliseconds since a moment before the process began, so that times from another process can be
/// represented too.
pub(super) fn now_ms() -> u64 {
    const BEFORE: u64 = 1 << 40;
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    BEFORE + START.elapsed().as_millis() as u64
}

mod state;
#[cfg(test)]
mod tests;
