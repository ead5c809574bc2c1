//! One key that seals sessions into tickets and opens them.
//!
//! ```text
//!   secret, whose clients are trusted ──HKDF-SHA-256──► name, key
//!
//!             ┌──────────┬───────────┬────────────────────────┬──────────┐
//!   ticket:   │ name, 16 │ nonce, 12 │ sealed: time, session  │ tag, 16  │
//!             └──────────┴───────────┴────────────────────────┴──────────┘
//! ```
//!
//! The name says which key opens the ticket, and is authenticated with it. The time is when it was
//! sealed, in seconds: the key of a file may be in use for long, a ticket may not.

use std::fmt;
use std::mem;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest::{Context, Digest, SHA256, digest};
use ring::hkdf::{HKDF_SHA256, Prk, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::UnixTime;
use zeroize::Zeroizing;

use crate::tls::Authorities;

/// How long a ticket opens: as long as those of rustls.
pub const LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);

const DIGEST_LEN: usize = 32;
const NAME_LEN: usize = 16;
const TIME_LEN: usize = size_of::<u64>();
const HEADER_LEN: usize = NAME_LEN + NONCE_LEN;

/// Makes the keys ours: another program with the same secret has other ones.
const SALT: &[u8] = b"prusik session tickets 1";

/// Which clients a listener trusts: those of some authorities, or any. Listeners with the same open
/// each other's tickets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrustId([u8; DIGEST_LEN]);

impl TrustId {
    /// The order of the certificates in their file makes no difference.
    pub fn of(client_ca: Option<&Authorities>) -> Self {
        let mut context = Context::new(&SHA256);
        match client_ca {
            None => context.update(b"any client"),
            Some(authorities) => {
                let certificates = authorities.certificates().iter();
                let mut digests: Vec<_> = certificates.map(|der| sha256(der)).collect();
                digests.sort_unstable();
                context.update(b"clients of");
                context.update(digests.as_flattened());
            }
        }
        Self(bytes_of(context.finish()))
    }
}

impl fmt::Display for TrustId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_STANDARD.encode(self.0))
    }
}

fn sha256(bytes: &[u8]) -> [u8; DIGEST_LEN] {
    bytes_of(digest(&SHA256, bytes))
}

fn bytes_of(digest: Digest) -> [u8; DIGEST_LEN] {
    let mut bytes = [0; DIGEST_LEN];
    bytes.copy_from_slice(digest.as_ref());
    bytes
}

/// ring does not overwrite its copy of a key when that is dropped; the secrets are overwritten.
pub struct TicketKey {
    name: [u8; NAME_LEN],
    key: LessSafeKey,
}

impl TicketKey {
    /// `secret`: at least as random as a key is.
    pub fn derive(secret: &[u8], trust: TrustId) -> Self {
        let root = Salt::new(HKDF_SHA256, SALT).extract(secret);
        let info = [b"key".as_slice(), &trust.0];
        let key = root
            .expand(&info, &CHACHA20_POLY1305)
            .expect("HKDF gives as many bytes as a key has");
        Self {
            name: derive_name(&root, trust),
            key: LessSafeKey::new(UnboundKey::from(key)),
        }
    }

    /// `None`: the machine has no random numbers. The client does without a ticket then.
    pub fn seal(&self, now: UnixTime, session: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        // The session is sealed in place and not copied again: the buffer must not grow.
        let tag_len = self.key.algorithm().tag_len();
        let whole = HEADER_LEN + TIME_LEN + session.len() + tag_len;
        let mut ticket = Vec::with_capacity(whole);
        ticket.extend_from_slice(&self.name);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(&now.as_secs().to_be_bytes());
        ticket.extend_from_slice(session);
        let sealed = &mut ticket[HEADER_LEN..];
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(self.name), sealed)
            .ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    /// The session, if this key has sealed the ticket, and not too long ago. The clock of the node
    /// that sealed it may be ahead of ours.
    pub fn open(&self, now: UnixTime, ticket: &[u8]) -> Option<Vec<u8>> {
        if !self.is_named_by(ticket) {
            return None;
        }
        let nonce = Nonce::try_assume_unique_for_key(ticket.get(NAME_LEN..HEADER_LEN)?).ok()?;
        let mut sealed = Zeroizing::new(ticket[HEADER_LEN..].to_vec());
        let opened = self
            .key
            .open_in_place(nonce, Aad::from(self.name), &mut sealed)
            .ok()?;
        let (time, session) = opened.split_first_chunk::<TIME_LEN>()?;
        let age = now.as_secs().saturating_sub(u64::from_be_bytes(*time));
        let session_len = session.len();
        if age >= LIFETIME.as_secs() {
            return None;
        }
        sealed.copy_within(TIME_LEN..TIME_LEN + session_len, 0);
        sealed.truncate(session_len);
        Some(mem::take(&mut *sealed))
    }

    /// Whether the ticket says that this key has sealed it. The name is no secret.
    pub fn is_named_by(&self, ticket: &[u8]) -> bool {
        ticket.starts_with(&self.name)
    }
}

fn derive_name(root: &Prk, trust: TrustId) -> [u8; NAME_LEN] {
    let info = [b"name".as_slice(), &trust.0];
    let mut whole = [0; DIGEST_LEN];
    root.expand(&info, HKDF_SHA256)
        .and_then(|output| output.fill(&mut whole))
        .expect("HKDF gives as many bytes as a digest has");
    let mut name = [0; NAME_LEN];
    name.copy_from_slice(&whole[..NAME_LEN]);
    name
}

/// Hides the key, because `Debug` output goes to logs.
impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKey(…)")
    }
}
