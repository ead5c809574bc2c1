//! Files of other proxies, turned into one of prusik.
//!
//! ```text
//! nginx.conf ─► syntax ─► includes ─► servers, locations, upstreams ─► yaml ─► check
//!               a tree    one tree    what requests see, in our keys   text    our own resolver
//! ```
//!
//! Nothing is dropped in silence: a directive without an equivalent is a comment where it would
//! stand, and a line on stderr. A route that cannot be protected as nginx protects it is closed.

pub mod nginx;
mod yaml;
