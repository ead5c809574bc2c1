//! Tokens, and a file with the key of who signs them.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tempfile::TempDir;

use super::issuer::{Issuer, jwks};

/// An issuer, and a file with its key.
pub struct Keys {
    issuer: Issuer,
    pub folder: TempDir,
}

impl Keys {
    pub fn new() -> Self {
        let issuer = Issuer::p256("k1");
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("jwks.json"), jwks(&[&issuer])).expect("it is ours");
        Self { issuer, folder }
    }

    /// A route's `auth`, with more keys of `jwt`.
    pub fn route(&self, more: &str) -> String {
        format!("auth: {{ {} }}", self.method(more))
    }

    /// The same, to be one of several.
    pub fn method(&self, more: &str) -> String {
        let file = self.folder.path().join("jwks.json");
        format!("jwt: {{ keys: \"{}\", {more} }}", file.display())
    }

    pub fn token(&self, claims: Value) -> String {
        self.issuer.sign("ES256", &claims)
    }
}

pub fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

/// Seconds since the epoch.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("it is after 1970").as_secs()
}
