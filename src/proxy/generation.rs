//! One configuration at work. A reload makes the next one and swaps; exchanges that began under
//! the old one end under it.

use std::sync::Arc;

use crate::config::{AcceptProxy, Config, Fate, ListenAddress, Listener, Route};
use crate::forward::client_address::TrustedProxies;
use crate::limits::{ClientKey, Gate, Seat};
use crate::observe::metrics::RouteMetrics;
use crate::route::{RequestKey, RouteIndex};
use crate::session::live::Identity;
use crate::tls::Acceptor;
use crate::upstream::{Departures, Group};

pub struct Generation {
    pub config: Config,
    index: RouteIndex,
    /// As `config.upstreams`.
    groups: Vec<Arc<Group>>,
    trusted: TrustedProxies,
    /// The number that a bound listener has in this configuration.
    listeners: Vec<usize>,
    departures: Departures,
    /// As `config.routes`: who counts the sessions of each.
    gates: Vec<Arc<Gate>>,
    pub labels: Labels,
    /// As `config.routes`.
    metrics: Vec<Arc<RouteMetrics>>,
    /// Of requests that no route matches.
    unrouted: Arc<RouteMetrics>,
}

/// Names as sessions keep them: for longer than the configuration they are from, and shared.
pub struct Labels {
    /// As `config.listeners`.
    pub listeners: Vec<Arc<str>>,
    /// As `config.routes`.
    pub routes: Vec<Arc<str>>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum GenerationError {
    #[error(
        "the listen addresses changed (bound: {bound}; in the file: {wanted}): a reload cannot \
         change them, `prusik upgrade` can"
    )]
    ListenersChanged { bound: String, wanted: String },
    #[error("`{0}` changed: a reload cannot change it, `prusik upgrade` can")]
    NeedsUpgrade(&'static str),
}

impl Generation {
    /// The first one. Listeners are bound in the order of the file.
    pub fn new(config: Config, departures: Departures) -> Self {
        let groups = config
            .upstreams
            .iter()
            .map(|upstream| {
                let departures = departures.clone();
                Group::new(upstream.clone(), None, departures, config.admin_socket())
            })
            .collect();
        let listeners = (0..config.listeners.len()).collect();
        let gates = config.routes.iter().map(|_| Arc::default()).collect();
        Self::with(config, groups, gates, listeners, departures, None)
    }

    /// The next one: upstreams that didn't change stay as they are, the others take over the
    /// counts and the health of the servers that stay.
    pub fn next(&self, config: Config) -> Result<Self, GenerationError> {
        let (old, new) = (&self.config.server, &config.server);
        let admin = |config: &Config| config.admin.as_ref().map(|admin| admin.listen.clone());
        for (key, is_same) in [
            ("server.threads", old.threads == new.threads),
            ("server.tunnel", old.tunnel == new.tunnel),
            ("server.pid_file", old.pid_file == new.pid_file),
            ("admin.listen", admin(&self.config) == admin(&config)),
        ] {
            if !is_same {
                return Err(GenerationError::NeedsUpgrade(key));
            }
        }
        let listeners = self.find_listeners(&config.listeners)?;
        let proxied = |(bound, number): (usize, &usize)| {
            self.proxy_protocol_of(bound) == config.listeners[*number].proxy_protocol
        };
        if !listeners.iter().enumerate().all(proxied) {
            return Err(GenerationError::NeedsUpgrade("listeners.proxy_protocol"));
        }
        let groups = config
            .upstreams
            .iter()
            .map(|upstream| {
                let before = self
                    .groups
                    .iter()
                    .find(|group| group.name() == upstream.name);
                match before {
                    Some(same) if same.config() == upstream => same.clone(),
                    before => {
                        let departures = self.departures.clone();
                        let before = before.map(Arc::as_ref);
                        Group::new(upstream.clone(), before, departures, config.admin_socket())
                    }
                }
            })
            .collect();
        let routes = config.routes.iter();
        let gates = routes
            .map(|route| self.gate_of(&route.name).cloned().unwrap_or_default())
            .collect();
        let departures = self.departures.clone();
        Ok(Self::with(
            config,
            groups,
            gates,
            listeners,
            departures,
            Some(self),
        ))
    }

    fn with(
        config: Config,
        groups: Vec<Arc<Group>>,
        gates: Vec<Arc<Gate>>,
        listeners: Vec<usize>,
        departures: Departures,
        before: Option<&Self>,
    ) -> Self {
        let counted = |route: &Route| {
            let before = before?;
            let known = before.config.routes.iter().zip(&before.metrics);
            let same = known
                .into_iter()
                .find(|(known, _)| known.name == route.name);
            same.map(|(_, metrics)| metrics.clone())
        };
        let metrics = config
            .routes
            .iter()
            .map(|route| counted(route).unwrap_or_default())
            .collect();
        let unrouted = before.map(|before| before.unrouted.clone());
        let index = RouteIndex::build(config.routes.iter().map(|route| &route.matcher));
        let trusted = TrustedProxies(config.trusted_proxies.clone());
        let labels = Labels {
            listeners: config
                .listeners
                .iter()
                .map(|l| l.name.as_str().into())
                .collect(),
            routes: config
                .routes
                .iter()
                .map(|r| r.name.as_str().into())
                .collect(),
        };
        Self {
            labels,
            metrics,
            unrouted: unrouted.unwrap_or_default(),
            config,
            index,
            groups,
            trusted,
            listeners,
            departures,
            gates,
        }
    }

    /// Starts the tasks of groups that `before` doesn't have, and ends those that it alone has.
    pub fn take_over(&self, before: Option<&Generation>) {
        let has = |generation: &Generation, group: &Arc<Group>| {
            generation
                .groups
                .iter()
                .any(|other| Arc::ptr_eq(other, group))
        };
        for group in &self.groups {
            if before.is_some_and(|before| has(before, group)) {
                continue;
            }
            group.start();
            let same = |old: &&Arc<Group>| old.name() == group.name();
            if let Some(old) = before.and_then(|before| before.groups.iter().find(same)) {
                group.tell_removed_since(old);
            }
        }
        for group in before.iter().flat_map(|before| &before.groups) {
            if !has(self, group) {
                group.stop();
            }
            if self.find_group(group.name()).is_none() {
                group.retire();
            }
        }
    }

    /// The number of a bound listener in this configuration.
    pub fn listener(&self, bound: usize) -> usize {
        self.listeners[bound]
    }

    /// Which of the bound listeners has this number here.
    pub fn bound(&self, number: usize) -> Option<usize> {
        self.listeners.iter().position(|found| *found == number)
    }

    /// Who counts the sessions of a route.
    pub fn gate(&self, route: usize) -> &Arc<Gate> {
        &self.gates[route]
    }

    fn gate_of(&self, route: &str) -> Option<&Arc<Gate>> {
        let number = self.config.routes.iter().position(|r| r.name == *route)?;
        Some(&self.gates[number])
    }

    /// Counts a session that is there already; its route may have left the file.
    pub fn adopt(&self, session: &Identity) -> Option<Seat> {
        let client = session.client.parse().ok().map(ClientKey::of);
        Some(self.gate_of(&session.route)?.adopt(client))
    }

    /// Of a bound listener; `None`: plain text.
    pub fn tls_of(&self, bound: usize) -> Option<&Arc<Acceptor>> {
        self.config.listeners[self.listener(bound)].tls.as_ref()
    }

    /// Of a bound listener.
    pub fn proxy_protocol_of(&self, bound: usize) -> AcceptProxy {
        self.config.listeners[self.listener(bound)].proxy_protocol
    }

    /// Whose forwarding headers are believed.
    pub fn trusted(&self) -> &TrustedProxies {
        &self.trusted
    }

    pub fn find_route(&self, request: &RequestKey<'_>) -> Option<usize> {
        self.index.lookup(request)
    }

    pub fn route(&self, number: usize) -> &Route {
        &self.config.routes[number]
    }

    /// As `config.routes`.
    pub fn route_metrics(&self) -> &[Arc<RouteMetrics>] {
        &self.metrics
    }

    pub fn metrics_of(&self, route: Option<usize>) -> &RouteMetrics {
        route.map_or(&self.unrouted, |number| &self.metrics[number])
    }

    pub fn groups(&self) -> &[Arc<Group>] {
        &self.groups
    }

    /// Whether a session may begin whose handshake was under way, perhaps under the configuration
    /// before, with this group: if not, those beside it have been told to go without it.
    pub fn keeps_late(&self, session: &Identity, group: &Group) -> bool {
        let mut routes = self.config.routes.iter();
        routes.any(|route| *route.name == *session.route)
            && match self.find_group(&session.upstream) {
                Some(group) => group.keeps_late_session_on(session.server),
                None => group.config().on_removed == Fate::Keep,
            }
    }

    pub fn find_group(&self, name: &str) -> Option<&Arc<Group>> {
        self.groups.iter().find(|group| group.name() == name)
    }

    pub fn group(&self, upstream: usize) -> &Arc<Group> {
        &self.groups[upstream]
    }

    fn find_listeners(&self, wanted: &[Listener]) -> Result<Vec<usize>, GenerationError> {
        // In the order in which they were bound, whatever the order of either file.
        let bound = self
            .listeners
            .iter()
            .map(|&number| &self.config.listeners[number].address);
        let found: Vec<_> = bound
            .clone()
            .filter_map(|address| {
                wanted
                    .iter()
                    .position(|listener| listener.address == *address)
            })
            .collect();
        if found.len() == bound.len() && found.len() == wanted.len() {
            return Ok(found);
        }
        let list = |addresses: Vec<&ListenAddress>| {
            addresses
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", ")
        };
        Err(GenerationError::ListenersChanged {
            bound: list(bound.collect()),
            wanted: list(wanted.iter().map(|listener| &listener.address).collect()),
        })
    }
}
