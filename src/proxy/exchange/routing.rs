//! The route of the request, and the path under that route.

use crate::config::RouteId;

#[derive(Default)]
pub struct Routing {
    route: Option<RouteId>,
    /// The path in normal form, if it differs from the client's.
    path: Option<String>,
    /// The rest of the path on a route that redirects.
    redirected: Option<String>,
}

impl Routing {
    /// The route was searched by the path in normal form. `None`: no route matches.
    pub fn new(route: Option<RouteId>, path: Option<String>) -> Self {
        Self {
            route,
            path,
            redirected: None,
        }
    }

    /// A route that redirects removes its `strip_prefix`.
    pub fn redirect_to(&mut self, rest: Option<String>) {
        self.redirected = rest;
    }

    pub fn route(&self) -> Option<RouteId> {
        self.route
    }

    /// The path in normal form, if it differs from the client's.
    pub fn path(&self) -> Option<&str> {
        self.path.as_deref()
    }

    /// The path as `$uri` has it, if it differs from the client's: in normal form, and without the
    /// `strip_prefix` of a route that redirects.
    pub fn uri(&self) -> Option<&str> {
        self.redirected.as_deref().or(self.path.as_deref())
    }
}
