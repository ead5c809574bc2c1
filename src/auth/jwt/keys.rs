//! The keys by which tokens are checked, from a JWKS (RFC 7517) or from PEM.
//!
//! Each key has a fixed list of algorithms, which follows from its type and its `alg`. What a token
//! says of its own algorithm only chooses among the keys whose list has it: `none` is on no list,
//! and no public key has an HMAC on its list.

use std::fmt;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use ring::digest;
use serde_json::Value;

use super::key_types::{EC_256, EC_384, ED, RSA, SECRET, sound};
use super::keys_error::KeysError;
use super::{crypto, pem};

/// How many keys are tried for one token. A key set has two or three of one algorithm; a token
/// without a key id must not cost a check by each of hundreds.
const TRIED: usize = 8;

/// Whether a key set may hold secrets, with which whoever reads them can sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrets {
    /// In a file.
    Taken,
    /// At a URL.
    Left,
}

/// Keys that are parsed, at least one.
pub struct KeySet {
    keys: Vec<Key>,
    /// What is not used of it, each in words.
    left_out: Vec<String>,
    /// The hash of what they were parsed from.
    content: [u8; 32],
    /// What they were parsed from, if there can be no secrets in it.
    public: Option<Box<str>>,
}

struct Key {
    id: Option<String>,
    decoding: DecodingKey,
    /// Allows this key's algorithms, and checks nothing but the signature.
    validation: Validation,
}

impl KeySet {
    pub fn parse(content: &[u8], secrets: Secrets) -> Result<Self, KeysError> {
        crypto::install();
        let (keys, mut left_out) = if pem::is_pem(content) {
            let found = pem::keys(content)?.into_iter();
            let keys: Vec<Key> = found
                .map(|(decoding, algorithms)| Key::new(None, decoding, algorithms.to_vec()))
                .collect();
            (keys, Vec::new())
        } else {
            let (keys, whys) = of_jwks(content, secrets)?;
            let not_used = whys.into_iter().map(|why| format!("not used: {why}"));
            (keys, not_used.collect())
        };
        left_out.extend(untried(&keys));
        let text = std::str::from_utf8(content).ok();
        let public = text.filter(|_| secrets == Secrets::Left).map(Box::from);
        let hash = digest::digest(&digest::SHA256, content);
        let mut content = [0; 32];
        content.copy_from_slice(hash.as_ref());
        Ok(Self {
            keys,
            left_out,
            content,
            public,
        })
    }

    /// What they were parsed from, if there can be no secrets in it.
    pub fn public(&self) -> Option<&str> {
        self.public.as_deref()
    }

    /// One line for each key that is not used, and one if not all can be tried.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// How many keys can be used.
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// The keys that may have signed a token of this algorithm and key id. A key without an id may
    /// be any, and so may each key for a token without one.
    pub fn candidates(
        &self,
        algorithm: Algorithm,
        id: Option<&str>,
    ) -> impl Iterator<Item = (&DecodingKey, &Validation)> {
        let may_be = move |key: &&Key| {
            let is_other = matches!((id, &key.id), (Some(id), Some(of_key)) if id != of_key);
            !is_other && key.validation.algorithms.contains(&algorithm)
        };
        // The key that is named is tried before those that may be any.
        let is_named = move |key: &&Key| id.is_some() && key.id.as_deref() == id;
        let named = self.keys.iter().filter(is_named);
        let others = self.keys.iter().filter(move |key| !is_named(key));
        let keys = named.chain(others).filter(may_be).take(TRIED);
        keys.map(|key| (&key.decoding, &key.validation))
    }

    /// Whether a key of this id is there.
    pub fn has(&self, id: &str) -> bool {
        self.keys.iter().any(|key| key.id.as_deref() == Some(id))
    }
}

impl PartialEq for KeySet {
    fn eq(&self, other: &Self) -> bool {
        self.content == other.content
    }
}

/// Shows no key, as some are secrets.
impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeySet({})", self.keys.len())
    }
}

impl Key {
    fn new(id: Option<String>, decoding: DecodingKey, algorithms: Vec<Algorithm>) -> Self {
        let mut validation = Validation::new_for_family(decoding.family());
        validation.algorithms = algorithms;
        // The claims are checked by `claims`.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        Self {
            id,
            decoding,
            validation,
        }
    }
}

/// Keys that no token without a key id is checked by.
fn untried(keys: &[Key]) -> Option<String> {
    let of = |algorithm: &Algorithm| {
        let has = |key: &&Key| key.validation.algorithms.contains(algorithm);
        keys.iter().filter(has).count()
    };
    let mut all = keys.iter().flat_map(|key| &key.validation.algorithms);
    let crowded = all.find(|algorithm| of(algorithm) > TRIED)?;
    Some(format!(
        "a token without kid is checked by the first {TRIED} of the {} keys for {crowded:?}",
        of(crowded)
    ))
}

/// Keys of an unknown type are left out (RFC 7517 section 5), if there are others. Returns why,
/// too.
fn of_jwks(content: &[u8], secrets: Secrets) -> Result<(Vec<Key>, Vec<String>), KeysError> {
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    if content.trim_ascii_start().first() != Some(&b'{') {
        return Err(KeysError::Neither);
    }
    let mut set: Value =
        serde_json::from_slice(content).map_err(|error| KeysError::NoJwks(error.to_string()))?;
    let entries = match set.get_mut("keys").map(Value::take) {
        Some(Value::Array(entries)) => entries,
        Some(_) => return Err(KeysError::NoJwks("its \"keys\" is no list".to_owned())),
        // A single key.
        None if set.get("kty").is_some() => vec![set],
        None => return Err(KeysError::NoJwks("it has no \"keys\"".to_owned())),
    };
    let (mut keys, mut whys) = (Vec::new(), Vec::new());
    for entry in entries {
        let name = match entry.get("kid").and_then(Value::as_str) {
            Some(id) => format!("key {id:?}"),
            None => "a key without kid".to_owned(),
        };
        match of_jwk(entry, secrets) {
            Ok(key) => keys.push(key),
            Err(why) => whys.push(format!("{name} {why}")),
        }
    }
    match keys.is_empty() {
        true => Err(KeysError::NoKey(whys)),
        false => Ok((keys, whys)),
    }
}

fn of_jwk(entry: Value, secrets: Secrets) -> Result<Key, &'static str> {
    let jwk: Jwk = serde_json::from_value(entry).map_err(|_| "is no JWK")?;
    let usage = jwk.common.public_key_use.as_ref();
    if usage.is_some_and(|usage| *usage != PublicKeyUse::Signature) {
        return Err("is not for signatures");
    }
    let operations = jwk.common.key_operations.as_ref();
    if operations.is_some_and(|all| !all.contains(&KeyOperations::Verify)) {
        return Err("is not for verifying");
    }
    let by_type = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => RSA,
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => EC_256,
            EllipticCurve::P384 => EC_384,
            _ => return Err("has a curve that is not used here"),
        },
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => ED,
        AlgorithmParameters::OctetKey(_) if secrets == Secrets::Taken => SECRET,
        AlgorithmParameters::OctetKey(_) => return Err("is a secret, which may only be in a file"),
        _ => return Err("is of an unknown type, or not whole"),
    };
    let algorithms: Vec<Algorithm> = match jwk.common.key_algorithm {
        None => by_type.to_vec(),
        Some(named) => {
            let is_named = |algorithm: &Algorithm| named == (*algorithm).into();
            by_type.iter().copied().filter(is_named).collect()
        }
    };
    if algorithms.is_empty() {
        return Err("has an alg that does not suit its type");
    }
    let decoding = DecodingKey::from_jwk(&jwk).map_err(|_| "is not whole")?;
    let decoding = sound(decoding, by_type)?;
    Ok(Key::new(jwk.common.key_id, decoding, algorithms))
}

#[cfg(test)]
mod tests;
