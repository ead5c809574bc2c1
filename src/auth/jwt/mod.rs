//! `auth.jwt`: a signed token lets a request in (RFC 7519, as RFC 6750 has it presented).
//!
//! ```text
//!  request ─► finder ─► verify ─► claims ─► Caller
//!             (query,   │ size, signature,
//!        subprotocol)   │ dates, issuer, …
//!                       ▼
//!                     store ◄── task ◄── schedule    when keys are fetched
//!                   (keys by      └────► source      from a file, or (fetch) a URL
//!                  id, algorithm)
//! ```
//!
//! Pure but for [`fetch`], [`source`] and [`store`]. A token is never shown: not in a reason, not
//! in `Debug`, and by what [`finder`] and [`query`] know the proxy takes it out of what is logged.

pub mod claims;
mod crypto;
pub mod fetch;
pub mod finder;
#[cfg(test)]
#[path = "../../../tests/it/support/issuer.rs"]
#[allow(dead_code, reason = "the end-to-end tests use more of it")]
mod issuer;
mod key_types;
pub mod keys;
pub mod keys_error;
mod pem;
pub mod query;
pub mod refused;
mod schedule;
pub mod source;
pub mod store;
pub mod subprotocol;
pub mod verify;

use std::time::SystemTime;

use claims::Rules;
use finder::{Finders, Presented};
use keys::KeySet;
use refused::Refused;
use source::KeySource;
use store::KeyStore;
use verify::{Verified, verify};

use super::Denied;

/// The `auth.jwt` of a route.
#[derive(Debug, Clone, PartialEq)]
pub struct Jwt {
    pub source: KeySource,
    pub finders: Finders,
    /// Whether the server gets the arguments of the query in which tokens are found.
    pub keeps_arguments: bool,
    pub rules: Rules,
}

impl Jwt {
    /// Decides on what a request has presented. `store`: that of [`Jwt::source`].
    pub async fn admit(&self, presented: &Presented, store: &KeyStore) -> Result<Verified, Denied> {
        let token = match presented {
            Presented::Nothing => return Err(Refused::Missing.into()),
            Presented::Several => return Err(Refused::Several.into()),
            Presented::TooLong => return Err(Refused::TooLong.into()),
            Presented::Token(token) => token,
        };
        let mut keys = store.keys().ok_or(Refused::NoKeys)?;
        let mut outcome = self.verify(token, &keys);
        // A fetch may have ended in between.
        if let Err(Refused::UnknownKey) = outcome
            && (store.look_again().await || store.has_other_keys(&keys))
        {
            keys = store.keys().ok_or(Refused::NoKeys)?;
            outcome = self.verify(token, &keys);
        }
        outcome.map_err(Denied::from)
    }

    fn verify(&self, token: &[u8], keys: &KeySet) -> Result<Verified, Refused> {
        verify(token, keys, &self.rules, SystemTime::now())
    }
}
