//! The `ProxyHttp`: each of Pingora's phases in a few lines that delegate.
//!
//! ```text
//!  request_filter            route, or answer here      generation, admission, handshake, answer
//!  upstream_peer             the next server            peer
//!  upstream_request_filter   headers out                crate::forward, fields
//!  upstream_response_filter  101 verified, headers back
//!  response_filter           at a 101, a session         opening
//!  fail_to_proxy             a status, a reason         failure, answer
//!  logging                   one line                   record
//! ```
//!
//! What is known of one exchange rides along in [`Exchange`].

mod admission;
mod answer;
mod exchange;
mod failure;
mod fields;
mod gateway;
mod http;
mod opening;
mod peer;
mod record;

pub use gateway::Gateway;
pub use http::Http;
