//! What keys of each type can check, and which of them are too weak for it.

use std::ops::RangeInclusive;

use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};

pub const RSA: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];
pub const EC_256: &[Algorithm] = &[Algorithm::ES256];
pub const EC_384: &[Algorithm] = &[Algorithm::ES384];
pub const ED: &[Algorithm] = &[Algorithm::EdDSA];
pub const SECRET: &[Algorithm] = &[Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];

/// A shorter secret can be found by trying (RFC 7518 section 3.2).
const SECRET_LEAST: usize = 32;

/// The lengths of RSA keys that `ring` takes, in bits.
const RSA_BITS: RangeInclusive<usize> = 2048..=8192;

/// Refuses a key with which no signature could be checked, or anybody could sign.
pub fn sound(key: DecodingKey, by_type: &[Algorithm]) -> Result<DecodingKey, &'static str> {
    let length = match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, e } => return rsa(n, e),
        DecodingKeyKind::SecretOrDer(bytes) => bytes.len(),
    };
    match by_type {
        by_type if by_type == SECRET && length < SECRET_LEAST => Err("is shorter than 32 bytes"),
        by_type if by_type == EC_256 && length != 65 => Err("is no point of P-256"),
        by_type if by_type == EC_384 && length != 97 => Err("is no point of P-384"),
        by_type if by_type == ED && length != 32 => Err("is no point of Ed25519"),
        _ => Ok(key),
    }
}

/// `ring` takes numbers without leading zeros, which some issuers write.
pub fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<DecodingKey, &'static str> {
    let plain = |number: &[u8]| {
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        number[zeros..].to_vec()
    };
    let (n, e) = (plain(modulus), plain(exponent));
    let Some(first) = n.first() else {
        return Err("is not whole");
    };
    if !RSA_BITS.contains(&(n.len() * 8 - first.leading_zeros() as usize)) {
        return Err("is shorter than 2048 bits, or longer than 8192");
    }
    if e.is_empty() || e.len() > 4 {
        return Err("has an exponent that is none");
    }
    Ok(DecodingKey::from_rsa_raw_components(&n, &e))
}
