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
    /// Live sessions, all together.
    pub sessions: usize,
    /// Connections of clients that are not sessions.
    pub connections: usize,
    /// Those that are not done yet.
    pub drains: Vec<Drain>,
    /// What operators had done lately, the newest first; of the processes before, too.
    #[serde(default)]
    pub operations: Vec<Done>,
    /// How many reloads and upgrades there were, since the first of the processes that handed over.
    #[serde(default)]
    pub counts: OperationCounts,
    /// Of all sessions, both ways, those among them that have ended in this process.
    #[serde(default)]
    pub bytes: u64,
    /// Sessions that have ended in this process, by who ended them.
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
    /// Of clients, those of sessions among them.
    #[serde(default)]
    pub connections: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub name: String,
    /// `None`: it answers by itself.
    pub upstream: Option<String>,
    pub sessions: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Upstream {
    pub name: String,
    pub balance: String,
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
    /// Sessions that began on it since this process serves.
    #[serde(default)]
    pub handshakes: u64,
    /// Messages of its sessions in both directions, since this process serves.
    #[serde(default)]
    pub messages: u64,
    /// Its last changes of state, the present one last.
    #[serde(default)]
    pub history: Vec<Change>,
    /// Whether it gets anything new now, as far as its state goes.
    #[serde(default)]
    pub usable: bool,
    /// `max_sessions`; `None`: no limit.
    #[serde(default)]
    pub limit: Option<usize>,
    /// Connections to it that could not be made, health checks apart.
    #[serde(default)]
    pub connect_errors: u64,
    /// `None`: none was made yet.
    #[serde(default)]
    pub last_check: Option<LastCheck>,
}

/// The last check that had a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastCheck {
    /// RFC 3339.
    pub at: String,
    /// Why it failed; `None`: it passed.
    pub failure: Option<String>,
}

/// From `since` (RFC 3339) on a server was in this state.
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
    /// No result of a check yet, or none are made.
    Unchecked,
    /// Out for a while after failures.
    Ejected,
    /// Taken out by the operator, and without sessions.
    Drained,
    /// Taken out by the operator, and it still has sessions.
    Draining,
    /// No longer in the file, but it still has sessions.
    Removed,
}

/// Sessions that are being told to go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Who must go and why, in words.
    pub what: String,
    pub code: u16,
    pub age_ms: u64,
    pub window_ms: u64,
    /// Everybody who was ever in it.
    pub total: usize,
    /// Those whose moment has come.
    #[serde(default)]
    pub told: usize,
    /// Those who are there still, told or not.
    pub left: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionPage {
    pub sessions: Vec<Session>,
    /// The value of `after` for the next page; `None`: this is the last.
    pub next: Option<String>,
    /// How many there are on all pages.
    #[serde(default)]
    pub total: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    pub id: String,
    pub listener: String,
    pub route: String,
    pub upstream: String,
    pub server: String,
    pub client: String,
    pub host: String,
    pub path: String,
    pub user_agent: Option<String>,
    pub age_ms: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub messages_in: u64,
    pub messages_out: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReport {
    /// What changed, an item a line; empty: the file says what it said.
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

/// Every call that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub error: String,
    pub hint: String,
}
