//! What the operator's API sees of the process, and what it has done.
//!
//! What is only looked at is answered from here; a command goes to the supervisor ([`super::run`]).

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use async_trait::async_trait;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::process::Process;
use super::run::Message;
use crate::admin::view::{self, DrainStarted, ServerState, SessionPage, State, Status};
use crate::admin::{
    Command, CommandOutcome, Control, ControlError, DrainOrder, ServerName, SessionFilter,
    SessionOrder,
};
use crate::config::{Action, Balance};
use crate::proxy::Generation;
use crate::session::drain::DrainReason;
use crate::session::live::Live;
use crate::session::traffic::{ClosedBy, Order};
use crate::upstream::history::Standing;
use crate::upstream::{Group, Member, Server};
use uuid::Uuid;

#[async_trait]
impl Control for Process {
    fn is_ready(&self) -> bool {
        !self.app.phases().now().is_stopping()
    }

    fn status(&self) -> Status {
        let generation = self.app.generation();
        let config = &generation.config;
        let mut on_route: HashMap<Arc<str>, usize> = HashMap::new();
        let mut messages = Messages::before(&generation);
        self.app.sessions().for_each(|live| {
            *on_route.entry(live.identity.route.clone()).or_default() += 1;
            messages.add(live);
        });
        let routes = config.routes.iter().map(|route| view::Route {
            name: route.name.clone(),
            upstream: match &route.action {
                Action::Proxy { upstream, .. } => Some(config.upstreams[*upstream].name.clone()),
                Action::Redirect { .. } | Action::Respond { .. } => None,
            },
            sessions: on_route.get(route.name.as_str()).copied().unwrap_or(0),
        });
        let sessions = self.app.sessions().len();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_ms: self.started.elapsed().as_millis() as u64,
            state: self.state(),
            config: match &self.file {
                Some(file) => file.display().to_string(),
                None => String::new(),
            },
            listeners: self.app.listening_now(),
            routes: routes.collect(),
            upstreams: upstreams(&generation, &messages),
            sessions,
            connections: self.app.connections().saturating_sub(sessions),
            drains: self.drains(),
            operations: self.app.operations().recent(),
        }
    }

    fn upstreams(&self) -> Vec<view::Upstream> {
        let generation = self.app.generation();
        let mut messages = Messages::before(&generation);
        self.app.sessions().for_each(|live| messages.add(live));
        upstreams(&generation, &messages)
    }

    fn sessions(&self, filter: &SessionFilter) -> SessionPage {
        let mut found = self.app.sessions().select(|live| is_wanted(live, filter));
        match filter.order {
            SessionOrder::OldestFirst => found.sort_unstable_by_key(|live| live.identity.id),
            SessionOrder::NewestFirst => {
                found.sort_unstable_by_key(|live| Reverse(live.identity.id));
            }
        }
        let is_cut = found.len() > filter.limit;
        found.truncate(filter.limit);
        let next = found.last().filter(|_| is_cut);
        SessionPage {
            next: next.map(|live| live.identity.id.to_string()),
            sessions: found.iter().map(|live| session(live)).collect(),
        }
    }

    fn metrics(&self) -> String {
        self.app.metrics()
    }

    fn successor(&self) -> Option<u32> {
        self.successor()
    }

    async fn command(&self, command: Command) -> CommandOutcome {
        let (tell, told) = oneshot::channel();
        self.send(Message::Command(command, tell));
        told.await.unwrap_or_else(|_| {
            Err(ControlError::refused(
                "this process has ended before the command was done",
                "see its log, and ask again",
            ))
        })
    }
}

impl Process {
    fn state(&self) -> State {
        match self.app.phases().now() {
            phase if phase.is_stopping() => State::Draining,
            phase if phase.moves() || self.is_upgrading() => State::Upgrading,
            _ => State::Serving,
        }
    }

    /// A command that is done in a moment.
    pub(super) fn do_at_once(&self, command: &Command) -> CommandOutcome {
        match command {
            Command::Drain(server, order) => self.drain(server, *order).map(as_json),
            Command::Enable(server) => {
                let (group, server) = self.find_server(server)?;
                group.set_drained(server.address, false);
                let enabled = format!("{}/{}", group.name(), server.address);
                Ok(json!({ "enabled": enabled }))
            }
            Command::Close(id, code) => self.close(*id, *code),
            Command::Reload | Command::Upgrade => Err(ControlError::refused(
                "this takes more than a moment",
                "it is a change of the process as a whole",
            )),
        }
    }

    fn drain(&self, name: &ServerName, order: DrainOrder) -> Result<DrainStarted, ControlError> {
        let (group, server) = self.find_server(name)?;
        group.set_drained(server.address, true);
        let on_it = self.app.sessions().select(|live| {
            live.identity.server == server.address && live.identity.upstream == *group.label()
        });
        let mut plan = self.app.generation().drain_plan();
        if let Some(window) = order.window {
            // As long between the window's end and the deadline as the file has it.
            plan.deadline = plan.deadline.saturating_sub(plan.window) + window;
            plan.window = window;
        }
        plan.code = order.code.unwrap_or(plan.code);
        let reason = DrainReason::ServerDrained(group.label().clone(), server.address);
        Ok(DrainStarted {
            sessions: self.app.drains().start(reason, &on_it, plan),
            window_ms: plan.window.as_millis() as u64,
            code: plan.code,
        })
    }

    fn close(&self, id: Uuid, code: Option<u16>) -> CommandOutcome {
        let Some(live) = self.app.sessions().find(id) else {
            return Err(ControlError::not_found(
                format!("no live session has the id {id}"),
                "`prusik sessions` lists those that live",
            ));
        };
        live.traffic.ask(Order::End {
            by: ClosedBy::Operator,
            code: code.unwrap_or(self.app.generation().drain_plan().code),
        });
        Ok(json!({ "closed": id.to_string() }))
    }

    /// Whether a command concerns nothing but what this process still has.
    pub(super) fn is_only_ours(&self, command: &Command) -> bool {
        match command {
            Command::Close(id, _) => self.app.sessions().find(*id).is_some(),
            _ => false,
        }
    }

    fn drains(&self) -> Vec<view::Drain> {
        let progress = self.app.drains().progress().into_iter();
        progress
            .map(|drain| view::Drain {
                what: drain.reason.to_string(),
                code: drain.plan.code,
                age_ms: drain.age.as_millis() as u64,
                window_ms: drain.plan.window.as_millis() as u64,
                total: drain.total,
                left: drain.left,
            })
            .collect()
    }

    fn find_server(&self, name: &ServerName) -> Result<(Arc<Group>, Arc<Server>), ControlError> {
        let generation = self.app.generation();
        let Some(group) = generation.find_group(&name.upstream) else {
            let names: Vec<&str> = generation.groups().iter().map(|g| g.name()).collect();
            return Err(ControlError::not_found(
                format!("there is no upstream {:?}", name.upstream),
                format!("it is one of: {}", names.join(", ")),
            ));
        };
        let members = group.members();
        let wanted: Option<SocketAddr> = name.address.parse().ok();
        let found = members
            .iter()
            .find(|member| Some(member.server.address) == wanted);
        match found {
            Some(member) => Ok((group.clone(), member.server.clone())),
            None => {
                let addresses = members.iter().map(|m| m.server.address.to_string());
                let addresses: Vec<String> = addresses.collect();
                Err(ControlError::not_found(
                    format!(
                        "upstream {:?} has no server {:?}",
                        name.upstream, name.address
                    ),
                    format!("it is one of: {}", addresses.join(", ")),
                ))
            }
        }
    }
}

/// What the API answers with.
pub(super) fn as_json(value: impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// How many messages each server's sessions have carried. Those that have left are looked at first:
/// one that ends meanwhile may be missing, and is not counted twice.
struct Messages(HashMap<*const Server, u64>);

impl Messages {
    fn before(generation: &Generation) -> Self {
        let servers = generation.groups().iter().flat_map(|group| group.servers());
        Self(
            servers
                .map(|server| (Arc::as_ptr(&server), server.messages()))
                .collect(),
        )
    }

    fn add(&mut self, live: &Live) {
        if let Some(sum) = self.0.get_mut(&Arc::as_ptr(&live.server)) {
            *sum = sum.wrapping_add(live.traffic.carried().messages());
        }
    }

    fn of(&self, server: &Arc<Server>) -> u64 {
        self.0.get(&Arc::as_ptr(server)).copied().unwrap_or(0)
    }
}

fn upstreams(generation: &Generation, messages: &Messages) -> Vec<view::Upstream> {
    let groups = generation.groups().iter();
    groups.map(|group| upstream(group, messages)).collect()
}

fn upstream(group: &Group, messages: &Messages) -> view::Upstream {
    let config = group.config();
    let of = |server: &Arc<Server>, state| view::Server {
        address: server.address.to_string(),
        state,
        weight: 0,
        backup: false,
        sessions: server.sessions(),
        requests: server.load().saturating_sub(server.sessions()),
        handshakes: server.handshakes(),
        messages: messages.of(server),
        history: Vec::new(),
    };
    let members = group.members();
    let mut servers: Vec<view::Server> = members
        .iter()
        .map(|member| view::Server {
            weight: member.weight,
            backup: member.backup,
            history: history(member),
            ..of(&member.server, member.standing().into())
        })
        .collect();
    let removed = group
        .servers()
        .into_iter()
        .filter(|server| server.sessions() > 0 && !group.has_member(server.address));
    servers.extend(removed.map(|server| of(&server, ServerState::Removed)));
    view::Upstream {
        name: config.name.clone(),
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

fn history(member: &Member) -> Vec<view::Change> {
    let changes = member.history().into_iter();
    changes
        .map(|change| view::Change {
            since: change.since.to_string(),
            state: change.standing.into(),
        })
        .collect()
}

fn is_wanted(live: &Live, filter: &SessionFilter) -> bool {
    let identity = &live.identity;
    let client = || identity.client.parse().ok();
    filter
        .upstream
        .as_deref()
        .is_none_or(|upstream| *identity.upstream == *upstream)
        && filter.server.is_none_or(|server| identity.server == server)
        && filter.client.is_none_or(|wanted| client() == Some(wanted))
        && filter.older_than.is_none_or(|age| live.age() > age)
        && filter.after.is_none_or(|after| match filter.order {
            SessionOrder::OldestFirst => identity.id > after,
            SessionOrder::NewestFirst => identity.id < after,
        })
}

fn session(live: &Live) -> view::Session {
    let identity = &live.identity;
    let traffic = &live.traffic;
    view::Session {
        id: identity.id.to_string(),
        listener: identity.listener.to_string(),
        route: identity.route.to_string(),
        upstream: identity.upstream.to_string(),
        server: identity.server.to_string(),
        client: identity.client.to_string(),
        host: identity.host.to_string(),
        path: identity.path.to_string(),
        user_agent: identity.user_agent.as_ref().map(ToString::to_string),
        age_ms: live.age().as_millis() as u64,
        bytes_in: traffic.bytes_in.load(Relaxed),
        bytes_out: traffic.bytes_out.load(Relaxed),
        messages_in: traffic.messages_in.load(Relaxed),
        messages_out: traffic.messages_out.load(Relaxed),
    }
}
