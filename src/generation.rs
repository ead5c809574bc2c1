//! One configuration at work. A reload makes the next one and swaps; exchanges that began under
//! the old one end under it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::join;
use http::HeaderMap;

use crate::auth::Auth;
use crate::config::{
    AcceptProxy, Config, ListenAddress, Listener, ListenerLimits, OnGone, Route, RouteId,
    UpstreamId,
};
use crate::forward::Trust;
use crate::forward::client_address::{ClientAddress, TrustedProxies};
use crate::generation::counts::Counts;
use crate::generation::states::{RouteStates, continue_auth};
use crate::limits::{ClientKey, Limiter, Permit, UserBound};
use crate::listener::{Connection, ListenerSettings};
use crate::net::BoundId;
use crate::observe::metrics::RouteMetrics;
use crate::route::{ListenerId, RequestKey, RouteIndex};
use crate::session::drain::{DrainPlan, DrainReason};
use crate::session::live::{Identity, SessionKind};
use crate::tls::TlsRevision;
use crate::upstream::{self, Departures, Gone, Group, Lease};

pub struct Generation {
    pub config: Config,
    index: RouteIndex,
    /// In the order of `config.upstreams`.
    groups: Vec<Arc<Group>>,
    upstream_ids: HashMap<Arc<str>, UpstreamId>,
    route_ids: HashMap<Arc<str>, RouteId>,
    trusted: TrustedProxies,
    /// The listener of this configuration for each bound listener.
    listeners: Vec<ListenerId>,
    /// In the order of the bound listeners.
    tls_revisions: Vec<TlsRevision>,
    departures: Departures,
    /// Shared by all configurations.
    counts: Arc<Counts>,
    /// What routes have beside their settings.
    pub states: RouteStates,
    pub labels: Labels,
    /// In the order of `config.routes`.
    metrics: Vec<Arc<RouteMetrics>>,
    /// Counts requests that no route matches.
    unrouted: Arc<RouteMetrics>,
}

/// Names that sessions share, and that outlive their configuration.
pub struct Labels {
    /// In the order of `config.listeners`.
    pub listeners: Vec<Arc<str>>,
    /// In the order of `config.routes`.
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
    /// Makes the first generation. Listeners are bound in the order of the file.
    pub fn new(config: Config, departures: Departures) -> Self {
        let counts = Arc::<Counts>::default();
        let groups = config
            .upstreams
            .iter()
            .map(|upstream| {
                let (departures, servers) = (departures.clone(), counts.servers(&upstream.name));
                let admin = config.admin_sockets();
                Group::new(upstream.clone(), servers, None, departures, admin)
            })
            .collect();
        let listeners = (0..config.listeners.len()).map(ListenerId::new);
        let listeners: Vec<_> = listeners.collect();
        let tls_revisions = vec![TlsRevision::default(); listeners.len()];
        let listeners = (listeners, tls_revisions);
        Self::with(config, groups, counts, listeners, departures, None)
    }

    /// Makes the next generation. Unchanged upstreams are kept; the others take over the counts and
    /// the health of the servers that stay.
    pub fn next(&self, config: Config) -> Result<Self, GenerationError> {
        let (old, new) = (&self.config.server, &config.server);
        let admin = |config: &Config| config.admin.as_ref().map(|admin| admin.listen.clone());
        for (key, is_same) in [
            ("server.threads", old.threads == new.threads),
            ("server.tunnel", old.tunnel == new.tunnel),
            ("server.pid_file", old.pid_file == new.pid_file),
            ("server.hand_over", old.hand_over == new.hand_over),
            ("admin.listen", admin(&self.config) == admin(&config)),
        ] {
            if !is_same {
                return Err(GenerationError::NeedsUpgrade(key));
            }
        }
        let listeners = self.find_listeners(&config.listeners)?;
        let is_proxied_as_before = |(bound, listener): (BoundId, &ListenerId)| {
            let wanted = config.listener(*listener).proxy_protocol;
            self.listener(bound).proxy_protocol == wanted
        };
        if !bound_ids().zip(&listeners).all(is_proxied_as_before) {
            return Err(GenerationError::NeedsUpgrade("listeners.proxy_protocol"));
        }
        let tls_revisions = bound_ids().zip(&listeners).map(|(bound, listener)| {
            let now = config.listener(*listener).tls.as_deref();
            let before = self.listener(bound).tls.as_deref();
            self.tls_revision(bound).after(before, now)
        });
        let tls_revisions = tls_revisions.collect();
        let groups = config
            .upstreams
            .iter()
            .map(|upstream| match self.find_group(&upstream.name) {
                Some(same) if same.config() == upstream => same.clone(),
                before => {
                    let departures = self.departures.clone();
                    let servers = self.counts.servers(&upstream.name);
                    let (before, admin) = (before.map(Arc::as_ref), config.admin_sockets());
                    Group::new(upstream.clone(), servers, before, departures, admin)
                }
            })
            .collect();
        let departures = self.departures.clone();
        Ok(Self::with(
            config,
            groups,
            self.counts.clone(),
            (listeners, tls_revisions),
            departures,
            Some(self),
        ))
    }

    fn with(
        mut config: Config,
        groups: Vec<Arc<Group>>,
        counts: Arc<Counts>,
        (listeners, tls_revisions): (Vec<ListenerId>, Vec<TlsRevision>),
        departures: Departures,
        before: Option<&Self>,
    ) -> Self {
        if let Some(before) = before {
            continue_auth(&mut config.routes, |name| before.auth(name));
        }
        let counted = |route: &Route| {
            let before = before?;
            let id = *before.route_ids.get(route.name.as_str())?;
            Some(before.metrics[id.index()].clone())
        };
        let metrics = config
            .routes
            .iter()
            .map(|route| counted(route).unwrap_or_default())
            .collect();
        let unrouted = before.map(|before| before.unrouted.clone());
        let states_before = before.map(|before| &before.states);
        let states = RouteStates::new(&config.routes, &counts, states_before);
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
        let upstream_names = groups.iter().map(|group| group.label().clone());
        let upstream_ids = (0..groups.len()).map(UpstreamId::new);
        let route_names = labels.routes.iter().cloned();
        let route_ids = (0..labels.routes.len()).map(RouteId::new);
        Self {
            upstream_ids: upstream_names.zip(upstream_ids).collect(),
            route_ids: route_names.zip(route_ids).collect(),
            labels,
            metrics,
            unrouted: unrouted.unwrap_or_default(),
            config,
            index,
            groups,
            trusted,
            listeners,
            tls_revisions,
            departures,
            counts,
            states,
        }
    }

    /// Returns when all names are resolved, all servers are checked and all keys are fetched, or a
    /// time limit is reached, and tells what is not known then. Does not wait for groups and keys
    /// that `before`, which is at work, has too.
    pub async fn warm_up(&self, before: Option<&Generation>) -> Vec<String> {
        let new = self.new_groups(before).into_iter();
        let groups = upstream::warm_up(new.map(|(group, _)| group.clone()).collect());
        join(groups, self.states.key_stores.warm_up()).await;
        let lines = self.groups.iter().map(|group| group.what_is_unknown());
        let without_keys = self.states.key_stores.what_is_missing();
        lines.flatten().chain(without_keys).collect()
    }

    /// Takes over what the groups of `before` have found out since these were made. What they find
    /// out later is lost: this generation is swapped in next, and then [begins](Generation::begin).
    pub fn replace(&self, before: &Generation) {
        for (group, before) in self.new_groups(Some(before)) {
            before.inspect(|before| group.replace(before));
        }
    }

    /// Starts the tasks of new groups and keys, and ends those of groups that only `before` has.
    /// Requests must already use this generation, because sessions that are told to go must find
    /// the new state.
    pub fn begin(&self, before: Option<&Generation>) {
        for (group, before) in self.new_groups(before) {
            group.begin(before.map(Arc::as_ref));
        }
        self.states.key_stores.begin();
        for group in before.iter().flat_map(|before| &before.groups) {
            match self.find_group(group.name()) {
                Some(same) if Arc::ptr_eq(same, group) => {}
                Some(_) => group.stop(),
                None => {
                    group.stop();
                    group.retire();
                }
            }
        }
        self.counts.forget_unused();
    }

    /// The groups that `before` does not have, each with the one that it replaces.
    fn new_groups<'a>(
        &'a self,
        before: Option<&'a Self>,
    ) -> Vec<(&'a Arc<Group>, Option<&'a Arc<Group>>)> {
        let with_before = self.groups.iter().map(|group| {
            let before = before.and_then(|before| before.find_group(group.name()));
            (group, before)
        });
        let is_new = |(group, before): &(&Arc<Group>, Option<&Arc<Group>>)| {
            !before.is_some_and(|before| Arc::ptr_eq(group, before))
        };
        with_before.filter(is_new).collect()
    }

    /// The listener of this configuration that a bound listener is.
    pub fn listener_id(&self, bound: BoundId) -> ListenerId {
        self.listeners[bound.index()]
    }

    /// The settings of a bound listener in this configuration.
    pub fn listener(&self, bound: BoundId) -> &Listener {
        self.config.listener(self.listener_id(bound))
    }

    /// In the order of `config.routes`: each route's name and limiter.
    pub fn limiters(&self) -> impl Iterator<Item = (&str, &Arc<Limiter>)> {
        let names = self.config.routes.iter().map(|route| route.name.as_str());
        names.zip(&self.states.limiters)
    }

    /// The same for event streams.
    pub fn stream_limiters(&self) -> impl Iterator<Item = (&str, &Arc<Limiter>)> {
        let names = self.config.routes.iter().map(|route| route.name.as_str());
        names.zip(&self.states.stream_limiters)
    }

    /// The limiter of such sessions on a route, which may be gone from the file.
    pub fn limiter_named(&self, kind: SessionKind, route: &str) -> Arc<Limiter> {
        match kind {
            SessionKind::WebSocket => self.counts.limiter(route),
            SessionKind::Stream => self.counts.stream_limiter(route),
        }
    }

    /// Counts a session that is already running. Its route may be gone from the file.
    pub fn adopt(&self, kind: SessionKind, route: &str, client: Option<ClientKey>) -> Permit {
        self.limiter_named(kind, route).adopt(client)
    }

    /// How many such sessions a user may have on the route.
    pub fn user_bound(&self, kind: SessionKind, route: &str) -> Option<UserBound> {
        let route = self.route(*self.route_ids.get(route)?);
        let bounds = match kind {
            SessionKind::WebSocket => route.websocket.as_ref()?.bounds,
            SessionKind::Stream => route.stream.as_ref()?.bounds,
        };
        bounds.per_user
    }

    /// Counts such a session on its server.
    pub fn adopt_on(&self, upstream: &str, server: SocketAddr) -> Lease {
        Lease::of_session(self.counts.servers(upstream).of(server))
    }

    /// The settings of each bound listener in this configuration, in the order of binding.
    pub fn listener_settings(&self) -> impl Iterator<Item = ListenerSettings> {
        bound_ids().take(self.listeners.len()).map(|bound| {
            let listener = self.listener(bound);
            let limits = ListenerLimits {
                body_size: self.largest_body(self.listener_id(bound)),
                ..listener.limits
            };
            ListenerSettings {
                name: listener.name.clone(),
                limits,
                proxy_protocol: listener.proxy_protocol,
                tls: listener.tls.clone(),
                tls_revision: self.tls_revision(bound),
                trusted: self.trusted.clone(),
                unrouted: self.unrouted.clone(),
            }
        })
    }

    /// The largest body that the listener or one of its routes takes. `None`: any size.
    fn largest_body(&self, listener: ListenerId) -> Option<u64> {
        let own = self.config.listener(listener).limits.body_size;
        let serves = |route: &&Route| route.matcher.listener.is_none_or(|only| only == listener);
        let routes = self.config.routes.iter().filter(serves);
        let mut sizes = routes.map(|route| route.body_size.within(own));
        sizes.try_fold(own?, |largest, size| Some(largest.max(size?)))
    }

    /// The drain settings of the file.
    pub fn drain_plan(&self) -> DrainPlan {
        let drain = &self.config.server.drain;
        DrainPlan {
            code: drain.code,
            window: drain.window,
            deadline: drain.deadline,
        }
    }

    /// What new connections on a bound listener have shown.
    pub fn tls_revision(&self, bound: BoundId) -> TlsRevision {
        self.tls_revisions[bound.index()]
    }

    /// Whether forwarding headers of this connection are trusted, and the client's address.
    pub fn who_asks(&self, connection: &Connection, headers: &HeaderMap) -> (Trust, ClientAddress) {
        let peer = connection.peer();
        // If a PROXY header names no client (UNKNOWN, or a check by the proxy itself), the fields
        // are not the proxy's: the unnamed sender may have written them.
        let is_unnamed = !connection.is_proxied()
            && self.listener(connection.listener()).proxy_protocol == AcceptProxy::Required;
        if is_unnamed || !self.trusted.trusts_peer(peer) {
            return (Trust::Untrusted, ClientAddress::of_peer(peer));
        }
        let field = self.config.client_address;
        let client = ClientAddress::find(peer, headers, &self.trusted, field);
        (Trust::Trusted, client)
    }

    /// The proxies whose forwarding headers are trusted.
    pub fn trusted(&self) -> &TrustedProxies {
        &self.trusted
    }

    pub fn find_route(&self, request: &RequestKey<'_>) -> Option<RouteId> {
        self.index.lookup(request).map(RouteId::new)
    }

    pub fn route(&self, id: RouteId) -> &Route {
        self.config.route(id)
    }

    /// The name of a route, in the copy that sessions share.
    pub fn route_label(&self, id: RouteId) -> &Arc<str> {
        &self.labels.routes[id.index()]
    }

    /// In the order of `config.routes`.
    pub fn route_metrics(&self) -> &[Arc<RouteMetrics>] {
        &self.metrics
    }

    pub fn metrics_of(&self, route: Option<RouteId>) -> &RouteMetrics {
        route.map_or(&self.unrouted, |id| &self.metrics[id.index()])
    }

    pub fn groups(&self) -> &[Arc<Group>] {
        &self.groups
    }

    /// Why a session must go: its route or its server is gone. `None`: it may stay.
    pub fn why_gone(&self, session: &Identity) -> Option<DrainReason> {
        if !self.route_ids.contains_key(&session.route) {
            return Some(DrainReason::RouteRemoved(session.route.clone()));
        }
        let gone = match self.find_group(&session.upstream) {
            Some(group) => group.why_gone(session.server)?,
            None => Gone::Removed,
        };
        let (upstream, server) = (session.upstream.clone(), session.server);
        Some(DrainReason::of_server(gone, upstream, server))
    }

    /// The same for a session that begins now with this group, perhaps under the configuration
    /// before. If it must go, the other sessions were told before it began.
    pub fn why_gone_late(&self, session: &Identity, group: &Group) -> Option<DrainReason> {
        let why = self.why_gone(session);
        let is_kept = self.find_group(&session.upstream).is_none()
            && group.config().on_removed == OnGone::Keep
            && matches!(why, Some(DrainReason::ServerRemoved(..)));
        why.filter(|_| !is_kept)
    }

    fn auth(&self, route: &str) -> Option<&Arc<Auth>> {
        let id = *self.route_ids.get(route)?;
        self.route(id).auth.as_ref()
    }

    pub fn find_group(&self, name: &str) -> Option<&Arc<Group>> {
        Some(self.group(*self.upstream_ids.get(name)?))
    }

    pub fn group(&self, upstream: UpstreamId) -> &Arc<Group> {
        &self.groups[upstream.index()]
    }

    fn find_listeners(&self, wanted: &[Listener]) -> Result<Vec<ListenerId>, GenerationError> {
        // In the order of binding, whatever the order in the files is.
        let bound = self
            .listeners
            .iter()
            .map(|&listener| &self.config.listener(listener).address);
        let found: Vec<_> = bound
            .clone()
            .filter_map(|address| {
                wanted
                    .iter()
                    .position(|listener| listener.address == *address)
                    .map(ListenerId::new)
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
/// All possible ids, in order.
fn bound_ids() -> impl Iterator<Item = BoundId> {
    (0..).map(BoundId::new)
}

pub mod counts;
mod states;
