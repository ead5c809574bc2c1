//! What the operator's API asks of the process.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use async_trait::async_trait;
use uuid::Uuid;

use super::Process;
use crate::admin::view::{
    self, DrainStarted, ReloadReport, ServerState, SessionPage, State, Status, UpgradeReport,
};
use crate::admin::{
    Control, ControlError, ControlErrorKind, DrainOrder, ServerName, SessionFilter, SessionOrder,
};
use crate::app::manner;
use crate::config::{Action, Balance};
use crate::proxy::Generation;
use crate::session::live::Live;
use crate::session::traffic::{ClosedBy, Order};
use crate::upstream::history::Standing;
use crate::upstream::{Group, Member, Server};

#[async_trait]
impl Control for Process {
    fn is_ready(&self) -> bool {
        self.app.state() != State::Draining
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
            state: self.app.state(),
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

    async fn reload(&self) -> Result<ReloadReport, ControlError> {
        let changes = Process::reload(self)
            .await
            .map_err(|refusal| refused(refusal.what, refusal.hint))?;
        Ok(ReloadReport { changes })
    }

    async fn upgrade(&self) -> Result<UpgradeReport, ControlError> {
        Process::upgrade(self)
            .await
            .map_err(|error| refused(error.to_string(), error.hint()))
    }

    fn drain(&self, name: &ServerName, order: DrainOrder) -> Result<DrainStarted, ControlError> {
        self.stands_still()?;
        let (group, server) = self.find_server(name)?;
        group.set_drained(server.address, true);
        let on_it = self.app.sessions().select(|live| {
            live.identity.server == server.address && live.identity.upstream == *group.label()
        });
        let mut manner = manner(&self.app.config(), drain_of(&group, &server));
        if let Some(window) = order.window {
            // As long between the window's end and the deadline as the file has it.
            manner.deadline = manner.deadline.saturating_sub(manner.window) + window;
            manner.window = window;
        }
        manner.code = order.code.unwrap_or(manner.code);
        let (window_ms, code) = (manner.window.as_millis() as u64, manner.code);
        self.app.drains().cancel(&manner.what);
        Ok(DrainStarted {
            sessions: self.app.drains().start(on_it, manner),
            window_ms,
            code,
        })
    }

    fn enable(&self, name: &ServerName) -> Result<(), ControlError> {
        self.stands_still()?;
        let (group, server) = self.find_server(name)?;
        group.set_drained(server.address, false);
        self.app.drains().cancel(&drain_of(&group, &server));
        Ok(())
    }

    fn close(&self, id: Uuid, code: Option<u16>) -> Result<(), ControlError> {
        self.stands_still()?;
        let Some(live) = self.app.sessions().find(id) else {
            return Err(ControlError {
                kind: ControlErrorKind::NotFound,
                error: format!("no live session has the id {id}"),
                hint: "`prusik sessions` lists those that live".to_owned(),
            });
        };
        live.traffic.ask(Order::End {
            by: ClosedBy::Operator,
            code: code.unwrap_or(self.app.config().server.drain.code),
        });
        Ok(())
    }
}

impl Process {
    fn drains(&self) -> Vec<view::Drain> {
        let progress = self.app.drains().progress().into_iter();
        progress
            .map(|drain| view::Drain {
                what: drain.manner.what,
                code: drain.manner.code,
                age_ms: drain.age.as_millis() as u64,
                window_ms: drain.manner.window.as_millis() as u64,
                total: drain.total,
                left: drain.left,
            })
            .collect()
    }

    /// What is done to servers and sessions while they move may not reach the new process.
    fn stands_still(&self) -> Result<(), ControlError> {
        match self.app.state() {
            State::Upgrading => Err(refused(
                "sessions are moving to a new process".to_owned(),
                "ask again in a moment: the new process will answer",
            )),
            State::Serving | State::Draining => Ok(()),
        }
    }

    fn find_server(&self, name: &ServerName) -> Result<(Arc<Group>, Arc<Server>), ControlError> {
        let not_found = |error: String, hint: String| ControlError {
            kind: ControlErrorKind::NotFound,
            error,
            hint,
        };
        let generation = self.app.generation();
        let Some(group) = generation.find_group(&name.upstream) else {
            let names: Vec<&str> = generation.groups().iter().map(|g| g.name()).collect();
            return Err(not_found(
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
                Err(not_found(
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

fn drain_of(group: &Group, server: &Server) -> String {
    format!("drain of {}/{}", group.name(), server.address)
}

fn refused(error: String, hint: &str) -> ControlError {
    ControlError {
        kind: ControlErrorKind::Refused,
        error,
        hint: hint.to_owned(),
    }
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
