//! The JSON of the API: written by the process, read by the command line.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::observe::entry::Done;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub uptime_ms: u64,
    pub state: State,
    pub config: String,
    pub listeners: Vec<Listener>,
    pub routes: Vec<Route>,
    pub upstreams: Vec<Upstream>,
    /// The number of live sessions.
    pub sessions: usize,
    /// Client connections that are not sessions.
    pub connections: usize,
    /// Drains that are not finished.
    pub drains: Vec<Drain>,
    /// The last operations, the newest first, including those of earlier processes.
    #[serde(default)]
    pub operations: Vec<Done>,
    /// How many reloads and upgrades there were, including those in earlier processes.
    #[serde(default)]
    pub counts: OperationCounts,
    /// Bytes of all sessions in both directions, including sessions that ended in this process.
    #[serde(default)]
    pub bytes: u64,
    /// Sessions that have ended in this process, counted by who ended them.
    #[serde(default)]
    pub ended: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OperationCounts {
    pub reloads_done: u64,
    pub reloads_refused: u64,
    pub upgrades_done: u64,
    pub upgrades_failed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Serving,
    /// A new process is about to take over.
    Upgrading,
    /// It accepts nothing more and its sessions are told to go.
    Draining,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    pub name: String,
    pub listen: String,
    /// Client connections, including those of sessions.
    #[serde(default)]
    pub connections: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub name: String,
    /// `None`: the route answers by itself.
    pub upstream: Option<String>,
    pub sessions: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Upstream {
    pub name: String,
    pub balance: String,
    /// Handshakes that wait until a server has time for them.
    #[serde(default)]
    pub waiting: usize,
    /// How long the one has waited that came first.
    #[serde(default)]
    pub waiting_ms: u64,
    pub servers: Vec<Server>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Server {
    pub address: String,
    pub state: ServerState,
    pub weight: u32,
    pub backup: bool,
    /// Live sessions.
    pub sessions: usize,
    /// Requests in flight.
    pub requests: usize,
    /// Sessions that began on it in this process.
    #[serde(default)]
    pub handshakes: u64,
    /// Handshakes that are under way on it, and how many it gets at once now.
    #[serde(default)]
    pub handshakes_under_way: usize,
    #[serde(default)]
    pub handshakes_at_once: usize,
    /// Messages of its sessions in both directions, in this process.
    #[serde(default)]
    pub messages: u64,
    /// Its last changes of state. The last one is the present state.
    #[serde(default)]
    pub history: Vec<Change>,
    /// Whether its state lets it get new traffic.
    #[serde(default)]
    pub usable: bool,
    /// `max_sessions`; `None`: no limit.
    #[serde(default)]
    pub limit: Option<usize>,
    /// Failed connections to it, without health checks.
    #[serde(default)]
    pub connect_errors: u64,
    /// `None`: no check was made yet.
    #[serde(default)]
    pub last_check: Option<LastCheck>,
}

/// The last check that had a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastCheck {
    /// RFC 3339.
    pub at: String,
    /// Why it failed. `None`: it passed.
    pub failure: Option<String>,
}

/// A server was in this state since `since` (RFC 3339).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub since: String,
    pub state: ServerState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerState {
    Up,
    Down,
    /// No check has had a result yet, or there are no checks.
    Unchecked,
    /// Out for a while after failures.
    Ejected,
    /// Taken out by the operator, without sessions.
    Drained,
    /// Taken out by the operator, with sessions.
    Draining,
    /// No longer in the file, but with sessions.
    Removed,
}

/// A running drain of sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Which sessions must go and why, in words.
    pub what: String,
    pub code: u16,
    pub age_ms: u64,
    pub window_ms: u64,
    /// All sessions that were ever part of it.
    pub total: usize,
    /// Sessions whose moment has come.
    #[serde(default)]
    pub told: usize,
    /// Sessions that still live, told or not.
    pub left: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionPage {
    pub sessions: Vec<Session>,
    /// The value of `after` for the next page. `None`: this is the last page.
    pub next: Option<String>,
    /// The number of sessions on all pages.
    #[serde(default)]
    pub total: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    pub id: String,
    /// `websocket` or `stream`. An older process does not say.
    #[serde(default = "websocket")]
    pub kind: String,
    pub listener: String,
    pub route: String,
    pub upstream: String,
    pub server: String,
    pub client: String,
    pub host: String,
    pub path: String,
    pub user_agent: Option<String>,
    /// Whose session it is. `None`: nobody's.
    #[serde(default)]
    pub user: Option<String>,
    pub age_ms: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub messages_in: u64,
    /// Of an event stream: its events.
    pub messages_out: u64,
}

fn websocket() -> String {
    "websocket".to_owned()
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReport {
    /// What changed, one item for each line. Empty: the meaning of the file is the same.
    pub changes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeReport {
    /// The process that serves now.
    pub pid: u32,
    pub version: String,
    /// Sessions that moved to it.
    pub moved: usize,
    /// Sessions that could not move and are told to go.
    pub left: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainStarted {
    /// Sessions that are told to go.
    pub sessions: usize,
    pub window_ms: u64,
    pub code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserClosed {
    pub user: String,
    /// Sessions that are told to go.
    pub closed: usize,
}

/// The answer to every call that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub error: String,
    pub hint: String,
}
