//! The `ProxyHttp`: each of Pingora's phases in a few lines that delegate.
//!
//! ```text
//!  early_request_filter      who asks                   arrive
//!  request_filter            route, or answer here      choose, admission, answer
//!  upstream_peer             the next server            choose, peer
//!  upstream_request_filter   headers out                fields, crate::forward
//!  upstream_response_filter  101 verified, headers back response, crate::forward
//!  response_filter           at a 101, a session        response, opening
//!  error_while_proxy         once more, or not          failure, retry
//!  fail_to_proxy             a status, a reason         refuse, failure, retry, answer
//!  logging                   one line                   record
//! ```
//!
//! [`exchange::Exchange`] holds everything that is known of one exchange.

mod admission;
mod answer;
mod arrive;
mod authenticate;
mod body_size;
mod choose;
mod exchange;
mod failure;
mod fields;
mod gateway;
mod http;
mod opening;
mod peer;
mod record;
mod refuse;
mod request_rate;
mod response;
mod retry;
mod shared;

pub use http::Http;
pub use shared::Gateway;
