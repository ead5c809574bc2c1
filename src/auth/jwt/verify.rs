//! Whether a token lets a request in: its size, its signature, its claims, in this order.

use std::time::SystemTime;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{decode, decode_header};
use serde_json::{Map, Value};

use super::claims::{Claims, Rules};
use super::keys::KeySet;
use super::refused::Refused;

/// Longer tokens are not looked at. Those of people with hundreds of groups have some 8 KiB.
pub const LONGEST: usize = 16 * 1024;

/// What a token says that may come in.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    pub claims: Map<String, Value>,
    /// When it stops being valid, the leeway included. `None`: never.
    pub expires: Option<SystemTime>,
}

/// Everything but [`Refused::Claims`] is decided by the token alone, and is refused by 401.
pub fn verify(
    token: &[u8],
    keys: &KeySet,
    rules: &Rules,
    now: SystemTime,
) -> Result<Verified, Refused> {
    if token.len() > LONGEST {
        return Err(Refused::TooLong);
    }
    let header = decode_header(token).map_err(|_| Refused::Unreadable)?;
    for (key, validation) in keys.candidates(header.alg, header.kid.as_deref()) {
        match decode::<Claims>(token, key, validation) {
            Ok(token) => {
                let Claims(claims) = token.claims;
                let expires = rules.check(&claims, now)?;
                return Ok(Verified { claims, expires });
            }
            // Another key may have made it.
            Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => {}
            Err(_) => return Err(Refused::Unreadable),
        }
    }
    match header.kid {
        Some(id) if !keys.has(&id) => Err(Refused::UnknownKey),
        _ => Err(Refused::Signature),
    }
}

#[cfg(test)]
mod tests;
