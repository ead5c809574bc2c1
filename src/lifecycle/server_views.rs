//! Upstreams and their servers, as operators see them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::admin::view::{self, ServerState};
use crate::config::Balance;
use crate::generation::Generation;
use crate::session::live::LiveSession;
use crate::upstream::history::Standing;
use crate::upstream::{Ejected, Group, Member, Server};

/// How many messages the sessions of each server have carried. Sessions that are gone are counted
/// first: one that ends meanwhile may be missing, but is not counted twice.
pub struct Messages(HashMap<*const Server, u64>);

impl Messages {
    pub fn before(generation: &Generation) -> Self {
        let servers = generation.groups().iter().flat_map(|group| group.servers());
        Self(
            servers
                .map(|server| (Arc::as_ptr(&server), server.messages()))
                .collect(),
        )
    }

    pub fn add(&mut self, live: &LiveSession) {
        if let Some(sum) = self.0.get_mut(&Arc::as_ptr(&live.server)) {
            *sum = sum.wrapping_add(live.traffic.carried().messages());
        }
    }

    fn of(&self, server: &Arc<Server>) -> u64 {
        self.0.get(&Arc::as_ptr(server)).copied().unwrap_or(0)
    }
}

pub fn upstreams(generation: &Generation, messages: &Messages) -> Vec<view::Upstream> {
    let groups = generation.groups().iter();
    groups.map(|group| upstream(group, messages)).collect()
}

fn upstream(group: &Group, messages: &Messages) -> view::Upstream {
    let config = group.config();
    let of = |server: &Arc<Server>, state| server_view(server, state, messages);
    let members = group.members();
    let mut servers: Vec<view::Server> = members
        .iter()
        .map(|member| view::Server {
            weight: member.weight,
            backup: member.backup,
            usable: member.is_usable(Ejected::avoid()),
            limit: member.max_sessions,
            history: history(member),
            ..of(&member.server, member.standing().into())
        })
        .collect();
    let removed = group
        .servers()
        .into_iter()
        .filter(|server| server.sessions() > 0 && !group.has_member(server.address));
    servers.extend(removed.map(|server| of(&server, ServerState::Removed)));
    let (waiting, longest) = group.waiting();
    view::Upstream {
        name: config.name.clone(),
        waiting,
        waiting_ms: longest.as_millis() as u64,
        balance: match config.balance {
            Balance::RoundRobin => "round_robin",
            Balance::LeastSessions => "least_sessions",
            Balance::TwoChoices => "two_choices",
            Balance::ConsistentHash { .. } => "consistent_hash",
        }
        .to_owned(),
        servers,
    }
}

/// What is known of a server that is no member.
fn server_view(server: &Arc<Server>, state: ServerState, messages: &Messages) -> view::Server {
    let (under_way, at_once) = server.pace.now();
    view::Server {
        address: server.address.to_string(),
        state: with_sessions(state, server.sessions()),
        usable: false,
        limit: None,
        connect_errors: server.connect_errors(),
        last_check: server.last_check().map(|check| view::LastCheck {
            at: check.at.to_string(),
            failure: check.failure,
        }),
        weight: 0,
        backup: false,
        sessions: server.sessions(),
        requests: server.load().saturating_sub(server.sessions()),
        handshakes: server.handshakes(),
        handshakes_under_way: under_way,
        handshakes_at_once: at_once,
        messages: messages.of(server),
        history: Vec::new(),
    }
}

impl From<Standing> for ServerState {
    fn from(standing: Standing) -> Self {
        match standing {
            Standing::Unchecked => Self::Unchecked,
            Standing::Up => Self::Up,
            Standing::Down => Self::Down,
            Standing::Ejected => Self::Ejected,
            Standing::Drained => Self::Drained,
        }
    }
}

/// A server that was taken out counts as drained only when its last session is gone.
fn with_sessions(state: ServerState, sessions: usize) -> ServerState {
    match state {
        ServerState::Drained if sessions > 0 => ServerState::Draining,
        state => state,
    }
}

fn history(member: &Member) -> Vec<view::Change> {
    let changes = member.history().into_iter();
    let mut changes: Vec<view::Change> = changes
        .map(|change| view::Change {
            since: change.since.to_string(),
            state: change.standing.into(),
        })
        .collect();
    if let Some(last) = changes.last_mut() {
        last.state = with_sessions(last.state, member.server.sessions());
    }
    changes
}
