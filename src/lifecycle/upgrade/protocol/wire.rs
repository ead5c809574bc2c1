//! The types that are sent. They are separate from the types that the process works with, which may
//! change freely. These may only gain fields, each with a default.
//!
//! Durations count from or to the moment of sending, because the clocks of two processes may
//! differ. The end of a credential is by the wall clock, as it is in the credential itself.

mod census;
mod found;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use census::{Census, CensusKey, UserKey};
pub use found::{Keys, Learned};

/// The protocol of a binary that does not say which one it speaks: 0.1.0.
pub const FIRST: u32 = 1;
/// The latest protocol that this binary speaks. Both sides speak the lower of their two.
pub const LATEST: u32 = 3;

/// Whether a process of this protocol takes event streams.
pub fn takes_streams(protocol: u32) -> bool {
    protocol >= 3
}

/// Whether a process of this protocol takes connections by TLS, with their keys. Others would write
/// plain text into their sockets.
pub fn takes_keys(protocol: u32) -> bool {
    protocol >= 3
}

/// Whether a process of this protocol takes this command.
pub fn takes_command(protocol: u32, command: &Command) -> bool {
    match command {
        Command::CloseUser { .. } => protocol >= 3,
        _ => protocol > FIRST,
    }
}

fn first() -> u32 {
    FIRST
}

/// The process that asks to take over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TakeOver {
    /// Its own process id: in a container mostly 1.
    pub pid: u32,
    pub version: String,
}

/// The new process could serve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ready {
    pub pid: u32,
    pub version: String,
    /// Addresses of inherited sockets that are not in its file.
    #[serde(default)]
    pub unused: Vec<String>,
    #[serde(default = "first")]
    pub protocol: u32,
}

/// The new process must serve, and continues with this state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Go {
    /// Servers that operators have taken out: upstream and address.
    pub drained: Vec<(String, SocketAddr)>,
    #[serde(default)]
    pub tally: Tally,
    /// By the names of the upstreams.
    #[serde(default)]
    pub known: Vec<(String, Known)>,
    /// Drains that continue. The first protocol has separate messages for them.
    #[serde(default)]
    pub drains: Vec<RunningDrain>,
    #[serde(default = "first")]
    pub protocol: u32,
}

impl Go {
    /// Nothing is known.
    pub fn empty() -> Self {
        Self {
            drained: Vec::new(),
            tally: Tally::default(),
            known: Vec::new(),
            drains: Vec::new(),
            protocol: LATEST,
        }
    }
}

/// The operations of operators, as counts and as a list.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// Successful ones, and failed ones.
    pub reloads: [u64; 2],
    pub upgrades: [u64; 2],
    /// The newest is last.
    pub history: Vec<Operation>,
    /// Who has asked for this upgrade.
    pub upgrade_by: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    pub time: String,
    pub operation: String,
    #[serde(default)]
    pub by: String,
    #[serde(default)]
    pub of: Option<String>,
    pub succeeded: bool,
    pub outcome: String,
}

/// What was found out about an upstream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Known {
    /// The last good answer for each name.
    pub names: Vec<(Name, Vec<SocketAddr>)>,
    /// For each server that was checked, whether it is up.
    pub servers: Vec<(SocketAddr, bool)>,
    pub history: Vec<(SocketAddr, Vec<Change>)>,
    pub states: Vec<(SocketAddr, ServerState)>,
    /// Every server that could be picked.
    pub members: Vec<SocketAddr>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Name {
    pub host: String,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    pub since: String,
    pub standing: String,
}

/// The states of a server that last for a time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerState {
    /// How long the server stays ejected.
    pub ejected_for: Option<Duration>,
    /// How long ago its slow start began.
    pub starting_since: Option<Duration>,
    /// How long it keeps the requests of clients that belong to it, though drained.
    pub keeps_own_for: Option<Duration>,
}

/// A drain that continues in the new process, for those of its sessions that come there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunningDrain {
    pub reason: DrainReason,
    pub code: u16,
    /// What remains of both times.
    pub window: Duration,
    pub deadline: Duration,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrainReason {
    ServerDrained(String, SocketAddr),
    ServerDown(String, SocketAddr),
    ServerRemoved(String, SocketAddr),
    RouteRemoved(String),
    #[serde(untagged)]
    Other(serde_json::Value),
}

/// A part of a running drain in the first protocol: one message has room for a limited number of
/// sessions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NamedDrain {
    pub what: String,
    pub code: u16,
    pub window: Duration,
    pub deadline: Duration,
    pub sessions: Vec<Uuid>,
}

/// A session that has stopped to move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    pub identity: Identity,
    pub age: Duration,
    pub counts: Counts,
    pub client: Leg,
    pub server: Leg,
    pub idle: Option<Duration>,
    /// The time until `max_session`.
    pub left: Option<Duration>,
    pub ping: Option<Duration>,
    /// The time since the last byte.
    pub quiet: Duration,
    /// The addresses of the client's connection that a PROXY header has named.
    #[serde(default)]
    pub proxied: Option<AddrPair>,
    /// The present name and address of the session's listener. `None`: the listener is gone.
    #[serde(default)]
    pub listener: Option<(String, String)>,
    /// The time since the client's last byte. Used with `ping`.
    #[serde(default)]
    pub unheard: Option<Duration>,
    /// The time since a ping that is not answered yet.
    #[serde(default)]
    pub pinged: Option<Duration>,
    /// `None`: the client may send any number of messages.
    #[serde(default)]
    pub message_rate: Option<MessageRate>,
    /// `None`: it outlives its credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiry: Option<Expiry>,
    /// When it began, by the machine's monotonic clock, in nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began: Option<u64>,
}

/// How many messages a client may send, and what it has spent of them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MessageRate {
    pub per_second: NonZeroU32,
    /// The time until a whole burst may come.
    pub until_full: Duration,
}

/// When a session is told that its credential has expired, and with which close code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expiry {
    /// Milliseconds since the epoch.
    pub told_at: u64,
    pub code: u16,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    pub id: Uuid,
    #[serde(default)]
    pub request_id: Option<String>,
    #[serde(default)]
    pub trace: Option<Trace>,
    pub listener: String,
    pub route: String,
    pub upstream: String,
    pub server: SocketAddr,
    pub client: String,
    pub method: String,
    pub host: String,
    pub path: String,
    pub user_agent: Option<String>,
    /// Whose session it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    pub handshake: Duration,
    pub attempts: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    pub trace: Uuid,
    pub span: u64,
    pub parent: Option<u64>,
    pub sampled: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub messages_in: u64,
    pub messages_out: u64,
    /// A cause that only another version knows counts as none. A session may move between the first
    /// and the second Close frame.
    #[serde(default)]
    pub closed_by: u8,
    #[serde(default)]
    pub close_code: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Leg {
    pub kind: Socket,
    pub scanner: Scanner,
    pub ended: bool,
    /// Nothing more is sent to this side.
    pub shut: bool,
    /// How long this side has taken nothing. Older versions do not send it.
    #[serde(default)]
    pub broken: Option<Duration>,
    /// `None`: plain text. Its keys are in a section of their own.
    #[serde(default)]
    pub tls: Option<Tls>,
}

/// What is known of a connection's TLS, besides its keys.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tls {
    /// The subject of the client's certificate.
    pub client: Option<String>,
    /// When that certificate stops being valid, in seconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_expires: Option<u64>,
    /// An end without close_notify is a cut, because nothing else says where the content ends.
    pub needs_close_notify: bool,
}

/// An event stream that has stopped to move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stream {
    pub about: About,
    pub client: Socket,
    pub server: Socket,
    /// `None`: plain text. The keys are in sections of their own.
    #[serde(default)]
    pub client_tls: Option<Tls>,
    #[serde(default)]
    pub server_tls: Option<Tls>,
    /// The client has ended its side.
    #[serde(default)]
    pub client_ended: bool,
    /// Whether the client gets chunks. Else its stream ends with its connection.
    pub to_chunks: bool,
    /// The position in the server's chunks. `None`: its stream ends with its connection.
    pub chunks: Option<Chunks>,
    /// The position in the events. `None`: they cannot be seen.
    pub events: Option<Events>,
}

/// What is known of every session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct About {
    pub identity: Identity,
    pub age: Duration,
    pub counts: Counts,
    pub idle: Option<Duration>,
    /// The time until `max_session`.
    pub left: Option<Duration>,
    pub ping: Option<Duration>,
    /// The time since the last byte.
    pub quiet: Duration,
    pub proxied: Option<AddrPair>,
    /// The present name and address of the session's listener. `None`: the listener is gone.
    pub listener: Option<(String, String)>,
    /// The time since the client's last byte.
    pub unheard: Option<Duration>,
    /// The time since the last ping.
    pub pinged: Option<Duration>,
    /// `None`: it outlives its credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiry: Option<Expiry>,
    /// When it began, by the machine's monotonic clock, in nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Chunks {
    pub position: u8,
    pub digits: u8,
    pub size: u64,
    pub length: u64,
    pub content: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Events {
    pub position: u8,
    pub has_crlf: bool,
    pub has_data: bool,
    pub events: u64,
}

/// What kind of socket a descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Socket {
    Tcp,
    Unix,
}

/// The position in a stream of frames.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scanner {
    pub sender: Sender,
    pub extended: bool,
    /// The first `header_len` bytes belong to a header that is not complete yet.
    pub header: [u8; 14],
    pub header_len: u8,
    pub payload_left: u64,
    pub fragmented: bool,
    pub messages: u64,
    pub pongs: u64,
    pub others: u64,
    pub close_code: Option<CloseCode>,
    pub broken: bool,
    #[serde(default)]
    pub is_over: bool,
    #[serde(default)]
    pub max_message: Option<u64>,
    #[serde(default)]
    pub message_size: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sender {
    Client,
    Server,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CloseCode {
    Absent,
    Code(u16),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddrPair {
    pub peer: SocketAddr,
    pub local: SocketAddr,
}

/// A connection between two requests, or in the middle of the head of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Idle {
    /// The address of its listener.
    pub listener: String,
    pub kind: Socket,
    #[serde(default)]
    pub proxied: Option<AddrPair>,
    /// The name of its listener. The first protocol does not send it.
    #[serde(default)]
    pub name: Option<String>,
    /// `None`: plain text. Its keys are in a section of their own.
    #[serde(default)]
    pub tls: Option<Tls>,
    /// Names the authorities of which one has vouched for the client. `None`: the client was asked
    /// for no certificate.
    #[serde(default)]
    pub vouched_by: Option<String>,
}

/// A command that an operator gave to the old process, for the new one to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    Reload,
    Drain {
        upstream: String,
        address: String,
        window: Option<Duration>,
        code: Option<u16>,
    },
    Enable {
        upstream: String,
        address: String,
    },
    Close {
        id: Uuid,
        code: Option<u16>,
    },
    CloseUser {
        user: String,
        code: Option<u16>,
        /// How many the old process has closed, of those that it had.
        closed: usize,
    },
}

/// The result of a [`Command`]: the API's answer, or why there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Done(serde_json::Value),
    Failed {
        kind: FailureKind,
        error: String,
        hint: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    NotFound,
    Invalid,
    Refused,
}
