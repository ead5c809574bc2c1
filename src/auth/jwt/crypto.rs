//! Checks signatures by `ring`, for `jsonwebtoken`, which has the rest of the format.
//!
//! What a key can be used for follows from its family: a public key never checks an HMAC.

use std::sync::Once;

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result, new_error};
use jsonwebtoken::signature::{Error, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use ring::error::Unspecified;
use ring::hmac;
use ring::signature as public;

/// Must be called before a token is read. Costs nothing when it was called before.
pub fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let installed = PROVIDER.install_default();
        debug_assert!(installed.is_ok(), "nobody else installs one");
    });
}

/// Signs nothing: prusik issues no tokens.
static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(new_error(ErrorKind::UnsupportedAlgorithm)),
    verifier_factory: verifier,
    key_utils: KeyUtils::new_unimplemented(),
};

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    if key.family() != algorithm.family() {
        return Err(new_error(ErrorKind::InvalidKeyFormat));
    }
    Ok(Box::new(RingVerifier {
        algorithm: *algorithm,
        check: check_of(*algorithm)?,
        key: key.clone(),
    }))
}

struct RingVerifier {
    algorithm: Algorithm,
    check: Check,
    key: DecodingKey,
}

/// How `ring` calls an algorithm.
#[derive(Clone, Copy)]
enum Check {
    Hmac(hmac::Algorithm),
    Rsa(&'static public::RsaParameters),
    Curve(&'static dyn public::VerificationAlgorithm),
}

fn check_of(algorithm: Algorithm) -> Result<Check> {
    Ok(match algorithm {
        Algorithm::HS256 => Check::Hmac(hmac::HMAC_SHA256),
        Algorithm::HS384 => Check::Hmac(hmac::HMAC_SHA384),
        Algorithm::HS512 => Check::Hmac(hmac::HMAC_SHA512),
        Algorithm::RS256 => Check::Rsa(&public::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::RS384 => Check::Rsa(&public::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::RS512 => Check::Rsa(&public::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::PS256 => Check::Rsa(&public::RSA_PSS_2048_8192_SHA256),
        Algorithm::PS384 => Check::Rsa(&public::RSA_PSS_2048_8192_SHA384),
        Algorithm::PS512 => Check::Rsa(&public::RSA_PSS_2048_8192_SHA512),
        Algorithm::ES256 => Check::Curve(&public::ECDSA_P256_SHA256_FIXED),
        Algorithm::ES384 => Check::Curve(&public::ECDSA_P384_SHA384_FIXED),
        Algorithm::EdDSA => Check::Curve(&public::ED25519),
        _ => return Err(new_error(ErrorKind::UnsupportedAlgorithm)),
    })
}

impl RingVerifier {
    fn check(&self, message: &[u8], signature: &[u8]) -> std::result::Result<(), Unspecified> {
        match (self.check, self.key.kind()) {
            (Check::Hmac(algorithm), DecodingKeyKind::SecretOrDer(secret)) => {
                hmac::verify(&hmac::Key::new(algorithm, secret), message, signature)
            }
            (Check::Rsa(algorithm), DecodingKeyKind::RsaModulusExponent { n, e }) => {
                public::RsaPublicKeyComponents { n, e }.verify(algorithm, message, signature)
            }
            (Check::Curve(algorithm), DecodingKeyKind::SecretOrDer(point)) => {
                public::UnparsedPublicKey::new(algorithm, point).verify(message, signature)
            }
            _ => Err(Unspecified),
        }
    }
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Error> {
        let checked = self.check(message, signature);
        checked.map_err(|Unspecified| Error::new())
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
