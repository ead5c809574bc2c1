//! The route of the request, and the path under that route.

use crate::config::RouteId;

#[derive(Default)]
pub struct Routing {
    route: Option<RouteId>,
    /// The path in normal form, if it differs from the client's.
    path: Option<String>,
    /// The rest of the path on a route that redirects.
    redirected: Option<String>,
    /// The path for the server on a route that rewrites, if it matches there.
    rewritten: Option<String>,
}

impl Routing {
    /// The route was searched by the path in normal form. `None`: no route matches.
    pub fn new(route: Option<RouteId>, path: Option<String>) -> Self {
        Self {
            route,
            path,
            redirected: None,
            rewritten: None,
        }
    }

    /// A route that redirects removes its `strip_prefix`.
    pub fn redirect_to(&mut self, rest: Option<String>) {
        self.redirected = rest;
    }

    /// The server gets this path.
    pub fn rewrite_to(&mut self, path: String) {
        self.rewritten = Some(path);
    }

    /// The path that the server gets on a route that has rewritten it.
    pub fn rewritten(&self) -> Option<&str> {
        self.rewritten.as_deref()
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
