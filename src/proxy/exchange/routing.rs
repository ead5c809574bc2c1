//! Which route serves, and what the path is to it.

use crate::config::RouteId;

#[derive(Default)]
pub struct Routing {
    route: Option<RouteId>,
    /// The path in normal form, where that is another than the client sent.
    path: Option<String>,
    /// What a route that redirects leaves of the path.
    redirected: Option<String>,
}

impl Routing {
    /// The route was looked for by the path in normal form. `None`: no route matches.
    pub fn new(route: Option<RouteId>, path: Option<String>) -> Self {
        Self {
            route,
            path,
            redirected: None,
        }
    }

    /// A route that redirects takes off its `strip_prefix`.
    pub fn redirect_to(&mut self, rest: Option<String>) {
        self.redirected = rest;
    }

    pub fn route(&self) -> Option<RouteId> {
        self.route
    }

    /// The path in normal form, where that is another than the client sent.
    pub fn path(&self) -> Option<&str> {
        self.path.as_deref()
    }

    /// The path as `$uri` has it, where that is another than the client sent: in normal form, and
    /// on a route that redirects less its `strip_prefix`.
    pub fn uri(&self) -> Option<&str> {
        self.redirected.as_deref().or(self.path.as_deref())
    }
}
