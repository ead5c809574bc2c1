//! The `ProxyHttp`: each of Pingora's phases in a few lines that delegate.
//!
//! ```text
//!  early_request_filter      who asks                   arrive
//!  request_filter            may it come in, and where  choose, authenticate, identify, admission,
//!                                                       answer
//!  upstream_peer             the next server            choose, turn, peer
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
mod affinity;
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
mod identify;
mod opening;
mod peer;
mod record;
mod refusal;
mod refuse;
mod request_rate;
mod response;
mod retry;
mod shared;
mod token;
mod turn;

pub use http::Http;
pub use shared::Gateway;
