//! An upstream at work: its members, its balancers, and the news about its servers.
//! [`super::tasks`] and [`super::roster`] keep them current.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::balance::Wanted;
use super::flow::Flow;
use super::keys_in_use::KeysInUse;
use super::learned::{self, LearnedServers};
use super::members::{Members, Servers};
use super::news::{Departed, Departure, Departures, News};
use super::request_end::RequestBody;
use super::roster::Roster;
use super::server::{Ejected, Lease, Load, Member, Server};
use crate::config::{self, OnGone};
use crate::forward::proxy_protocol::{Preamble, PreambleClient};
use crate::limits::DrainDeadline;
use crate::upstream::dial::{Dialer, Sources};
use crate::upstream::pool::{Pool, SWEEP};
use crate::upstream::pool_connector::{PoolConnector, Repeatable};

/// Why a server must lose its sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// The operator has taken the server out.
    Drained,
    /// The server fails its health checks.
    Down,
    /// The server is gone from the file or from DNS.
    Removed,
}

pub struct Group {
    pub(super) config: config::Upstream,
    label: Arc<str>,
    pub(super) members: ArcSwap<Members>,
    pub(super) roster: Mutex<Roster>,
    pub(super) servers: Arc<Servers>,
    /// Wakes the task that starts checks, so that a new server is checked at once.
    pub(super) members_changed: Arc<Notify>,
    /// The connections for plain requests to all servers.
    connections: Arc<Pool>,
    sources: Option<Arc<Sources>>,
    pub(super) keys_in_use: Arc<KeysInUse>,
    /// `None`: no header of answers names sessions.
    pub(super) learned: Option<LearnedServers>,
    /// The tasks of [`super::tasks`]. They end with the group.
    pub(super) tasks: Mutex<JoinSet<()>>,
    /// The configuration with this group is active.
    is_at_work: AtomicBool,
    pub(super) news: News,
    /// Servers whose first check was made before the group was at work.
    pub(super) just_checked: Mutex<HashSet<SocketAddr>>,
    /// Addresses of the operator's API. They never become servers, whatever a name resolves to.
    pub(super) admin: Vec<SocketAddr>,
}

/// What a request asks of its upstream.
#[derive(Debug, Clone, Copy)]
pub struct Pick<'a> {
    pub load: Load,
    pub key: &'a [u8],
    pub tried: &'a [SocketAddr],
    /// The server to which the client belongs. It is picked if it can take the request.
    pub own: Option<SocketAddr>,
}

impl<'a> Pick<'a> {
    fn wanted(&self, ejected: Ejected, paced: bool) -> Wanted<'a> {
        Wanted {
            load: self.load,
            key: self.key,
            tried: self.tried,
            ejected,
            paced,
        }
    }
}

/// What was found for a request.
#[derive(Debug)]
pub(super) enum Choice {
    /// The next server, already counted.
    Server(Lease),
    /// Servers could take it, but have as many handshakes as they get at once.
    Busy,
    /// No server can take it.
    Nobody,
}

impl Group {
    /// `servers` is shared by all groups of this name. The health and the resolved names of the
    /// group `before` are taken over. That group works until this one [begins](Group::begin).
    pub fn new(
        config: config::Upstream,
        servers: Arc<Servers>,
        before: Option<&Group>,
        departures: Departures,
        admin: Vec<SocketAddr>,
    ) -> Arc<Self> {
        let connections = before.map(|before| before.connections.clone());
        let health_is_stale = before.is_some_and(|before| before.config.health_check.is_none());
        if health_is_stale && config.health_check.is_some() {
            // A configuration without health checks ignores what was found before.
            servers
                .all()
                .iter()
                .for_each(|server| server.forget_health());
        }
        let group = Arc::new(Self {
            label: config.name.as_str().into(),
            sources: Sources::new(&config.source),
            keys_in_use: before
                .map(|before| before.keys_in_use.clone())
                .unwrap_or_default(),
            learned: learned::table(&config, before.and_then(|before| before.learned.clone())),
            members: ArcSwap::default(),
            roster: Mutex::new(Roster::new(&config)),
            config,
            servers,
            members_changed: Arc::default(),
            connections: connections.unwrap_or_default(),
            tasks: Mutex::default(),
            is_at_work: AtomicBool::new(false),
            news: News::new(departures),
            just_checked: Mutex::default(),
            admin,
        });
        match before {
            Some(before) => group.follow(before),
            None => group.assemble(&group.roster.lock().membership),
        }
        group
    }

    /// Tells what has happened to the servers of the group before.
    pub(super) fn tell_changes_since(&self, before: &Group) {
        let addresses = |group: &Group| -> HashSet<SocketAddr> {
            let members = group.members.load();
            members.all.iter().map(|m| m.server.address).collect()
        };
        let (had, has) = (addresses(before), addresses(self));
        let only = |these: &HashSet<_>, those| -> Vec<SocketAddr> {
            these.difference(those).copied().collect()
        };
        self.tell_departed(&only(&had, &has));
        self.tell_joined(&only(&has, &had));
    }

    pub fn config(&self) -> &config::Upstream {
        &self.config
    }

    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// The name in the form that sessions share.
    pub fn label(&self) -> &Arc<str> {
        &self.label
    }

    pub fn members(&self) -> Vec<Arc<Member>> {
        self.members.load().all.clone()
    }

    /// The next server, already counted. `None` if no server can take the request.
    pub fn pick(&self, pick: Pick<'_>) -> Option<Lease> {
        match self.choose(pick, false) {
            Choice::Server(lease) => Some(lease),
            Choice::Busy | Choice::Nobody => None,
        }
    }

    /// `paced`: only a server that has room for one more handshake.
    pub(super) fn choose(&self, pick: Pick<'_>, paced: bool) -> Choice {
        let members = self.members.load();
        // An ejected server is better than none, and so is a backup.
        for ejected in [Ejected::avoid(), Ejected::Accept] {
            let wanted = pick.wanted(ejected, paced);
            let own = pick.own.and_then(|own| members.lease_own(own, &wanted));
            if let Some(lease) = own {
                return Choice::Server(lease);
            }
            for tier in &members.tiers {
                if let Some(lease) = tier.pick(&wanted) {
                    return Choice::Server(lease);
                }
                // Neither is better than a server that will have room soon.
                if paced && tier.has(&pick.wanted(ejected, false)) {
                    return Choice::Busy;
                }
            }
        }
        Choice::Nobody
    }

    /// Whether the server to which the client belongs is the one that it [gets](Group::choose).
    pub(super) fn has_own(&self, pick: Pick<'_>) -> bool {
        let Some(own) = pick.own else {
            return false;
        };
        let members = self.members.load();
        let is_usable = |ejected| members.own(own, &pick.wanted(ejected, false)).is_some();
        let others = pick.wanted(Ejected::avoid(), false);
        let has_others = || members.tiers.iter().any(|tier| tier.has(&others));
        is_usable(Ejected::avoid()) || is_usable(Ejected::Accept) && !has_others()
    }

    /// Whether a server that could take this request has not been tried yet.
    pub fn has_untried(&self, tried: &[SocketAddr]) -> bool {
        self.members.load().all.iter().any(|member| {
            member.is_usable(Ejected::Accept) && !tried.contains(&member.server.address)
        })
    }

    /// Makes the connector for one attempt of a plain request. `stream`: what follows its head, if
    /// the answer may be an event stream that leaves.
    pub fn connector(
        &self,
        repeatable: Repeatable,
        client: PreambleClient,
        drain_deadline: DrainDeadline,
        flow: Arc<Flow>,
        stream: Option<RequestBody>,
    ) -> PoolConnector {
        PoolConnector::new(
            self.connections.clone(),
            Dialer {
                drain_deadline,
                ..self.dialer(client)
            },
            self.config.keepalive,
            repeatable,
            (flow, self.config.stall),
            stream,
        )
    }

    /// A dialer for any of the servers.
    pub fn dialer(&self, client: PreambleClient) -> Dialer {
        let version = self.config.proxy_protocol;
        Dialer {
            sources: self.sources.clone(),
            preamble: version.map(|version| Preamble { version, client }),
            tls: self.config.tls.clone(),
            drain_deadline: DrainDeadline::default(),
        }
    }

    /// Closes idle connections to servers.
    pub fn close_idle(&self) {
        self.connections.close_idle();
    }

    /// The lasting state of this address. It is made if there is none.
    pub fn server(&self, address: SocketAddr) -> Arc<Server> {
        self.servers.of(address)
    }

    /// Why the server's sessions must go. `None`: they may stay.
    pub fn why_gone(&self, address: SocketAddr) -> Option<Gone> {
        match self.member(address) {
            Some(member) if member.server.is_drained() => Some(Gone::Drained),
            Some(member) => {
                let is_kept = self.config.on_down == OnGone::Keep || member.is_healthy();
                (!is_kept).then_some(Gone::Down)
            }
            None => (self.config.on_removed == OnGone::Close).then_some(Gone::Removed),
        }
    }

    pub fn has_member(&self, address: SocketAddr) -> bool {
        self.member(address).is_some()
    }

    pub fn member(&self, address: SocketAddr) -> Option<Arc<Member>> {
        let members = self.members.load();
        let mut all = members.all.iter();
        all.find(|member| member.server.address == address).cloned()
    }

    /// Takes the server out on the operator's word, whatever its health is. The requests of clients
    /// that belong to it still go there for the time of `window`.
    pub fn drain(&self, address: SocketAddr, window: Duration) {
        self.server(address).keep_own_for(window);
        self.set_drained(address, true);
    }

    /// Puts the server back on the operator's word.
    pub fn enable(&self, address: SocketAddr) {
        self.set_drained(address, false);
    }

    pub fn set_drained(&self, address: SocketAddr, drained: bool) {
        self.server(address).set_drained(drained);
        if let Some(member) = self.member(address) {
            member.note();
        }
    }

    /// Every server that is a member or still has sessions.
    pub fn servers(&self) -> Vec<Arc<Server>> {
        self.servers.all()
    }

    /// Tells that the sessions of these servers must go.
    pub(super) fn tell(&self, addresses: Vec<SocketAddr>, why: Departure) {
        let wanted = match why {
            Departure::Down => self.config.on_down,
            Departure::Removed => self.config.on_removed,
        };
        if wanted == OnGone::Close {
            for server in addresses {
                self.news.departed(Departed {
                    upstream: self.label.clone(),
                    server,
                    why,
                });
            }
        }
    }

    /// The upstream is no longer in the configuration. Tells that all servers are gone, and closes
    /// the idle connections. Sessions may hold the group for days.
    pub fn retire(&self) {
        self.connections.retire();
        let all: Vec<_> = self.members().iter().map(|m| m.server.address).collect();
        self.tell_departed(&all);
    }

    /// Counts a failure for passive ejection.
    pub fn record_failure(&self, server: &Server) {
        if let Some(rule) = &self.config.eject
            && server.record_failure(rule)
        {
            if let Some(member) = self.member(server.address) {
                member.note();
            }
            log::warn!(
                "upstream {:?}: {} is ejected for {:?} after {} failures within {:?}",
                self.config.name,
                server.address,
                rule.duration,
                rule.failures,
                rule.within
            );
        }
    }

    /// From now on news is told at once, and what was held back is told now.
    pub(super) fn set_at_work(&self) {
        self.is_at_work.store(true, Relaxed);
        self.bound_learned();
        self.news.release();
    }

    pub(super) fn is_at_work(&self) -> bool {
        self.is_at_work.load(Relaxed)
    }

    /// The first check of this server is made before the group begins, so the next one is due an
    /// interval later.
    pub(super) fn set_just_checked(&self, address: SocketAddr) {
        self.just_checked.lock().insert(address);
    }

    /// Whether the first check of this server was made before the group began. Returns true once.
    pub(super) fn take_just_checked(&self, address: SocketAddr) -> bool {
        self.just_checked.lock().remove(&address)
    }
}

/// Closes idle connections as long as the group is at work.
pub(super) async fn sweep(group: Weak<Group>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(group) = group.upgrade() else {
            return;
        };
        let bound = group.config.keepalive;
        let tls = group.config.tls.as_deref();
        let sends_preamble = group.config.proxy_protocol.is_some();
        group
            .connections
            .sweep(bound, (tls, sends_preamble), |address| {
                group.has_member(address)
            });
        group.servers.forget_unused();
        group.forget_idle_sessions();
    }
}
