//! Which fields a route changes, and how servers are told of the client.

use http::HeaderName;

use super::template::Template;

/// Applied in this order: remove, set, add.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HeaderRules {
    /// Replaces all fields of the name. An empty rendered value removes the field, as in nginx.
    pub set: Vec<(HeaderName, String, Template)>,
    pub add: Vec<(HeaderName, String, Template)>,
    pub remove: Vec<HeaderName>,
}

/// In which fields a server is told of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Forwarded {
    #[default]
    XForwarded,
    /// The `Forwarded` field of RFC 7239.
    Rfc7239,
    Both,
    Off,
}
