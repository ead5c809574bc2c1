//! What was taken out of a request before anything could show it.

use http::HeaderValue;

use crate::auth::jwt::finder::Presented;

/// Only of a request whose route asks for a token.
pub struct Withdrawn {
    pub presented: Presented,
    /// The target as it was, if the server gets the token.
    pub target: Option<Vec<u8>>,
    /// The subprotocol that the client has offered before its token.
    pub subprotocol: Option<HeaderValue>,
}
