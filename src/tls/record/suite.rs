//! The cipher suites, as the record layer needs them: which AEAD and which hash, how a nonce and
//! the additional data are made, and how keys are derived.

use ring::aead::{AES_128_GCM, AES_256_GCM, Algorithm, CHACHA20_POLY1305, NONCE_LEN};
use ring::hkdf::{HKDF_SHA256, HKDF_SHA384, KeyType, Prk};

/// The greatest number of bytes that one record carries (RFC 8446 section 5.1).
pub const PLAIN_MAX: usize = 1 << 14;

/// The content type, the version and the length.
pub const HEADER: usize = 5;

/// The explicit half of a nonce that stands in front of each record of AES-GCM in TLS 1.2 (RFC 5288
/// section 3).
const EXPLICIT: usize = 8;

pub const TAG: usize = 16;

/// The most that is sealed at a time.
pub const SEAL_MAX: usize = 4 * PLAIN_MAX;

/// The longest record of all versions (RFC 5246 section 6.2.3).
pub const RECORD_MAX: usize = HEADER + PLAIN_MAX + 2048;

/// The most that is read at a time, with the part of a record that was there.
pub const READ_MAX: usize = SEAL_MAX + RECORD_MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Client,
    Server,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Tls12,
    Tls13,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
}

/// The kinds of records (RFC 8446 section 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentType {
    Alert = 21,
    Handshake = 22,
    ApplicationData = 23,
}

impl ContentType {
    pub fn of(code: u8) -> Option<Self> {
        [Self::Alert, Self::Handshake, Self::ApplicationData]
            .into_iter()
            .find(|kind| *kind as u8 == code)
    }
}

impl Suite {
    pub fn aead(self) -> &'static Algorithm {
        match self {
            Self::Aes128Gcm => &AES_128_GCM,
            Self::Aes256Gcm => &AES_256_GCM,
            Self::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        }
    }

    pub fn key_len(self) -> usize {
        self.aead().key_len()
    }

    /// The length of a traffic secret of TLS 1.3: that of the suite's hash.
    pub fn secret_len(self) -> usize {
        match self {
            Self::Aes256Gcm => 48,
            Self::Aes128Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }

    /// How many records may be sealed with one key (RFC 8446 section 5.5; rustls has the same).
    pub fn record_limit(self) -> u64 {
        match self {
            Self::Aes128Gcm | Self::Aes256Gcm => 1 << 24,
            // More than a sequence number can count.
            Self::ChaCha20Poly1305 => 1 << 62,
        }
    }

    /// How many bytes stand between a record's header and its sealed content.
    pub fn explicit_len(self, version: Version) -> usize {
        match (version, self) {
            (Version::Tls12, Self::Aes128Gcm | Self::Aes256Gcm) => EXPLICIT,
            _ => 0,
        }
    }

    /// A traffic secret, ready for what follows from it.
    pub fn expander(self, secret: &[u8]) -> Expander {
        let hash = match self {
            Self::Aes256Gcm => HKDF_SHA384,
            Self::Aes128Gcm | Self::ChaCha20Poly1305 => HKDF_SHA256,
        };
        Expander(Prk::new_less_safe(hash, secret))
    }
}

/// Makes the next secret, or a key and an IV, from a traffic secret.
pub struct Expander(Prk);

impl Expander {
    /// HKDF-Expand-Label without a context (RFC 8446 section 7.1). False: the length does not suit
    /// the hash.
    pub fn expand(&self, label: &str, out: &mut [u8]) -> bool {
        let length = (out.len() as u16).to_be_bytes();
        let label_len = [(LABEL_PREFIX.len() + label.len()) as u8];
        let info: [&[u8]; 5] = [
            &length,
            &label_len,
            LABEL_PREFIX,
            label.as_bytes(),
            // The context, which is empty.
            &[0],
        ];
        let expanded = self.0.expand(&info, Length(out.len()));
        expanded.and_then(|expanded| expanded.fill(out)).is_ok()
    }
}

const LABEL_PREFIX: &[u8] = b"tls13 ";

/// How many bytes HKDF-Expand makes.
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// The IV with the sequence number (RFC 8446 section 5.3, RFC 7905 section 2). Also for AES-GCM in
/// TLS 1.2, whose IV has its explicit half from rustls: an explicit half that is only the sequence
/// number could repeat one that rustls has used.
pub fn nonce(iv: &[u8; NONCE_LEN], seq: u64) -> [u8; NONCE_LEN] {
    let mut nonce = *iv;
    for (byte, seq) in nonce[NONCE_LEN - 8..].iter_mut().zip(seq.to_be_bytes()) {
        *byte ^= seq;
    }
    nonce
}

/// The header of a record: `length` is that of everything behind it.
pub fn header(kind: ContentType, length: usize) -> [u8; HEADER] {
    let [high, low] = (length as u16).to_be_bytes();
    [kind as u8, 3, 3, high, low]
}

/// The additional data of TLS 1.2 (RFC 5246 section 6.2.3.3). `length`: of the plain text.
pub fn additional_data_1_2(seq: u64, kind: u8, length: usize) -> [u8; 13] {
    let mut data = [0; 13];
    data[..8].copy_from_slice(&seq.to_be_bytes());
    data[8] = kind;
    data[9..11].copy_from_slice(&[3, 3]);
    data[11..].copy_from_slice(&(length as u16).to_be_bytes());
    data
}
