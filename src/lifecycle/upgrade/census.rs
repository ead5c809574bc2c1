//! What still counts in the old process while its sessions move. The new process is told of it, or
//! each limit could be used twice.
//!
//! The old process takes a [`Census`] again and again, and sends what has changed since the last. A
//! session that is on its way is left out, because the new process counts it. The new process holds
//! a permit or lease for each count ([`HeldCounts`]), and gives it to the session that comes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::protocol::wire;
use crate::app::App;
use crate::forward::proxy_protocol::AddrPair;
use crate::generation::Generation;
use crate::limits::{ClientKey, Limiter, Permit, UserPermit};
use crate::net::BoundId;
use crate::session::Admission;
use crate::session::live::{Identity, SessionKind};
use crate::transport::Transport;
use crate::upstream::Lease;

/// What a count belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CensusKey {
    /// A connection on a listener.
    Listener {
        name: String,
        address: String,
        client: Option<ClientKey>,
    },
    /// A session on a route.
    Route {
        name: String,
        client: Option<ClientKey>,
    },
    /// An event stream on a route.
    Stream {
        name: String,
        client: Option<ClientKey>,
    },
    /// A session of a user on a route.
    User {
        kind: SessionKind,
        route: String,
        user: Arc<str>,
    },
    /// A session on a server.
    Server {
        upstream: String,
        address: SocketAddr,
    },
}

/// The most counts of one message.
const MESSAGE_MAX: usize = 2000;

/// In the old process: the counts that were sent.
#[derive(Debug, Default)]
pub struct Census {
    said: HashMap<CensusKey, u64>,
}

impl Census {
    /// Returns what has changed since the last call. `protocol`: that of both processes.
    /// `underway`: what was given to the link.
    pub fn take(
        &mut self,
        app: &App,
        protocol: u32,
        underway: impl Iterator<Item = CensusKey>,
    ) -> Vec<wire::Census> {
        let mut now: HashMap<CensusKey, u64> = HashMap::new();
        let is_known = |key: &CensusKey| match key {
            CensusKey::Stream { .. } => wire::takes_streams(protocol),
            CensusKey::User { kind, .. } => {
                *kind == SessionKind::WebSocket || wire::takes_streams(protocol)
            }
            _ => true,
        };
        for (key, count) in counts_now(app).into_iter().filter(|(key, _)| is_known(key)) {
            *now.entry(key).or_default() += count as u64;
        }
        for key in underway {
            if let Some(count) = now.get_mut(&key) {
                *count = count.saturating_sub(1);
            }
        }
        now.retain(|_, count| *count > 0);
        let gone = self.said.keys().filter(|key| !now.contains_key(*key));
        let gone = gone.map(|key| (key.clone(), 0));
        let changed = now
            .iter()
            .filter(|(key, count)| self.said.get(*key) != Some(*count))
            .map(|(key, count)| (key.clone(), *count));
        let entries: Vec<(CensusKey, u64)> = gone.chain(changed).collect();
        self.said = now;
        entries.chunks(MESSAGE_MAX).map(message).collect()
    }
}

fn message(counts: &[(CensusKey, u64)]) -> wire::Census {
    let mut census = wire::Census {
        entries: Vec::new(),
        users: Vec::new(),
    };
    for (key, count) in counts.iter().cloned() {
        match key.sent() {
            Sent::Entry(key) => census.entries.push((key, count)),
            Sent::User(key) => census.users.push((key, count)),
        }
    }
    census
}

/// The sum of all counts of this process. Where nothing begins any more, it falls whenever one of
/// them does.
pub fn sum(app: &App) -> usize {
    let generation = app.generation();
    let listeners = app.listener_states();
    let on_listeners = listeners.iter().map(|state| state.limiter.taken());
    let limiters = generation.limiters().chain(generation.stream_limiters());
    let on_routes = limiters.map(|(_, limiter)| limiter.taken());
    let mut on_servers = 0;
    for group in generation.groups() {
        on_servers += group
            .servers()
            .iter()
            .map(|one| one.sessions())
            .sum::<usize>();
    }
    on_listeners.chain(on_routes).sum::<usize>() + on_servers
}

/// All counts of this process.
fn counts_now(app: &App) -> Vec<(CensusKey, usize)> {
    let generation = app.generation();
    let mut counts_now = Vec::new();
    for state in app.listener_states() {
        let Some((name, address)) = app.listener_now(state.id) else {
            continue;
        };
        for (client, count) in state.limiter.counts() {
            let (name, address) = (name.clone(), address.clone());
            let key = CensusKey::Listener {
                name,
                address,
                client,
            };
            counts_now.push((key, count));
        }
    }
    for (route, limiter) in generation.limiters() {
        for (client, count) in limiter.counts() {
            let name = route.to_owned();
            counts_now.push((CensusKey::Route { name, client }, count));
        }
        counts_now.extend(users_now(SessionKind::WebSocket, route, limiter));
    }
    for (route, limiter) in generation.stream_limiters() {
        for (client, count) in limiter.counts() {
            let name = route.to_owned();
            counts_now.push((CensusKey::Stream { name, client }, count));
        }
        counts_now.extend(users_now(SessionKind::Stream, route, limiter));
    }
    for group in generation.groups() {
        for server in group.servers() {
            let key = CensusKey::Server {
                upstream: group.name().to_owned(),
                address: server.address,
            };
            counts_now.push((key, server.sessions()));
        }
    }
    counts_now
}

fn users_now(
    kind: SessionKind,
    route: &str,
    limiter: &Limiter,
) -> impl Iterator<Item = (CensusKey, usize)> {
    let users = limiter.user_counts().into_iter();
    users.map(move |(user, count)| {
        let route = route.to_owned();
        (CensusKey::User { kind, route, user }, count)
    })
}

/// In the new process: one permit or lease for each session or connection that may still come.
#[derive(Debug, Default)]
pub struct HeldCounts {
    permits: HashMap<CensusKey, Vec<Permit>>,
    users: HashMap<CensusKey, Vec<UserPermit>>,
    leases: HashMap<CensusKey, Vec<Lease>>,
}

impl HeldCounts {
    pub fn set(&mut self, census: wire::Census, app: &App) {
        let generation = app.generation();
        let users = census.users.into_iter();
        let users = users.map(|(key, count)| (CensusKey::of_user(key), count));
        let entries = census.entries.into_iter();
        let entries = entries.filter_map(|(key, count)| Some((CensusKey::of(key)?, count)));
        for (key, count) in entries.chain(users) {
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            match &key {
                CensusKey::User { kind, route, user } => {
                    let limiter = generation.limiter_named(*kind, route);
                    let permit = || Some(limiter.adopt_user(user));
                    hold(&mut self.users, key.clone(), count, permit);
                }
                CensusKey::Server { upstream, address } => {
                    let lease = || Some(generation.adopt_on(upstream, *address));
                    hold(&mut self.leases, key.clone(), count, lease);
                }
                CensusKey::Route { name, client } => {
                    let kind = SessionKind::WebSocket;
                    let permit = || Some(generation.adopt(kind, name, *client));
                    hold(&mut self.permits, key.clone(), count, permit);
                }
                CensusKey::Stream { name, client } => {
                    let permit = || Some(generation.adopt(SessionKind::Stream, name, *client));
                    hold(&mut self.permits, key.clone(), count, permit);
                }
                CensusKey::Listener {
                    name,
                    address,
                    client,
                } => {
                    let bound = app.find_listener(name, address);
                    let permit =
                        || Some(app.listener_states()[bound?.index()].limiter.adopt(*client));
                    hold(&mut self.permits, key.clone(), count, permit);
                }
            }
        }
    }

    /// The lease for a session that has come. `None`: there is none for it.
    pub fn lease(&mut self, identity: &Identity) -> Option<Lease> {
        let key = CensusKey::Server {
            upstream: identity.upstream.to_string(),
            address: identity.server,
        };
        self.leases.get_mut(&key)?.pop()
    }

    /// The permit of the session's route.
    pub fn route_permit(
        &mut self,
        kind: SessionKind,
        identity: &Identity,
        generation: &Generation,
    ) -> Permit {
        let client = identity.client.parse().ok().map(ClientKey::of);
        let key = CensusKey::of_session(kind, identity, client);
        let held = self.permits.get_mut(&key).and_then(Vec::pop);
        let mut permit = held.unwrap_or_else(|| generation.adopt(kind, &identity.route, client));
        if let Some(name) = &identity.user {
            let (route, user) = (identity.route.to_string(), name.clone());
            let key = CensusKey::User { kind, route, user };
            let held = self.users.get_mut(&key).and_then(Vec::pop);
            let user = held.unwrap_or_else(|| permit.limiter().adopt_user(name));
            permit.count_for(user);
        }
        permit
    }

    /// `came_in_on`: the name and address of the listener in the old process.
    pub fn admission(
        &mut self,
        app: &App,
        bound: BoundId,
        came_in_on: Option<(String, String)>,
        (transport, proxied): (&Transport, Option<AddrPair>),
    ) -> Admission {
        // Counted by the rules of this process, which replaces the held permit.
        let admission = app.adopt(bound, transport, proxied);
        if let Some((name, address)) = came_in_on {
            let client = admission.permit.as_ref().and_then(Permit::client);
            let key = CensusKey::Listener {
                name,
                address,
                client,
            };
            if let Some(held) = self.permits.get_mut(&key) {
                held.pop();
            }
        }
        admission
    }
}

/// Makes or drops permits until there are as many as counted.
fn hold<T>(
    held: &mut HashMap<CensusKey, Vec<T>>,
    key: CensusKey,
    count: usize,
    another: impl Fn() -> Option<T>,
) {
    if count == 0 {
        held.remove(&key);
        return;
    }
    let held = held.entry(key).or_default();
    held.truncate(count);
    while held.len() < count {
        match another() {
            Some(more) => held.push(more),
            // The listener, route or server is not in this process's file.
            None => return,
        }
    }
}

impl CensusKey {
    /// A session on its route.
    pub fn of_session(kind: SessionKind, identity: &Identity, client: Option<ClientKey>) -> Self {
        let name = identity.route.to_string();
        match kind {
            SessionKind::WebSocket => Self::Route { name, client },
            SessionKind::Stream => Self::Stream { name, client },
        }
    }

    fn of(key: wire::CensusKey) -> Option<Self> {
        let client_key = |client: Option<u64>| match client {
            None => Some(None),
            Some(number) => ClientKey::from_number(number).map(Some),
        };
        Some(match key {
            wire::CensusKey::Listener {
                name,
                address,
                client,
            } => Self::Listener {
                name,
                address,
                client: client_key(client)?,
            },
            wire::CensusKey::Route { name, client } => Self::Route {
                name,
                client: client_key(client)?,
            },
            wire::CensusKey::Stream { name, client } => Self::Stream {
                name,
                client: client_key(client)?,
            },
            wire::CensusKey::Server { upstream, address } => Self::Server { upstream, address },
        })
    }

    fn of_user(key: wire::UserKey) -> Self {
        Self::User {
            kind: match key.streams {
                true => SessionKind::Stream,
                false => SessionKind::WebSocket,
            },
            route: key.route,
            user: key.user.into(),
        }
    }

    fn sent(self) -> Sent {
        let number = |client: Option<ClientKey>| client.map(ClientKey::to_number);
        Sent::Entry(match self {
            Self::User { kind, route, user } => {
                return Sent::User(wire::UserKey {
                    route,
                    user: user.to_string(),
                    streams: kind == SessionKind::Stream,
                });
            }
            Self::Listener {
                name,
                address,
                client,
            } => wire::CensusKey::Listener {
                name,
                address,
                client: number(client),
            },
            Self::Route { name, client } => wire::CensusKey::Route {
                name,
                client: number(client),
            },
            Self::Stream { name, client } => wire::CensusKey::Stream {
                name,
                client: number(client),
            },
            Self::Server { upstream, address } => wire::CensusKey::Server { upstream, address },
        })
    }
}

/// A key as it is sent. Earlier versions know no users, and skip them.
enum Sent {
    Entry(wire::CensusKey),
    User(wire::UserKey),
}
