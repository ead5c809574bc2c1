//! Converts between the types that are sent and those that the process works with.

use std::net::SocketAddr;

use jiff::Timestamp;

use super::protocol::wire;
use crate::admin::{Command, ControlError, ControlErrorKind, DrainOrder, ServerName};
use crate::forward::proxy_protocol::AddrPair;
use crate::net::SocketKind;
use crate::observe::entry::{Done, Operation};
use crate::observe::operations::Tally;
use crate::observe::trace::TraceContext;
use crate::session::drain::DrainReason;
use crate::session::expiry::Expiry;
use crate::session::live::Identity;
use crate::session::traffic::Counts;
use crate::upstream::history::{Change, Standing};
use crate::upstream::{Name, ServerState, WarmState};
use crate::websocket::frames::{CloseCode, ScannerState, Sender};

impl From<&Identity> for wire::Identity {
    fn from(identity: &Identity) -> Self {
        Self {
            id: identity.id,
            request_id: identity.request_id.as_deref().map(str::to_owned),
            trace: identity.trace.as_deref().map(|trace| wire::Trace {
                trace: trace.trace,
                span: trace.span,
                parent: trace.parent,
                sampled: trace.sampled,
            }),
            listener: identity.listener.to_string(),
            route: identity.route.to_string(),
            upstream: identity.upstream.to_string(),
            server: identity.server,
            client: identity.client.to_string(),
            method: identity.method.to_string(),
            host: identity.host.to_string(),
            path: identity.path.to_string(),
            user_agent: identity.user_agent.as_deref().map(str::to_owned),
            user: identity.user.as_deref().map(str::to_owned),
            handshake: identity.handshake,
            attempts: identity.attempts,
        }
    }
}

impl From<wire::Identity> for Identity {
    fn from(identity: wire::Identity) -> Self {
        let trace = |trace: wire::Trace| TraceContext {
            trace: trace.trace,
            span: trace.span,
            parent: trace.parent,
            sampled: trace.sampled,
        };
        Self {
            id: identity.id,
            request_id: identity.request_id.map(Into::into),
            trace: identity.trace.map(trace).map(Box::new),
            listener: identity.listener.into(),
            route: identity.route.into(),
            upstream: identity.upstream.into(),
            server: identity.server,
            client: identity.client.into(),
            method: identity.method.into(),
            host: identity.host.into(),
            path: identity.path.into(),
            user_agent: identity.user_agent.map(Into::into),
            user: identity.user.map(Into::into),
            handshake: identity.handshake,
            attempts: identity.attempts,
        }
    }
}

impl From<Expiry> for wire::Expiry {
    fn from(expiry: Expiry) -> Self {
        Self {
            told_at: expiry.told_at(),
            code: expiry.code(),
        }
    }
}

impl From<wire::Expiry> for Expiry {
    fn from(wire::Expiry { told_at, code }: wire::Expiry) -> Self {
        Self::from_parts(told_at, code)
    }
}

impl From<Counts> for wire::Counts {
    fn from(counts: Counts) -> Self {
        Self {
            bytes_in: counts.bytes_in,
            bytes_out: counts.bytes_out,
            messages_in: counts.messages_in,
            messages_out: counts.messages_out,
            closed_by: counts.closed_by,
            close_code: counts.close_code,
        }
    }
}

impl From<wire::Counts> for Counts {
    fn from(counts: wire::Counts) -> Self {
        Self {
            bytes_in: counts.bytes_in,
            bytes_out: counts.bytes_out,
            messages_in: counts.messages_in,
            messages_out: counts.messages_out,
            closed_by: counts.closed_by,
            close_code: counts.close_code,
        }
    }
}

impl From<ScannerState> for wire::Scanner {
    fn from(state: ScannerState) -> Self {
        Self {
            sender: match state.sender {
                Sender::Client => wire::Sender::Client,
                Sender::Server => wire::Sender::Server,
            },
            extended: state.extended,
            header: state.header,
            header_len: state.header_len,
            payload_left: state.payload_left,
            fragmented: state.fragmented,
            messages: state.messages,
            pongs: state.pongs,
            others: state.others,
            close_code: state.close_code.map(|code| match code {
                CloseCode::Absent => wire::CloseCode::Absent,
                CloseCode::Code(code) => wire::CloseCode::Code(code),
            }),
            broken: state.broken,
            is_over: state.is_over,
            max_message: state.max_message,
            message_size: state.message_size,
        }
    }
}

impl From<wire::Scanner> for ScannerState {
    fn from(state: wire::Scanner) -> Self {
        Self {
            sender: match state.sender {
                wire::Sender::Client => Sender::Client,
                wire::Sender::Server => Sender::Server,
            },
            extended: state.extended,
            header: state.header,
            header_len: state.header_len,
            payload_left: state.payload_left,
            fragmented: state.fragmented,
            messages: state.messages,
            pongs: state.pongs,
            others: state.others,
            close_code: state.close_code.map(|code| match code {
                wire::CloseCode::Absent => CloseCode::Absent,
                wire::CloseCode::Code(code) => CloseCode::Code(code),
            }),
            broken: state.broken,
            is_over: state.is_over,
            max_message: state.max_message,
            message_size: state.message_size,
        }
    }
}

impl From<SocketKind> for wire::Socket {
    fn from(kind: SocketKind) -> Self {
        match kind {
            SocketKind::Tcp => Self::Tcp,
            SocketKind::Unix => Self::Unix,
        }
    }
}

impl From<wire::Socket> for SocketKind {
    fn from(kind: wire::Socket) -> Self {
        match kind {
            wire::Socket::Tcp => Self::Tcp,
            wire::Socket::Unix => Self::Unix,
        }
    }
}

impl From<AddrPair> for wire::AddrPair {
    fn from(AddrPair { peer, local }: AddrPair) -> Self {
        Self { peer, local }
    }
}

impl From<wire::AddrPair> for AddrPair {
    fn from(wire::AddrPair { peer, local }: wire::AddrPair) -> Self {
        Self { peer, local }
    }
}

impl From<Tally> for wire::Tally {
    fn from(tally: Tally) -> Self {
        let operation = |done: Done| wire::Operation {
            time: done.time,
            operation: done.operation.name().to_owned(),
            by: done.by,
            of: done.of,
            succeeded: done.succeeded,
            outcome: done.outcome,
        };
        Self {
            reloads: tally.reloads,
            upgrades: tally.upgrades,
            history: tally.history.into_iter().map(operation).collect(),
            upgrade_by: tally.upgrade_by,
        }
    }
}

impl From<wire::Tally> for Tally {
    fn from(tally: wire::Tally) -> Self {
        // An operation that only another version knows is counted, but not listed.
        let done = |operation: wire::Operation| {
            let mut known = Operation::ALL.into_iter();
            let kind = known.find(|known| known.name() == operation.operation)?;
            Some(Done {
                time: operation.time,
                operation: kind,
                by: operation.by,
                of: operation.of,
                succeeded: operation.succeeded,
                outcome: operation.outcome,
            })
        };
        Self {
            reloads: tally.reloads,
            upgrades: tally.upgrades,
            history: tally.history.into_iter().filter_map(done).collect(),
            upgrade_by: tally.upgrade_by,
        }
    }
}

impl From<WarmState> for wire::Known {
    fn from(known: WarmState) -> Self {
        let name = |(name, found): (Name, Vec<SocketAddr>)| {
            let Name { host, port } = name;
            (wire::Name { host, port }, found)
        };
        let history = |(address, changes): (SocketAddr, Vec<Change>)| {
            let changes = changes.into_iter().map(wire::Change::from);
            (address, changes.collect())
        };
        let state = |(address, state): (SocketAddr, ServerState)| {
            let state = wire::ServerState {
                ejected_for: state.ejected_for,
                starting_since: state.starting_since,
                keeps_own_for: state.keeps_own_for,
            };
            (address, state)
        };
        Self {
            names: known.names.into_iter().map(name).collect(),
            servers: known.servers,
            history: known.history.into_iter().map(history).collect(),
            states: known.states.into_iter().map(state).collect(),
            members: known.members,
        }
    }
}

impl From<wire::Known> for WarmState {
    fn from(known: wire::Known) -> Self {
        let name = |(name, found): (wire::Name, Vec<SocketAddr>)| {
            let wire::Name { host, port } = name;
            (Name { host, port }, found)
        };
        let history = |(address, changes): (SocketAddr, Vec<wire::Change>)| {
            (address, changes.into_iter().filter_map(change).collect())
        };
        let state = |(address, state): (SocketAddr, wire::ServerState)| {
            let state = ServerState {
                ejected_for: state.ejected_for,
                starting_since: state.starting_since,
                keeps_own_for: state.keeps_own_for,
            };
            (address, state)
        };
        Self {
            names: known.names.into_iter().map(name).collect(),
            servers: known.servers,
            history: known.history.into_iter().map(history).collect(),
            states: known.states.into_iter().map(state).collect(),
            members: known.members,
        }
    }
}

impl From<Change> for wire::Change {
    fn from(change: Change) -> Self {
        Self {
            since: change.since.to_string(),
            standing: match change.standing {
                Standing::Unchecked => "unchecked",
                Standing::Up => "up",
                Standing::Down => "down",
                Standing::Ejected => "ejected",
                Standing::Drained => "drained",
            }
            .to_owned(),
        }
    }
}

/// `None`: only another version knows this change.
fn change(change: wire::Change) -> Option<Change> {
    let since: Timestamp = change.since.parse().ok()?;
    let standing = match &*change.standing {
        "unchecked" => Standing::Unchecked,
        "up" => Standing::Up,
        "down" => Standing::Down,
        "ejected" => Standing::Ejected,
        "drained" => Standing::Drained,
        _ => return None,
    };
    Some(Change { since, standing })
}

/// `None`: the command is not for another process.
pub fn command(command: Command) -> Option<wire::Command> {
    Some(match command {
        Command::Reload => wire::Command::Reload,
        Command::Upgrade => return None,
        Command::Drain(ServerName { upstream, address }, DrainOrder { window, code }) => {
            wire::Command::Drain {
                upstream,
                address,
                window,
                code,
            }
        }
        Command::Enable(ServerName { upstream, address }) => {
            wire::Command::Enable { upstream, address }
        }
        Command::Close(id, code) => wire::Command::Close { id, code },
        Command::CloseUser { user, code, closed } => {
            wire::Command::CloseUser { user, code, closed }
        }
    })
}

impl From<wire::Command> for Command {
    fn from(command: wire::Command) -> Self {
        match command {
            wire::Command::Reload => Self::Reload,
            wire::Command::Drain {
                upstream,
                address,
                window,
                code,
            } => Self::Drain(
                ServerName { upstream, address },
                DrainOrder { window, code },
            ),
            wire::Command::Enable { upstream, address } => {
                Self::Enable(ServerName { upstream, address })
            }
            wire::Command::Close { id, code } => Self::Close(id, code),
            wire::Command::CloseUser { user, code, closed } => {
                Self::CloseUser { user, code, closed }
            }
        }
    }
}

impl From<Result<serde_json::Value, ControlError>> for wire::Outcome {
    fn from(outcome: Result<serde_json::Value, ControlError>) -> Self {
        match outcome {
            Ok(value) => Self::Done(value),
            Err(ControlError { kind, error, hint }) => Self::Failed {
                kind: match kind {
                    ControlErrorKind::NotFound => wire::FailureKind::NotFound,
                    ControlErrorKind::Invalid => wire::FailureKind::Invalid,
                    ControlErrorKind::Refused => wire::FailureKind::Refused,
                },
                error,
                hint,
            },
        }
    }
}

impl From<wire::Outcome> for Result<serde_json::Value, ControlError> {
    fn from(outcome: wire::Outcome) -> Self {
        match outcome {
            wire::Outcome::Done(value) => Ok(value),
            wire::Outcome::Failed { kind, error, hint } => Err(ControlError {
                kind: match kind {
                    wire::FailureKind::NotFound => ControlErrorKind::NotFound,
                    wire::FailureKind::Invalid => ControlErrorKind::Invalid,
                    wire::FailureKind::Refused => ControlErrorKind::Refused,
                },
                error,
                hint,
            }),
        }
    }
}

/// `None`: the reason concerns only this process.
pub fn reason(reason: &DrainReason) -> Option<wire::DrainReason> {
    let server = |upstream: &str, server: &SocketAddr| (upstream.to_owned(), *server);
    Some(match reason {
        DrainReason::Stop | DrainReason::Upgrade => return None,
        DrainReason::ServerDrained(upstream, address) => {
            let (upstream, address) = server(upstream, address);
            wire::DrainReason::ServerDrained(upstream, address)
        }
        DrainReason::ServerDown(upstream, address) => {
            let (upstream, address) = server(upstream, address);
            wire::DrainReason::ServerDown(upstream, address)
        }
        DrainReason::ServerRemoved(upstream, address) => {
            let (upstream, address) = server(upstream, address);
            wire::DrainReason::ServerRemoved(upstream, address)
        }
        DrainReason::RouteRemoved(route) => wire::DrainReason::RouteRemoved(route.to_string()),
        DrainReason::Other(what) => wire::DrainReason::Other(what.clone().into()),
    })
}

impl From<wire::DrainReason> for DrainReason {
    fn from(reason: wire::DrainReason) -> Self {
        match reason {
            wire::DrainReason::ServerDrained(upstream, server) => {
                Self::ServerDrained(upstream.into(), server)
            }
            wire::DrainReason::ServerDown(upstream, server) => {
                Self::ServerDown(upstream.into(), server)
            }
            wire::DrainReason::ServerRemoved(upstream, server) => {
                Self::ServerRemoved(upstream.into(), server)
            }
            wire::DrainReason::RouteRemoved(route) => Self::RouteRemoved(route.into()),
            wire::DrainReason::Other(serde_json::Value::String(what)) => Self::Other(what),
            wire::DrainReason::Other(what) => Self::Other(what.to_string()),
        }
    }
}
