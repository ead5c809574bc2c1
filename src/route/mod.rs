//! Host and path to route: the first match serves.
//!
//! [`matcher`] says what a route matches, [`index`] finds the first that does without looking at
//! all of them, [`coverage`] finds routes that can never serve. Pure.

mod coverage;
mod index;
mod matcher;
mod path;

pub use coverage::{Coverage, first_cover};
pub use index::RouteIndex;
pub use matcher::{HostPattern, ListenerId, Matcher, PathMatch, PathRegex, RequestKey};
pub use path::{NormalPaths, Slashes, lenient, normalise, normalise_with};
