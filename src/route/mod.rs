//! Host and path to route: the first match serves.
//!
//! [`matcher`] has the conditions of a route, [`index`] finds the first route that matches without
//! comparing with all of them, and [`coverage`] finds routes that can never serve. Pure.

mod coverage;
mod index;
mod matcher;
mod path;

pub use coverage::{Coverage, first_cover};
pub use index::RouteIndex;
pub use matcher::{HostPattern, ListenerId, Matcher, PathMatch, PathRegex, RequestKey};
pub use path::{NormalPaths, Slashes, lenient, normalise, normalise_with};
