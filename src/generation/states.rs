//! What routes have beside their settings: counts of their sessions and requests, and keys. It is
//! shared with the configurations before and after.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::counts::Counts;
use crate::auth::Auth;
use crate::auth::jwt::store::{KeyStore, KeyStores};
use crate::config::{Route, RouteId};
use crate::limits::{Limiter, RateTable};

/// The lists are in the order of `config.routes`.
pub struct RouteStates {
    /// Of each route's sessions.
    pub(super) limiters: Vec<Arc<Limiter>>,
    /// Of its event streams.
    pub(super) stream_limiters: Vec<Arc<Limiter>>,
    /// The buckets of each route that limits its requests.
    rate_tables: Vec<Option<Arc<RateTable>>>,
    /// The keys of each route's `auth.jwt`.
    pub(super) key_stores: KeyStores,
    /// Of all routes: what is taken out of a request that has no route.
    token_arguments: BTreeSet<String>,
}

impl RouteStates {
    pub(super) fn new(routes: &[Route], counts: &Counts, before: Option<&Self>) -> Self {
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

    /// The limiter of a route's sessions.
    pub fn limiter(&self, route: RouteId) -> &Arc<Limiter> {
        &self.limiters[route.index()]
    }

    /// The limiter of a route's event streams.
    pub fn stream_limiter(&self, route: RouteId) -> &Arc<Limiter> {
        &self.stream_limiters[route.index()]
    }

    /// The buckets of a route's requests, if it limits them.
    pub fn rate_table(&self, route: RouteId) -> Option<&RateTable> {
        self.rate_tables[route.index()].as_deref()
    }

    /// The keys of all routes.
    pub fn key_stores(&self) -> &KeyStores {
        &self.key_stores
    }

    /// `None`: the route asks for no token.
    pub fn key_store(&self, route: RouteId) -> Option<&Arc<KeyStore>> {
        self.key_stores.of_route(route.index())
    }

    /// The arguments of queries in which any route looks for tokens.
    pub fn token_arguments(&self) -> &BTreeSet<String> {
        &self.token_arguments
    }
}

/// Routes go on with what the `auth` of the same name `before` has.
pub(super) fn continue_auth<'a>(
    routes: &mut [Route],
    before: impl Fn(&str) -> Option<&'a Arc<Auth>>,
) {
    for route in routes {
        let before = before(&route.name);
        if let (Some(auth), Some(before)) = (&mut route.auth, before) {
            *auth = Arc::new(auth.after(before));
        }
    }
}
