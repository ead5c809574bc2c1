//! What the operator's API shows of the process, and what it lets an operator do.
//!
//! Questions are answered here. A command goes to the supervisor ([`super::run`]).

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::process::{Message, Process};
use super::server_views::{Messages, upstreams};
use super::session_list::{self, is_wanted, no_session, no_upstream, one_of, session};
use crate::admin::view::{self, DrainStarted, SessionPage, State, Status, UserClosed};
use crate::admin::{
    Command, CommandOutcome, Control, ControlError, DrainOrder, Request, ServerName, SessionFilter,
    SessionOrder,
};
use crate::config::Action;
use crate::observe::entry::Operation;
use crate::session::drain::DrainReason;
use crate::session::traffic::{ClosedBy, Order};
use crate::upstream::{Group, Server};
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
        let carried = self.app.sessions().carried(|live| {
            *on_route.entry(live.identity.route.clone()).or_default() += 1;
            messages.add(live);
        });
        let routes = config.routes.iter().map(|route| view::Route {
            name: route.name.clone(),
            upstream: match &route.action {
                Action::Proxy { upstream, .. } => Some(config.upstream(*upstream).name.clone()),
                Action::Redirect { .. } | Action::Respond { .. } => None,
            },
            sessions: on_route.get(route.name.as_str()).copied().unwrap_or(0),
        });
        let sessions = self.app.sessions().len();
        let tally = self.app.operations().tally();
        let [reloads_done, reloads_refused] = tally.reloads;
        let [upgrades_done, upgrades_failed] = tally.upgrades;
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
            counts: view::OperationCounts {
                reloads_done,
                reloads_refused,
                upgrades_done,
                upgrades_failed,
            },
            bytes: carried.bytes_in.wrapping_add(carried.bytes_out),
            ended: self.ended(),
        }
    }

    fn upstreams(&self) -> Vec<view::Upstream> {
        let generation = self.app.generation();
        let mut messages = Messages::before(&generation);
        self.app.sessions().for_each(|live| messages.add(live));
        upstreams(&generation, &messages)
    }

    fn sessions(&self, filter: &SessionFilter) -> Result<SessionPage, ControlError> {
        session_list::check_names(&self.app.generation(), self.app.sessions(), filter)?;
        let mut found = self.app.sessions().select(|live| is_wanted(live, filter));
        match filter.order {
            SessionOrder::OldestFirst => found.sort_unstable_by_key(|live| live.identity.id),
            SessionOrder::NewestFirst => {
                found.sort_unstable_by_key(|live| Reverse(live.identity.id));
            }
        }
        if let Some(id) = filter.id
            && found.is_empty()
        {
            return Err(no_session(id));
        }
        let total = found.len();
        if let Some(after) = filter.after {
            found.retain(|live| match filter.order {
                SessionOrder::OldestFirst => live.identity.id > after,
                SessionOrder::NewestFirst => live.identity.id < after,
            });
        }
        let is_cut = found.len() > filter.limit;
        found.truncate(filter.limit);
        let next = found.last().filter(|_| is_cut);
        Ok(SessionPage {
            next: next.map(|live| live.identity.id.to_string()),
            sessions: found.iter().map(|live| session(live)).collect(),
            total: Some(total),
        })
    }

    fn metrics(&self) -> String {
        self.app.metrics()
    }

    fn successor(&self) -> Option<u32> {
        self.successor()
    }

    async fn command(&self, request: Request) -> CommandOutcome {
        let (tell, told) = oneshot::channel();
        self.send(Message::Command(request, tell));
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

    /// Does a command that takes only a moment.
    pub(super) fn do_at_once(&self, Request { command, by }: &Request) -> CommandOutcome {
        match command {
            Command::Drain(server, order) => {
                let outcome = self.drain(server, *order, by);
                let said = outcome.as_ref().map(|started| {
                    let window = Duration::from_millis(started.window_ms);
                    let (sessions, code) = (started.sessions, started.code);
                    format!("begun: {sessions} sessions are told to go ({code}) within {window:?}")
                });
                self.record(Operation::Drain, by, &server.to_string(), said);
                self.look_at_drains();
                outcome.map(as_json)
            }
            Command::Enable(server) => {
                let outcome = self.enable(server);
                let said = outcome.as_ref().map(|_| "enabled".to_owned());
                self.record(Operation::Enable, by, &server.to_string(), said);
                outcome
            }
            Command::Close(id, code) => {
                let outcome = self.close(*id, *code);
                let said = outcome.as_ref().map(|_| "told to go".to_owned());
                self.record(Operation::Close, by, &id.to_string(), said);
                outcome
            }
            Command::CloseUser { user, code, closed } => {
                let closed = closed + self.close_user(user, *code);
                let said = format!("{closed} sessions are told to go");
                self.record(Operation::Close, by, &format!("user {user}"), Ok(said));
                let user = user.clone();
                Ok(as_json(UserClosed { user, closed }))
            }
            Command::Reload | Command::Upgrade => Err(ControlError::refused(
                "this takes more than a moment",
                "it is a change of the process as a whole",
            )),
        }
    }

    fn record(
        &self,
        operation: Operation,
        by: &str,
        of: &str,
        outcome: Result<String, &ControlError>,
    ) {
        let outcome = outcome.map_err(|refused| refused.error.clone());
        self.app.record(operation, by, Some(of), outcome);
    }

    /// Logs the drains that have ended since the last call.
    pub(super) fn look_at_drains(&self) {
        let generation = self.app.generation();
        let sessions = |name: &ServerName| {
            let group = generation.find_group(&name.upstream)?;
            let server = group.server(name.address.parse().ok()?);
            server.is_drained().then(|| server.sessions())
        };
        let ended = self.drain_watch.lock().look(Instant::now(), sessions);
        for drain in ended {
            let took = Duration::from_secs(drain.took.as_secs());
            let outcome = format!(
                "ended: no session is left of {} at the beginning, after {took:?}",
                drain.sessions
            );
            let of = drain.server.to_string();
            self.record(Operation::Drain, &drain.by, &of, Ok(outcome));
        }
    }

    /// The process before had drained these servers, and their sessions have come here.
    pub(super) fn go_on_watching_drains(&self) {
        let generation = self.app.generation();
        let mut watch = self.drain_watch.lock();
        for group in generation.groups() {
            let members = group.members().into_iter();
            for server in members.map(|member| member.server.clone()) {
                if server.is_drained() && server.sessions() > 0 {
                    let by = "an operator, before the upgrade".to_owned();
                    let name = name_of(group, server.address);
                    watch.begin(name, by, server.sessions(), Instant::now());
                }
            }
        }
    }

    fn enable(&self, name: &ServerName) -> CommandOutcome {
        let (group, server) = self.find_server(name)?;
        // Its last session may have ended a moment ago.
        self.look_at_drains();
        group.enable(server.address);
        let name = name_of(&group, server.address);
        self.drain_watch.lock().call_off(&name);
        Ok(json!({ "enabled": name.to_string() }))
    }

    fn drain(
        &self,
        name: &ServerName,
        order: DrainOrder,
        by: &str,
    ) -> Result<DrainStarted, ControlError> {
        let (group, server) = self.find_server(name)?;
        self.look_at_drains();
        let mut plan = self.app.generation().drain_plan();
        if let Some(window) = order.window {
            // Keeps the time between the end of the window and the deadline as in the file.
            plan.deadline = plan.deadline.saturating_sub(plan.window) + window;
            plan.window = window;
        }
        plan.code = order.code.unwrap_or(plan.code);
        group.drain(server.address, plan.window);
        let name = name_of(&group, server.address);
        let mut watch = self.drain_watch.lock();
        watch.begin(name, by.to_owned(), server.sessions(), Instant::now());
        drop(watch);
        let on_it = self.app.sessions().select(|live| {
            live.identity.server == server.address && live.identity.upstream == *group.label()
        });
        let reason = DrainReason::ServerDrained(group.label().clone(), server.address);
        Ok(DrainStarted {
            sessions: self.app.drains().start(reason, &on_it, plan),
            window_ms: plan.window.as_millis() as u64,
            code: plan.code,
        })
    }

    fn close(&self, id: Uuid, code: Option<u16>) -> CommandOutcome {
        let Some(live) = self.app.sessions().find(id) else {
            return Err(no_session(id));
        };
        live.traffic.ask(Order::End {
            by: ClosedBy::Operator,
            code: code.unwrap_or(self.app.generation().drain_plan().code),
        });
        Ok(json!({ "closed": id.to_string() }))
    }

    /// Returns how many sessions are told.
    pub(super) fn close_user(&self, user: &str, code: Option<u16>) -> usize {
        let code = code.unwrap_or(self.app.generation().drain_plan().code);
        self.app.close_user(user, code)
    }

    /// Whether a command concerns only what is left in this process.
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
                told: drain.told,
                left: drain.remaining,
            })
            .collect()
    }

    fn ended(&self) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        let ended = &self.app.sessions().ended;
        ended.for_each(
            Instant::now(),
            |_| true,
            |_, by, _, count| {
                *sums.entry(by.name().to_owned()).or_default() += count;
            },
        );
        sums
    }

    fn find_server(&self, name: &ServerName) -> Result<(Arc<Group>, Arc<Server>), ControlError> {
        let generation = self.app.generation();
        let Some(group) = generation.find_group(&name.upstream) else {
            return Err(no_upstream(&generation, &name.upstream));
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
                    one_of(addresses.iter().map(String::as_str)),
                ))
            }
        }
    }
}

/// Names the server by its address in canonical form.
fn name_of(group: &Group, address: SocketAddr) -> ServerName {
    ServerName {
        upstream: group.name().to_owned(),
        address: address.to_string(),
    }
}

/// The JSON that the API answers with.
pub(super) fn as_json(value: impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}
