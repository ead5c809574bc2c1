//! What is known of who asks.

use std::borrow::Cow;
use std::time::SystemTime;

use http::{HeaderMap, HeaderValue};
use serde_json::{Map, Value};

/// Filled by what lets a request in. Empty for a route that demands nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Caller {
    /// The name by which `auth.basic` knows the caller.
    pub basic: Option<Box<str>>,
    /// The claims of the token that `auth.jwt` has verified.
    pub claims: Map<String, Value>,
    /// The header fields of the auth server's answer, its cookies apart.
    pub answer: HeaderMap,
    /// The `Set-Cookie` of that answer, which are the client's.
    pub cookies: Vec<HeaderValue>,
    /// When the credential stops being valid.
    pub expires: Option<SystemTime>,
    /// Whose session it is: the value of the route's `user`.
    pub user: Option<Box<str>>,
}

impl Caller {
    /// Whose request it is where the route does not say it: the token's `sub`, else the name by
    /// which `auth.basic` knows the caller.
    pub fn known_as(&self) -> Option<Cow<'_, str>> {
        let basic = || self.basic.as_deref().map(Cow::from);
        self.claim("sub").or_else(basic)
    }

    /// A claim as text: of a string its characters, of anything else its JSON. `None`: the token
    /// has no such claim, or it is `null`.
    pub fn claim(&self, name: &str) -> Option<Cow<'_, str>> {
        match self.claims.get(name)? {
            Value::Null => None,
            Value::String(text) => Some(text.into()),
            other => Some(other.to_string().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_known_by_the_token_and_else_by_its_name() {
        let mut caller = Caller::default();
        assert_eq!(caller.known_as(), None);
        caller.basic = Some("alice".into());
        assert_eq!(caller.known_as().as_deref(), Some("alice"));
        caller.claims.insert("sub".to_owned(), "id-7".into());
        assert_eq!(caller.known_as().as_deref(), Some("id-7"));
    }

    #[test]
    fn a_claim_is_text() {
        let Value::Object(claims) = serde_json::json!({
            "sub": "alice", "age": 7, "roles": ["agent", "admin"], "nothing": null,
        }) else {
            unreachable!()
        };
        let caller = Caller {
            claims,
            ..Caller::default()
        };
        assert_eq!(caller.claim("sub").as_deref(), Some("alice"));
        assert_eq!(caller.claim("age").as_deref(), Some("7"));
        assert_eq!(
            caller.claim("roles").as_deref(),
            Some(r#"["agent","admin"]"#)
        );
        assert_eq!(caller.claim("nothing"), None);
        assert_eq!(caller.claim("other"), None);
    }
}
