//! Certificates and keys in PEM files, and the errors that such files can have.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{Error, InconsistentKeys, RootCertStore};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::PROVIDER;

/// An operator who knows two weeks ahead has enough time to act.
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Why a file or a pair of files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot read {}: {cause}", file.display())]
    Unreadable { file: PathBuf, cause: io::Error },
    #[error("{} holds no PEM certificate", file.display())]
    NoCertificate { file: PathBuf, has_key: bool },
    #[error("{} holds no PEM private key", file.display())]
    NoKey { file: PathBuf, has: NotAKey },
    #[error("{} cannot be used: {cause}", file.display())]
    Broken { file: PathBuf, cause: String },
    #[error("the key does not match the certificate in {}", file.display())]
    Mismatch { file: PathBuf, matches_other: bool },
    #[error("{} holds {length} bytes, and a ticket key has at least {least}", file.display())]
    ShortSecret {
        file: PathBuf,
        length: usize,
        least: usize,
    },
}

/// What a file contains instead of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAKey {
    Nothing,
    Certificate,
    EncryptedKey,
}

impl FileError {
    /// What an operator can do about it.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Unreadable { cause, .. } => match cause.kind() {
                io::ErrorKind::NotFound => {
                    Some("paths are relative to the directory that prusik was started in")
                }
                io::ErrorKind::PermissionDenied => {
                    Some("the user that prusik runs as must be able to read it")
                }
                _ => Some("name a file that can be read"),
            },
            Self::NoCertificate { has_key: true, .. } => {
                Some("it holds a private key: are the two files swapped?")
            }
            Self::NoCertificate { .. } => {
                Some("a certificate begins with a line -----BEGIN CERTIFICATE-----")
            }
            Self::NoKey { has, .. } => Some(match has {
                NotAKey::Nothing => "a key begins with a line -----BEGIN PRIVATE KEY-----",
                NotAKey::Certificate => "it holds a certificate: are the two files swapped?",
                NotAKey::EncryptedKey => {
                    "it holds an encrypted one: take the passphrase off with `openssl pkey`"
                }
            }),
            Self::Broken { .. } => None,
            Self::Mismatch { matches_other, .. } => Some(match matches_other {
                true => "it matches another one in there: the server's own must be the first",
                false => "name the key that the certificate was made for",
            }),
            Self::ShortSecret { .. } => {
                Some("make one of random bytes, for all nodes: openssl rand -out FILE 48")
            }
        }
    }
}

/// The certificates of a file in its order, at least one.
pub fn read_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let pem = read_pem(file)?;
    let broken = |cause: String| FileError::Broken {
        file: file.to_owned(),
        cause,
    };
    let chain = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| broken(error.to_string()))?;
    if chain.is_empty() {
        return Err(FileError::NoCertificate {
            file: file.to_owned(),
            has_key: PrivateKeyDer::from_pem_slice(&pem).is_ok(),
        });
    }
    for certificate in &chain {
        parse(certificate).map_err(broken)?;
    }
    Ok(chain)
}

pub fn read_key(file: &Path) -> Result<Arc<dyn SigningKey>, FileError> {
    let pem = read_pem(file)?;
    let Ok(key) = PrivateKeyDer::from_pem_slice(&pem) else {
        let mut sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(&pem);
        let has = match () {
            () if is_encrypted(&pem) => NotAKey::EncryptedKey,
            () if sections.any(|section| section.is_ok()) => NotAKey::Certificate,
            () => NotAKey::Nothing,
        };
        return Err(FileError::NoKey {
            file: file.to_owned(),
            has,
        });
    };
    PROVIDER
        .key_provider
        .load_private_key(key)
        .map_err(|error| FileError::Broken {
            file: file.to_owned(),
            cause: error.to_string(),
        })
}

/// PKCS #8 shows this in its label, OpenSSL's older form in a header line.
fn is_encrypted(pem: &[u8]) -> bool {
    let pem = String::from_utf8_lossy(pem);
    pem.contains("BEGIN ENCRYPTED PRIVATE KEY") || pem.contains("Proc-Type: 4,ENCRYPTED")
}

fn read_pem(file: &Path) -> Result<Vec<u8>, FileError> {
    let mut pem = read(file)?;
    // Editors on Windows put a byte order mark before the first line, which makes that line invalid
    // PEM.
    if pem.starts_with(BYTE_ORDER_MARK) {
        pem.drain(..BYTE_ORDER_MARK.len());
    }
    Ok(pem)
}

/// As it stands.
pub fn read(file: &Path) -> Result<Vec<u8>, FileError> {
    let read = match fs::metadata(file) {
        // Opening a pipe without a writer would block.
        Ok(meta) if !meta.is_file() => Err(io::Error::other("not a regular file")),
        Ok(_) => fs::read(file),
        Err(error) => Err(error),
    };
    read.map_err(|cause| FileError::Unreadable {
        file: file.to_owned(),
        cause,
    })
}

/// A certificate with its chain and its matching key.
#[derive(Clone)]
pub struct Pair {
    pub(super) key: Arc<CertifiedKey>,
    /// The DNS names of the certificate, in lower case.
    pub(super) names: Vec<String>,
    file: PathBuf,
    valid: (SystemTime, SystemTime),
}

impl Pair {
    /// `file`: the file of the chain.
    pub fn new(
        file: &Path,
        chain: Vec<CertificateDer<'static>>,
        key: Arc<dyn SigningKey>,
    ) -> Result<Self, FileError> {
        let broken = |cause: String| FileError::Broken {
            file: file.to_owned(),
            cause,
        };
        let (names, valid) = facts(&chain[0]).map_err(broken)?;
        let others = chain.get(1..).unwrap_or_default().to_vec();
        let certified = CertifiedKey::new(chain, key.clone());
        match certified.keys_match() {
            // If the key does not tell its public half, they cannot be compared.
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(Error::InconsistentKeys(_)) => {
                let matches = |other: CertificateDer<'static>| {
                    let pair = CertifiedKey::new(vec![other], key.clone());
                    pair.keys_match().is_ok()
                };
                return Err(FileError::Mismatch {
                    file: file.to_owned(),
                    matches_other: others.into_iter().any(matches),
                });
            }
            Err(error) => return Err(broken(error.to_string())),
        }
        Ok(Self {
            key: Arc::new(certified),
            names,
            file: file.to_owned(),
            valid,
        })
    }

    /// The first name of the certificate (or its file), and when it expires.
    pub fn expiry(&self) -> (String, SystemTime) {
        let name = self.names.first().cloned();
        let name = name.unwrap_or_else(|| self.file.display().to_string());
        (name, self.valid.1)
    }

    /// What an operator should know, although the pair can be used.
    pub fn warning(&self, now: SystemTime) -> Option<String> {
        let (begins, ends) = self.valid;
        let file = self.file.display();
        match ends.duration_since(now) {
            _ if now < begins => Some(format!("the certificate in {file} is not valid yet")),
            Err(_) => Some(format!(
                "the certificate in {file} has expired; renew it and reload"
            )),
            Ok(remaining) if remaining < SOON => {
                let days = remaining.as_secs() / (24 * 60 * 60);
                Some(format!(
                    "the certificate in {file} expires within {} days; renew it and reload",
                    days + 1
                ))
            }
            Ok(_) => None,
        }
    }
}

/// If the certificates are equal, so are the keys.
impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.file == other.file && self.key.cert == other.key.cert
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pair({})", self.file.display())
    }
}

/// Certificates with which others are verified.
#[derive(Debug, Clone)]
pub struct Authorities {
    certificates: Arc<[CertificateDer<'static>]>,
    /// The same in a form for verification. Many upstreams share one.
    store: Arc<RootCertStore>,
}

impl PartialEq for Authorities {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.certificates, &other.certificates)
            || self.certificates == other.certificates
    }
}

impl Authorities {
    pub fn read(file: &Path) -> Result<Self, FileError> {
        let certificates = read_chain(file)?;
        let mut store = RootCertStore::empty();
        for certificate in &certificates {
            let added = store.add(certificate.clone());
            added.map_err(|error| FileError::Broken {
                file: file.to_owned(),
                cause: error.to_string(),
            })?;
        }
        Ok(Self {
            certificates: certificates.into(),
            store: Arc::new(store),
        })
    }

    pub(super) fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    pub(super) fn store(&self) -> Arc<RootCertStore> {
        self.store.clone()
    }
}

/// The authorities that the machine trusts. `None`: it has none. Unreadable ones are skipped.
pub fn system_authorities() -> Option<Authorities> {
    let mut store = RootCertStore::empty();
    let mut found = rustls_native_certs::load_native_certs().certs;
    found.retain(|certificate| store.add(certificate.clone()).is_ok());
    (!found.is_empty()).then(|| Authorities {
        certificates: found.into(),
        store: Arc::new(store),
    })
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    match X509Certificate::from_der(certificate) {
        Ok((_, parsed)) => Ok(parsed),
        Err(error) => Err(format!("it holds a certificate that is none: {error}")),
    }
}

/// Returns names and validity.
fn facts(
    certificate: &CertificateDer<'_>,
) -> Result<(Vec<String>, (SystemTime, SystemTime)), String> {
    let parsed = parse(certificate)?;
    let alternative = parsed
        .subject_alternative_name()
        .map_err(|error| error.to_string())?;
    let names = match alternative {
        Some(names) => {
            let names = names.value.general_names.iter();
            names
                .filter_map(|name| match name {
                    GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                    _ => None,
                })
                .collect()
        }
        // Clients ignore this field, but old files can still be recognised by it.
        None => {
            let names = parsed.subject().iter_common_name();
            names
                .filter_map(|name| Some(name.as_str().ok()?.to_ascii_lowercase()))
                .collect()
        }
    };
    let validity = parsed.validity();
    let at = |seconds: i64| UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap_or(0));
    let valid = (
        at(validity.not_before.timestamp()),
        at(validity.not_after.timestamp()),
    );
    Ok((names, valid))
}
