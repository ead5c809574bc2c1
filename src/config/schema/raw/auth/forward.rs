//! `auth.forward`: another server that is asked.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::schema::units::Period;

/// The auth server is asked by a GET without a body, with `X-Forwarded-Method`, `-Uri` (path and
/// query as they go to the route's server), `-Host`, `-Proto` and `-For`. An answer of 2xx lets the
/// request in, and its `Set-Cookie` goes to the client with the answer. Any other answer is the
/// client's, also to a handshake. Without an answer that counts the client gets 503. At most 128
/// questions of a route are under way at a time; more wait.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// Where the auth server is asked.
    #[schemars(required, regex(pattern = "^https?://"))]
    #[schemars(extend("examples" = ["https://auth.internal:4181/verify"]))]
    pub url: Option<String>,
    /// With `https`: file with the authorities that are believed. Default: the system's.
    #[schemars(extend("examples" = ["/etc/prusik/tls/ca.pem"]))]
    pub ca: Option<String>,
    /// For all of a question, the wait for others included.
    #[schemars(extend("default" = "2s"))]
    pub timeout: Option<Period>,
    /// Headers of the client that the auth server gets. Default: all but those of the connection,
    /// of the body (`Content-Type` too), of the handshake (`Sec-WebSocket-Protocol` is told), and
    /// of ranges and conditions.
    #[schemars(extend("examples" = [["Cookie", "Authorization"]]))]
    pub request_headers: Option<Vec<String>>,
    /// Headers of an answer of 2xx that go to the route's server. What a client sends under these
    /// names never does. In templates each header of the answer is `$auth_NAME`.
    #[schemars(extend("examples" = [["X-User"]]))]
    pub response_headers: Option<Vec<String>>,
}
