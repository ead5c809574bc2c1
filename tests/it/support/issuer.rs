//! Signs tokens, as an identity provider does and as an attacker does: with any header, over any
//! bytes. Knows nothing of prusik, so that its unit tests use it too.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384,
    RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use ring::{hmac, rand};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

enum Key {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Secret(Vec<u8>),
}

/// Who signs with one key.
pub struct Issuer {
    key: Key,
    pub id: &'static str,
}

pub fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A key set of these keys.
pub fn jwks(issuers: &[&Issuer]) -> String {
    let keys: Vec<Value> = issuers.iter().map(|issuer| issuer.jwk()).collect();
    json!({ "keys": keys }).to_string()
}

impl Issuer {
    /// Always the same key: `ring` makes none.
    pub fn rsa(id: &'static str) -> Self {
        let key = PrivatePkcs8KeyDer::from_pem_slice(include_bytes!("rsa.pem")).expect("PEM");
        let key = RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).expect("a key");
        Self {
            key: Key::Rsa(key),
            id,
        }
    }

    pub fn p256(id: &'static str) -> Self {
        let key = Key::P256(elliptic(&ECDSA_P256_SHA256_FIXED_SIGNING));
        Self { key, id }
    }

    /// Of a private key in PEM.
    pub fn p256_of(pem: &str, id: &'static str) -> Self {
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).expect("PEM");
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let key = EcdsaKeyPair::from_pkcs8(algorithm, key.secret_pkcs8_der(), &random);
        Self {
            key: Key::P256(key.expect("a key")),
            id,
        }
    }

    pub fn p384(id: &'static str) -> Self {
        let key = Key::P384(elliptic(&ECDSA_P384_SHA384_FIXED_SIGNING));
        Self { key, id }
    }

    pub fn ed25519(id: &'static str) -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        let key = Ed25519KeyPair::from_pkcs8(key.as_ref()).expect("our own");
        Self {
            key: Key::Ed25519(key),
            id,
        }
    }

    pub fn secret(id: &'static str) -> Self {
        let secret: [u8; 64] = rand::generate(&SystemRandom::new())
            .expect("bytes")
            .expose();
        Self::with_secret(id, &secret)
    }

    /// Signs by HMAC with whatever it has got hold of.
    pub fn with_secret(id: &'static str, secret: &[u8]) -> Self {
        let key = Key::Secret(secret.to_vec());
        Self { key, id }
    }

    /// The public key as ring has it, or the secret.
    pub fn bytes(&self) -> Vec<u8> {
        match &self.key {
            Key::Rsa(key) => key.public().as_ref().to_vec(),
            Key::P256(key) | Key::P384(key) => key.public_key().as_ref().to_vec(),
            Key::Ed25519(key) => key.public_key().as_ref().to_vec(),
            Key::Secret(secret) => secret.clone(),
        }
    }

    /// Its entry in a key set.
    pub fn jwk(&self) -> Value {
        let bytes = self.bytes();
        let mut jwk = match &self.key {
            Key::Rsa(key) => {
                let public = PublicKeyComponents::<Vec<u8>>::from(key.public());
                json!({ "kty": "RSA", "n": base64url(public.n), "e": base64url(public.e) })
            }
            Key::P256(_) => point("P-256", &bytes[1..]),
            Key::P384(_) => point("P-384", &bytes[1..]),
            Key::Ed25519(_) => json!({ "kty": "OKP", "crv": "Ed25519", "x": base64url(bytes) }),
            Key::Secret(_) => json!({ "kty": "oct", "k": base64url(bytes) }),
        };
        jwk["kid"] = self.id.into();
        jwk
    }

    /// Its public key as DER (RFC 5280 section 4.1).
    pub fn der(&self) -> Vec<u8> {
        let head: &[u8] = match &self.key {
            Key::Rsa(_) => {
                b"\x30\x82\x01\x22\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00\
                  \x03\x82\x01\x0f\x00"
            }
            Key::P256(_) => {
                b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\
                  \x3d\x03\x01\x07\x03\x42\x00"
            }
            Key::P384(_) => {
                b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\
                  \x22\x03\x62\x00"
            }
            Key::Ed25519(_) => b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00",
            Key::Secret(_) => panic!("a secret has no public half"),
        };
        [head, &self.bytes()].concat()
    }

    pub fn pem(&self) -> String {
        let body = STANDARD.encode(self.der());
        format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
    }

    /// A token of these claims, with the id of the key.
    pub fn sign(&self, algorithm: &str, claims: &Value) -> String {
        let header = json!({ "alg": algorithm, "typ": "JWT", "kid": self.id });
        self.sign_with(&header.to_string(), &claims.to_string())
    }

    /// With a header of the test's choice, whose `alg` says how it is signed; by RS256 or its like
    /// if it says nothing that this key can do.
    pub fn sign_with(&self, header: &str, payload: &str) -> String {
        let message = format!("{}.{}", base64url(header), base64url(payload));
        let header: Value = serde_json::from_str(header).unwrap_or_default();
        let algorithm = header["alg"].as_str().unwrap_or_default();
        let signature = self.signature(algorithm, message.as_bytes());
        format!("{message}.{}", base64url(signature))
    }

    pub fn signature(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            Key::Rsa(key) => {
                let encoding: &'static dyn RsaEncoding = match algorithm {
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    "PS384" => &RSA_PSS_SHA384,
                    "PS512" => &RSA_PSS_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; key.public().modulus_len()];
                let signed = key.sign(encoding, &random, message, &mut signature);
                signed.expect("a signature");
                signature
            }
            Key::P256(key) | Key::P384(key) => {
                let signature = key.sign(&random, message).expect("a signature");
                signature.as_ref().to_vec()
            }
            Key::Ed25519(key) => key.sign(message).as_ref().to_vec(),
            Key::Secret(secret) => {
                let algorithm = match algorithm {
                    "HS384" => hmac::HMAC_SHA384,
                    "HS512" => hmac::HMAC_SHA512,
                    _ => hmac::HMAC_SHA256,
                };
                let signature = hmac::sign(&hmac::Key::new(algorithm, secret), message);
                signature.as_ref().to_vec()
            }
        }
    }
}

fn elliptic(algorithm: &'static EcdsaSigningAlgorithm) -> EcdsaKeyPair {
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key");
    EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).expect("our own")
}

fn point(curve: &str, coordinates: &[u8]) -> Value {
    let (x, y) = coordinates.split_at(coordinates.len() / 2);
    json!({ "kty": "EC", "crv": curve, "x": base64url(x), "y": base64url(y) })
}
