//! Host and path to route: the first match serves.
//!
//! [`matcher`] has the conditions of a route, [`index`] finds the first route that matches without
//! comparing with all of them, [`coverage`] finds routes that can never serve, and [`rewrite`]
//! makes the path that a server gets. Pure.

mod coverage;
mod index;
mod matcher;
mod path;
mod rewrite;

pub use coverage::{Coverage, first_cover};
pub use index::RouteIndex;
pub use matcher::{HostPattern, ListenerId, METHODS, Matcher, PathMatch, PathRegex, RequestKey};
pub use path::{NormalPaths, Slashes, Traversal, lenient, normalise, normalise_with};
pub use rewrite::{Rewrite, RewriteError};
