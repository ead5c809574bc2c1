//! Public keys in PEM files: as such, or in certificates.

use jsonwebtoken::{Algorithm, DecodingKey};
use rustls::pki_types::pem::{PemObject, SectionKind};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION,
    OID_SIG_ED25519,
};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::key_types::{EC_256, EC_384, ED, RSA, rsa};
use super::keys_error::KeysError;

/// A key, and the algorithms that its type allows.
type Found = (DecodingKey, &'static [Algorithm]);

/// The public keys of a file in its order, at least one. A private key in the file is an error: it
/// is of no use here, and should not lie where a proxy can read it.
pub fn keys(pem: &[u8]) -> Result<Vec<Found>, KeysError> {
    let mut keys = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
        let (kind, der) = section.map_err(|error| KeysError::Broken(error.to_string()))?;
        keys.push(match kind {
            SectionKind::PublicKey => of_info(&der)?,
            SectionKind::Certificate => of_certificate(&der)?,
            SectionKind::RsaPrivateKey | SectionKind::PrivateKey | SectionKind::EcPrivateKey => {
                return Err(KeysError::Private);
            }
            _ => continue,
        });
    }
    match keys.is_empty() {
        true => Err(KeysError::NoPem),
        false => Ok(keys),
    }
}

fn of_info(der: &[u8]) -> Result<Found, KeysError> {
    match SubjectPublicKeyInfo::from_der(der) {
        Ok((_, info)) => of(&info),
        Err(error) => Err(KeysError::Broken(error.to_string())),
    }
}

fn of_certificate(der: &[u8]) -> Result<Found, KeysError> {
    match X509Certificate::from_der(der) {
        Ok((_, certificate)) => of(certificate.public_key()),
        Err(error) => Err(KeysError::Broken(error.to_string())),
    }
}

fn of(info: &SubjectPublicKeyInfo<'_>) -> Result<Found, KeysError> {
    let unusable = |why: &str| KeysError::NoKey(vec![why.to_owned()]);
    let kind = &info.algorithm.algorithm;
    let bytes = &info.subject_public_key.data;
    if *kind == OID_PKCS1_RSAENCRYPTION {
        let Ok(PublicKey::RSA(key)) = info.parsed() else {
            return Err(unusable("its RSA key cannot be read"));
        };
        return Ok((rsa(key.modulus, key.exponent).map_err(unusable)?, RSA));
    }
    if *kind == OID_SIG_ED25519 && bytes.len() == 32 {
        return Ok((DecodingKey::from_ed_der(bytes), ED));
    }
    if *kind == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let parameters = info.algorithm.parameters.as_ref();
        let curve = parameters.and_then(|parameters| parameters.as_oid().ok());
        let key = DecodingKey::from_ec_der(bytes);
        return match (curve, bytes.len()) {
            (Some(curve), 65) if curve == OID_EC_P256 => Ok((key, EC_256)),
            (Some(curve), 97) if curve == OID_NIST_EC_P384 => Ok((key, EC_384)),
            _ => Err(unusable("its curve is neither P-256 nor P-384")),
        };
    }
    Err(unusable("its key is neither RSA nor EC nor Ed25519"))
}

/// Whether this is meant to be PEM.
pub fn is_pem(content: &[u8]) -> bool {
    memchr::memmem::find(content, b"-----BEGIN ").is_some()
}
