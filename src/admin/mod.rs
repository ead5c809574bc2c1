//! The operator's API: what a running prusik shows, and what it can be told to do.
//!
//! ```text
//!   socket ──► server ──► guard ──► api ──► Control ──► answer
//!   TCP, unix  HTTP/1.1   who may   paths   the process  JSON: view
//! ```
//!
//! [`Control`] is its interface to the process, [`view`] the JSON that it answers with (and that
//! the command line reads).

mod answer;
mod api;
#[cfg(test)]
pub(crate) mod fake;
pub mod guard;
pub mod params;
pub mod server;
pub mod socket;
mod stall;
pub mod view;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use view::{SessionPage, Status, Upstream};

use crate::session::live::SessionKind;

pub use guard::Access;
pub use server::{Milestones, Serving, serve};
pub use socket::bind;

/// What the API asks of the process.
#[async_trait]
pub trait Control: Send + Sync + 'static {
    /// Whether the process should get traffic: false from the beginning of a stop.
    fn is_ready(&self) -> bool;

    fn status(&self) -> Status;

    fn upstreams(&self) -> Vec<Upstream>;

    /// Fails if the upstream, server, route or session does not exist.
    fn sessions(&self, filter: &SessionFilter) -> Result<SessionPage, ControlError>;

    /// Returns Prometheus' text format. May take some milliseconds.
    fn metrics(&self) -> String;

    /// The process that answers instead of this one, after it has taken over.
    fn successor(&self) -> Option<u32>;

    /// Returns when the command is done, even if nobody waits for it.
    async fn command(&self, request: Request) -> CommandOutcome;
}

/// A command of an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Read the file again. All of it is used, or nothing.
    Reload,
    /// Done when the new process serves, or when this one has continued.
    Upgrade,
    /// The server gets nothing new, and its sessions are told to go.
    Drain(ServerName, DrainOrder),
    /// The server is used again.
    Enable(ServerName),
    /// Ends one session with a Close frame.
    Close(Uuid, Option<u16>),
    /// Ends all sessions of a user.
    CloseUser {
        user: String,
        code: Option<u16>,
        /// How many the process before has closed, of those that it had.
        closed: usize,
    },
}

/// A command, and who has given it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub command: Command,
    /// Who it was, in words for the log: `uid 0 (pid 77) on the unix socket`.
    pub by: String,
}

/// The API's answer to a command.
pub type CommandOutcome = Result<serde_json::Value, ControlError>;

/// `UPSTREAM/ADDRESS`, the form in which operators name a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerName {
    pub upstream: String,
    /// The address in the file, or a resolved one.
    pub address: String,
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.upstream, self.address)
    }
}

impl FromStr for ServerName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.rsplit_once('/') {
            Some((upstream, address)) if !upstream.is_empty() && !address.is_empty() => Ok(Self {
                upstream: upstream.to_owned(),
                address: address.to_owned(),
            }),
            _ => Err("write UPSTREAM/ADDRESS, such as chat/127.0.0.1:9080"),
        }
    }
}

/// `None` means the value in `server.drain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DrainOrder {
    pub window: Option<Duration>,
    pub code: Option<u16>,
}

/// Selects sessions. `None` admits all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SessionFilter {
    pub upstream: Option<String>,
    pub server: Option<SocketAddr>,
    pub client: Option<IpAddr>,
    pub route: Option<String>,
    /// A part of the path, the query included.
    pub path: Option<String>,
    pub id: Option<Uuid>,
    pub kind: Option<SessionKind>,
    pub user: Option<String>,
    /// Parts of the id, the client, the user, the path or one of the names, separated by white
    /// space and in lower case.
    pub search: Option<String>,
    pub older_than: Option<Duration>,
    /// Only sessions after the one with this id.
    pub after: Option<Uuid>,
    /// At most this many.
    pub limit: usize,
    pub order: SessionOrder,
}

/// By id: ids are ordered by the time of the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SessionOrder {
    #[default]
    OldestFirst,
    NewestFirst,
}

/// Why something was not done, and what the operator can do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct ControlError {
    pub kind: ControlErrorKind,
    pub error: String,
    pub hint: String,
}

impl ControlError {
    /// Nothing has changed.
    pub fn refused(error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            kind: ControlErrorKind::Refused,
            error: error.into(),
            hint: hint.into(),
        }
    }

    pub fn not_found(error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            kind: ControlErrorKind::NotFound,
            error: error.into(),
            hint: hint.into(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlErrorKind {
    /// 404: there is no such server or session.
    NotFound,
    /// 400: the request makes no sense.
    Invalid,
    /// 409: it cannot be done now or was refused, and nothing has changed.
    Refused,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_by_upstream_and_address() {
        let name: ServerName = "chat/[::1]:9080".parse().unwrap();
        assert_eq!(name.upstream, "chat");
        assert_eq!(name.address, "[::1]:9080");
        assert_eq!(name.to_string(), "chat/[::1]:9080");
        for wrong in ["chat", "/127.0.0.1:9080", "chat/", "/"] {
            assert!(wrong.parse::<ServerName>().is_err(), "{wrong}");
        }
    }
}
