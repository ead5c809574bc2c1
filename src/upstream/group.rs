//! An upstream at work: its members, its balancer, and the tasks that keep both current.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use log::{info, warn};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;

use super::balance::{Balancer, Wanted};
use super::connect::{Sources, Way};
use super::connection::{Connections, KeptConnector, Repeatable, SWEEP};
use super::history::Change;
use super::keys_in_use::KeysInUse;
use super::resolve::{self, Name};
use super::server::{Ejected, Lease, Load, Member, Server};
use crate::config::{self, Fate, ServerAddress, Start};
use crate::forward::proxy_protocol::{Preamble, Source};

/// What a process has found out of an upstream, for the next.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Knowledge {
    /// The last good answer for each name.
    pub names: Vec<(Name, Vec<SocketAddr>)>,
    /// Whether each server that was checked is up.
    pub servers: Vec<(SocketAddr, bool)>,
    #[serde(default)]
    pub history: Vec<(SocketAddr, Vec<Change>)>,
}

pub struct Group {
    config: config::Upstream,
    label: Arc<str>,
    members: ArcSwap<Members>,
    addresses: Mutex<Addresses>,
    /// Woken when members change, so that a new server is checked at once.
    pub(super) members_changed: Arc<Notify>,
    /// Those of plain requests, to all servers together.
    connections: Arc<Connections>,
    sources: Option<Arc<Sources>>,
    keys_in_use: Arc<KeysInUse>,
    /// Those of [`super::tasks`]: they end with the group.
    pub(super) tasks: Mutex<JoinSet<()>>,
    /// What was known of health is from before a configuration without checks.
    pub(super) health_is_stale: bool,
    are_names_tried: AtomicBool,
    departures: Departures,
    /// The operator's API, which is nobody's server, whatever a name resolves to.
    admin: Option<SocketAddr>,
}

/// A server whose sessions are to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departed {
    pub upstream: Arc<str>,
    pub server: SocketAddr,
    pub why: Departure,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// It fails its checks.
    Down,
    /// It left the file or the discovery.
    Removed,
}

/// Where servers whose sessions are to go are told of.
pub type Departures = UnboundedSender<Departed>;

/// What a request wants of its upstream.
#[derive(Debug, Clone, Copy)]
pub struct Pick<'a> {
    pub load: Load,
    pub key: &'a [u8],
    pub tried: &'a [SocketAddr],
}

/// Everybody in the group, at one moment.
#[derive(Default)]
struct Members {
    all: Vec<Arc<Member>>,
    /// The servers proper, then the backups.
    tiers: Vec<Balancer>,
}

#[derive(Default)]
struct Addresses {
    /// The last good answer for each name.
    resolved: HashMap<Name, Vec<SocketAddr>>,
    /// The lasting state of each address, carried over from one configuration to the next.
    servers: HashMap<SocketAddr, Arc<Server>>,
}

impl Group {
    /// Takes over counts, health and resolved names of the group that had this name before.
    pub fn new(
        config: config::Upstream,
        before: Option<&Group>,
        departures: Departures,
        admin: Option<SocketAddr>,
    ) -> Arc<Self> {
        let (addresses, connections) = match before {
            Some(before) => {
                let old = before
                    .addresses
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                let addresses = Addresses {
                    resolved: old.resolved.clone(),
                    servers: old.servers.clone(),
                };
                (addresses, before.connections.clone())
            }
            None => Default::default(),
        };
        let health_is_stale = before.is_some_and(|before| before.config.health_check.is_none());
        let group = Arc::new(Self {
            health_is_stale,
            label: config.name.as_str().into(),
            sources: Sources::new(&config.source),
            keys_in_use: before
                .map(|before| before.keys_in_use.clone())
                .unwrap_or_default(),
            config,
            members: ArcSwap::default(),
            addresses: Mutex::new(addresses),
            members_changed: Arc::default(),
            connections,
            tasks: Mutex::default(),
            are_names_tried: AtomicBool::new(false),
            departures,
            admin,
        });
        if group.names().is_empty() {
            group.names_are_tried();
        }
        group.rebuild(before.is_some());
        group
    }

    pub fn config(&self) -> &config::Upstream {
        &self.config
    }

    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// The name, as sessions keep it.
    pub fn label(&self) -> &Arc<str> {
        &self.label
    }

    pub fn members(&self) -> Vec<Arc<Member>> {
        self.members.load().all.clone()
    }

    /// The next server, counted; `None` when no server is left that could take it.
    pub fn pick(&self, pick: Pick<'_>) -> Option<Lease> {
        let members = self.members.load();
        // An ejected server is still better than none, and so is a backup.
        [Ejected::avoid(), Ejected::Accept]
            .into_iter()
            .find_map(|ejected| {
                let Pick { load, key, tried } = pick;
                let wanted = Wanted {
                    load,
                    key,
                    tried,
                    ejected,
                };
                members.tiers.iter().find_map(|tier| tier.pick(&wanted))
            })
    }

    /// Whether some server that could take this request has not been tried yet.
    pub fn has_untried(&self, tried: &[SocketAddr]) -> bool {
        self.members.load().all.iter().any(|member| {
            member.is_usable(Ejected::Accept) && !tried.contains(&member.server.address)
        })
    }

    /// Connects one attempt of a plain request.
    pub fn connector(&self, repeatable: Repeatable, client: Source) -> KeptConnector {
        KeptConnector::new(
            self.connections.clone(),
            self.way(client),
            self.config.keepalive,
            repeatable,
        )
    }

    /// To any of the servers.
    pub fn way(&self, client: Source) -> Way {
        let version = self.config.proxy_protocol;
        Way {
            sources: self.sources.clone(),
            preamble: version.map(|version| Preamble {
                version,
                source: client,
            }),
            tls: self.config.tls.clone(),
        }
    }

    /// Closes connections to servers on which nothing is asked.
    pub fn close_idle(&self) {
        self.connections.close_idle();
    }

    /// Counts a session that is there already; its server may have left the file.
    pub fn adopt(&self, address: SocketAddr) -> Lease {
        Lease::of_session(self.server(address))
    }

    /// The address's lasting state, made when there is none.
    pub fn server(&self, address: SocketAddr) -> Arc<Server> {
        let mut addresses = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let made = || Arc::new(Server::new(address));
        addresses
            .servers
            .entry(address)
            .or_insert_with(made)
            .clone()
    }

    /// Whether one may begin there whose handshake was under way: nobody has told it to go.
    pub fn keeps_late_session_on(&self, address: SocketAddr) -> bool {
        let members = self.members.load();
        let mut all = members.all.iter();
        match all.find(|member| member.server.address == address) {
            Some(member) => {
                let is_kept = self.config.on_down == Fate::Keep || member.is_healthy();
                is_kept && !member.server.is_drained()
            }
            None => self.config.on_removed == Fate::Keep,
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

    /// By the operator's word: whatever its health is, or no matter what it was.
    pub fn set_drained(&self, address: SocketAddr, drained: bool) {
        self.server(address).set_drained(drained);
        if let Some(member) = self.member(address) {
            member.note();
        }
    }

    /// Every server that is a member or still has sessions.
    pub fn servers(&self) -> Vec<Arc<Server>> {
        let addresses = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        addresses.servers.values().cloned().collect()
    }

    /// Whether every name was looked up and every server checked at least once.
    pub fn is_warm(&self) -> bool {
        self.are_names_tried.load(Relaxed)
            && self
                .members
                .load()
                .all
                .iter()
                .all(|member| !member.checked || member.found_up().is_some())
    }

    pub fn knowledge(&self) -> Knowledge {
        let addresses = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let names = addresses.resolved.iter();
        let health_of = |member: &Arc<Member>| Some((member.server.address, member.found_up()?));
        Knowledge {
            names: names
                .map(|(name, found)| (name.clone(), found.clone()))
                .collect(),
            servers: self.members().iter().filter_map(health_of).collect(),
            history: self
                .members()
                .iter()
                .map(|member| (member.server.address, member.history()))
                .collect(),
        }
    }

    /// Takes over what is not known here, or not as surely.
    pub fn learn(&self, before: Knowledge) {
        let unknown = |name: &Name| {
            let addresses = self
                .addresses
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            !addresses.resolved.contains_key(name)
        };
        let ours = self.names();
        for (name, found) in before.names {
            if ours.contains(&name) && unknown(&name) {
                self.set_resolved(&name, found);
            }
        }
        let servers: HashMap<_, _> = before.servers.into_iter().collect();
        let mut history: HashMap<_, _> = before.history.into_iter().collect();
        for member in self.members() {
            let server = &member.server;
            if let (Some(check), Some(was_up)) =
                (&self.config.health_check, servers.get(&server.address))
            {
                server.inherit_health(*was_up, check);
            }
            if let Some(history) = history.remove(&server.address) {
                member.go_on_from(history);
            }
        }
    }

    /// How long until it [is warm](Group::is_warm), at most.
    pub fn warms_within(&self) -> Duration {
        let check = self.config.health_check.as_ref();
        check.map_or(Duration::ZERO, |check| check.timeout)
            + if self.names().is_empty() {
                Duration::ZERO
            } else {
                resolve::TIMEOUT
            }
    }

    pub(super) fn names_are_tried(&self) {
        self.are_names_tried.store(true, Relaxed);
    }

    /// Tells that these servers' sessions are without a server that counts.
    pub(super) fn tell(&self, addresses: Vec<SocketAddr>, why: Departure) {
        let wanted = match why {
            Departure::Down => self.config.on_down,
            Departure::Removed => self.config.on_removed,
        };
        if wanted == Fate::Close {
            for server in addresses {
                // Nobody listens when the process is about to end.
                let _ = self.departures.send(Departed {
                    upstream: self.label.clone(),
                    server,
                    why,
                });
            }
        }
    }

    /// Tells of the servers that `before` had and this one doesn't.
    pub fn tell_removed_since(&self, before: &Group) {
        let gone = before
            .members()
            .iter()
            .map(|member| member.server.address)
            .filter(|address| !self.has_member(*address))
            .collect();
        self.tell(gone, Departure::Removed);
    }

    /// It has left the configuration: tells that all its servers are gone, and keeps no connection
    /// to them. Sessions may hold on to the group for days.
    pub fn retire(&self) {
        self.connections.retire();
        let all = self.members().iter().map(|m| m.server.address).collect();
        self.tell(all, Departure::Removed);
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

    /// Takes in a name's addresses; nothing happens when they are the ones known.
    pub(super) fn set_resolved(&self, name: &Name, mut found: Vec<SocketAddr>) {
        found.sort_unstable();
        found.dedup();
        {
            let mut addresses = self
                .addresses
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if addresses.resolved.get(name) == Some(&found) {
                return;
            }
            let list: Vec<_> = found.iter().map(ToString::to_string).collect();
            info!(
                "upstream {:?}: {name} is {}",
                self.config.name,
                list.join(", ")
            );
            addresses.resolved.insert(name.clone(), found);
        }
        let before = self.members();
        self.rebuild(true);
        self.members().iter().for_each(|member| member.note());
        self.members_changed.notify_one();
        let gone = before
            .iter()
            .map(|member| member.server.address)
            .filter(|address| !self.has_member(*address))
            .collect();
        self.tell(gone, Departure::Removed);
    }

    /// The names that this group must resolve.
    pub(super) fn names(&self) -> Vec<Name> {
        let servers = self
            .config
            .servers
            .iter()
            .filter_map(|server| match &server.address {
                ServerAddress::Socket(_) => None,
                ServerAddress::Name { host, port } => Some(Name {
                    host: host.clone(),
                    port: *port,
                }),
            });
        let discovered = self.config.discover.iter().map(|discover| Name {
            host: discover.host.clone(),
            port: discover.port,
        });
        servers.chain(discovered).collect()
    }

    pub(super) fn refresh(&self) -> Duration {
        self.config
            .discover
            .as_ref()
            .map_or(resolve::REFRESH, |discover| discover.refresh)
    }

    fn rebuild(&self, late: bool) {
        let mut addresses = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<Arc<Member>> = Vec::new();
        for (address, entry) in self.wanted(&addresses.resolved) {
            // The same address twice (by two names, say) is one server; the first entry counts.
            if all.iter().any(|member| member.server.address == address) {
                continue;
            }
            if self
                .admin
                .is_some_and(|admin| config::is_met_at(admin, address, is_here))
            {
                warn!(
                    "upstream {:?}: {address} is the address of admin and is left out: who can \
                     reach a listener must not reach the API; give one of them another port",
                    self.config.name
                );
                continue;
            }
            let server = addresses.servers.entry(address).or_insert_with(|| {
                let server = Server::new(address);
                if late {
                    server.start_slowly();
                }
                Arc::new(server)
            });
            all.push(Arc::new(Member {
                server: server.clone(),
                weight: entry.weight,
                max_sessions: entry.max_sessions,
                backup: entry.backup,
                slow_start: self.config.slow_start,
                checked: self.config.health_check.is_some(),
                start: self
                    .config
                    .health_check
                    .as_ref()
                    .map_or(Start::Up, |check| check.start),
                ejectable: self.config.eject.is_some(),
            }));
        }
        // A server that left is forgotten once its last session is gone: until then its counts
        // must be found again should it come back.
        addresses.servers.retain(|address, server| {
            server.load() > 0
                || server.is_drained()
                || all.iter().any(|member| member.server.address == *address)
        });
        let (backups, proper): (Vec<_>, Vec<_>) =
            all.iter().cloned().partition(|member| member.backup);
        let tiers = [proper, backups]
            .into_iter()
            .filter(|tier| !tier.is_empty())
            .map(|tier| Balancer::new(&self.config.balance, tier, &self.keys_in_use))
            .collect();
        self.members.store(Arc::new(Members { all, tiers }));
    }

    /// Every address that the file and the last answers of DNS call for, in the file's order.
    fn wanted(
        &self,
        resolved: &HashMap<Name, Vec<SocketAddr>>,
    ) -> Vec<(SocketAddr, config::UpstreamServer)> {
        let known = |host: &str, port: u16| {
            let name = Name {
                host: host.to_owned(),
                port,
            };
            resolved.get(&name).cloned().unwrap_or_default()
        };
        let mut wanted = Vec::new();
        for entry in &self.config.servers {
            let addresses = match &entry.address {
                ServerAddress::Socket(address) => vec![*address],
                ServerAddress::Name { host, port } => known(host, *port),
            };
            wanted.extend(
                addresses
                    .into_iter()
                    .map(|address| (address, entry.clone())),
            );
        }
        if let Some(discover) = &self.config.discover {
            for address in known(&discover.host, discover.port) {
                let entry = config::UpstreamServer {
                    address: ServerAddress::Socket(address),
                    weight: 1,
                    max_sessions: None,
                    backup: false,
                };
                wanted.push((address, entry));
            }
        }
        wanted
    }
}

/// Looks after idle connections, for as long as the group is at work.
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
    }
}

/// Only an address of this machine can be bound to.
fn is_here(ip: IpAddr) -> bool {
    ip.is_unspecified() || UdpSocket::bind((ip, 0)).is_ok()
}
