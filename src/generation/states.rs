//! What routes have beside their settings: counts of their sessions and requests, and keys. It is
//! shared with the configurations before and after.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Generation;
use super::counts::Counts;
use crate::auth::jwt::store::{KeyStore, KeyStores};
use crate::config::{Route, RouteId};
use crate::limits::{ClientKey, Limiter, Permit, RateTable, UserBound};
use crate::session::live::SessionKind;

/// The lists are in the order of `config.routes`.
pub(super) struct RouteStates {
    /// Of each route's sessions.
    limiters: Vec<Arc<Limiter>>,
    /// Of its event streams.
    stream_limiters: Vec<Arc<Limiter>>,
    /// The buckets of each route that limits its requests.
    rate_tables: Vec<Option<Arc<RateTable>>>,
    /// The keys of each route's `auth.jwt`.
    pub key_stores: KeyStores,
    /// Of all routes: what is taken out of a request that has no route.
    token_arguments: BTreeSet<String>,
}

impl RouteStates {
    pub fn new(routes: &[Route], counts: &Counts, before: Option<&Self>) -> Self {
        let names = || routes.iter().map(|route| route.name.as_str());
        let rate_tables = routes.iter().map(|route| {
            let is_limited = route.requests_per_second.is_some();
            is_limited.then(|| counts.rate_table(&route.name))
        });
        let jwts = || routes.iter().map(|route| route.auth.as_ref()?.jwt.as_ref());
        let sources = jwts().map(|jwt| jwt.map(|jwt| &jwt.source));
        let arguments = jwts().flatten().flat_map(|jwt| jwt.finders.arguments());
        Self {
            limiters: names().map(|name| counts.limiter(name)).collect(),
            stream_limiters: names().map(|name| counts.stream_limiter(name)).collect(),
            rate_tables: rate_tables.collect(),
            key_stores: KeyStores::new(sources, before.map(|before| &before.key_stores)),
            token_arguments: arguments.map(str::to_owned).collect(),
        }
    }
}

/// Routes that keep their name go on with what their `auth` has.
pub(super) fn continue_auth(routes: &mut [Route], before: &Generation) {
    for route in routes {
        let same = before.route_ids.get(route.name.as_str());
        let before = same.and_then(|id| before.route(*id).auth.as_ref());
        if let (Some(auth), Some(before)) = (&mut route.auth, before) {
            *auth = Arc::new(auth.after(before));
        }
    }
}

impl Generation {
    /// The limiter of a route's sessions.
    pub fn limiter(&self, route: RouteId) -> &Arc<Limiter> {
        &self.states.limiters[route.index()]
    }

    /// The limiter of a route's event streams.
    pub fn stream_limiter(&self, route: RouteId) -> &Arc<Limiter> {
        &self.states.stream_limiters[route.index()]
    }

    /// The buckets of a route's requests, if it limits them.
    pub fn rate_table(&self, route: RouteId) -> Option<&RateTable> {
        self.states.rate_tables[route.index()].as_deref()
    }

    /// `None`: the route asks for no token.
    pub fn key_store(&self, route: RouteId) -> Option<&Arc<KeyStore>> {
        self.states.key_stores.of_route(route.index())
    }

    /// The arguments of queries in which any route looks for tokens.
    pub fn token_arguments(&self) -> &BTreeSet<String> {
        &self.states.token_arguments
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
}
