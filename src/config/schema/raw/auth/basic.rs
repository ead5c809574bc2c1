//! `auth.basic`: names and passwords.

use schemars::JsonSchema;
use serde::Deserialize;

/// Who shows none, or a wrong one, gets 401 and is asked for it. `Authorization` goes on to the
/// server, as in nginx; `headers.request.remove` takes it out. A result is kept for a minute, at
/// most until an upgrade. Where too many passwords wait to be compared a client gets 503.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Basic {
    /// File with a `NAME:HASH` on each line, as `htpasswd -B` writes it. Hashes are bcrypt
    /// (`$2y$`), SHA-crypt (`$5$`, `$6$`) or APR1 (`$apr1$`). Read again by a reload.
    #[schemars(required)]
    #[schemars(extend("examples" = ["/etc/prusik/htpasswd"]))]
    pub users: Option<String>,
    /// What browsers show beside the name and password that they ask for.
    #[schemars(extend("default" = "restricted", "examples" = ["staff"]))]
    pub realm: Option<String>,
}
