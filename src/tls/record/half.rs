//! One direction of a connection: its keys, and how many records it has sealed or opened.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ring::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroize;

use super::suite::{ContentType, HEADER, Suite, TAG, Version, additional_data_1_2, header, nonce};

/// The longest key and the longest traffic secret of all suites.
const KEY_MAX: usize = 32;
const SECRET_MAX: usize = 48;

/// Must stay where it is made, in a box: a move would leave a copy of the keys behind.
pub struct Half {
    pub version: Version,
    pub suite: Suite,
    key: [u8; KEY_MAX],
    iv: [u8; NONCE_LEN],
    /// The traffic secret of TLS 1.3, from which the next key is made.
    secret: [u8; SECRET_MAX],
    /// The number of the next record.
    seq: u64,
    /// Names the present key among those that threads have expanded.
    id: u64,
}

/// A record could not be sealed or opened with the key.
#[derive(Debug, PartialEq, Eq)]
pub struct CryptoError;

impl Half {
    /// Without keys yet, which [`Half::fill`] brings.
    pub fn empty(version: Version, suite: Suite) -> Self {
        Self {
            version,
            suite,
            key: [0; KEY_MAX],
            iv: [0; NONCE_LEN],
            secret: [0; SECRET_MAX],
            seq: 0,
            id: next_id(),
        }
    }

    /// `secret` is empty in TLS 1.2. False: a length does not suit the suite.
    pub fn fill(&mut self, key: &[u8], iv: &[u8], secret: &[u8], seq: u64) -> bool {
        let secret_len = match self.version {
            Version::Tls12 => 0,
            Version::Tls13 => self.suite.secret_len(),
        };
        let fits = key.len() == self.suite.key_len()
            && iv.len() == NONCE_LEN
            && secret.len() == secret_len;
        if fits {
            self.key[..key.len()].copy_from_slice(key);
            self.iv.copy_from_slice(iv);
            self.secret[..secret.len()].copy_from_slice(secret);
            self.seq = seq;
            self.id = next_id();
        }
        fits
    }

    pub fn key(&self) -> &[u8] {
        &self.key[..self.suite.key_len()]
    }

    pub fn iv(&self) -> &[u8; NONCE_LEN] {
        &self.iv
    }

    /// Empty in TLS 1.2.
    pub fn secret(&self) -> &[u8] {
        match self.version {
            Version::Tls12 => &[],
            Version::Tls13 => &self.secret[..self.suite.secret_len()],
        }
    }

    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// For a key that has sealed or opened records elsewhere.
    pub fn set_seq(&mut self, seq: u64) {
        self.seq = seq;
    }

    /// Takes the key and IV that follow from the secret (RFC 8446 section 7.3).
    pub fn derive(&mut self) -> Result<(), CryptoError> {
        let (suite, key_len) = (self.suite, self.suite.key_len());
        let secret = suite.expander(&self.secret[..suite.secret_len()]);
        let is_done =
            secret.expand("key", &mut self.key[..key_len]) && secret.expand("iv", &mut self.iv);
        self.seq = 0;
        forget_expanded(self.id);
        self.id = next_id();
        is_done.then_some(()).ok_or(CryptoError)
    }

    /// Goes on to the next secret, and its key (RFC 8446 section 7.2).
    pub fn step(&mut self) -> Result<(), CryptoError> {
        let length = self.suite.secret_len();
        let mut next = [0; SECRET_MAX];
        let secret = self.suite.expander(&self.secret[..length]);
        let is_done = secret.expand("traffic upd", &mut next[..length]);
        self.secret.copy_from_slice(&next);
        next.zeroize();
        is_done.then_some(()).ok_or(CryptoError)?;
        self.derive()
    }

    /// Appends one record with this content, which is at most [`super::suite::PLAIN_MAX`] long.
    pub fn seal(
        &mut self,
        kind: ContentType,
        plain: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), CryptoError> {
        let nonce = nonce(&self.iv, self.seq);
        let explicit = self.suite.explicit_len(self.version);
        let is_1_3 = self.version == Version::Tls13;
        let outer = if is_1_3 {
            ContentType::ApplicationData
        } else {
            kind
        };
        let header = header(outer, explicit + plain.len() + usize::from(is_1_3) + TAG);
        let before = out.len();
        out.extend_from_slice(&header);
        out.extend_from_slice(&nonce[NONCE_LEN - explicit..]);
        let start = out.len();
        out.extend_from_slice(plain);
        if is_1_3 {
            out.push(kind as u8);
        }
        #[cfg(any(test, debug_assertions))]
        super::audit::note(self.key(), nonce);
        let once = Nonce::assume_unique_for_key(nonce);
        let sealing = &mut out[start..];
        let tag = if is_1_3 {
            self.with_key(|key| key.seal_in_place_separate_tag(once, Aad::from(header), sealing))
        } else {
            let data = additional_data_1_2(self.seq, kind as u8, plain.len());
            self.with_key(|key| key.seal_in_place_separate_tag(once, Aad::from(data), sealing))
        };
        // Even after a failure, the number is not used again.
        self.seq += 1;
        match tag {
            Ok(tag) => out.extend_from_slice(tag.as_ref()),
            // Nothing may leave that is not sealed.
            Err(_) => out.truncate(before),
        }
        tag.map(drop)
    }

    /// Opens a whole record in place. Returns where in it the content is: in TLS 1.3 with its type
    /// and padding behind it.
    pub fn open(&mut self, record: &mut [u8]) -> Result<std::ops::Range<usize>, CryptoError> {
        let explicit = self.suite.explicit_len(self.version);
        let start = HEADER + explicit;
        if record.len() < start + TAG {
            return Err(CryptoError);
        }
        let (head, sealed) = record.split_at_mut(start);
        let length = sealed.len() - TAG;
        let mut nonce = nonce(&self.iv, self.seq);
        nonce[NONCE_LEN - explicit..].copy_from_slice(&head[HEADER..]);
        let once = Nonce::assume_unique_for_key(nonce);
        if self.version == Version::Tls13 {
            let data = Aad::from(&head[..HEADER]);
            self.with_key(|key| key.open_in_place(once, data, sealed).map(drop))?;
        } else {
            let data = Aad::from(additional_data_1_2(self.seq, head[0], length));
            self.with_key(|key| key.open_in_place(once, data, sealed).map(drop))?;
        }
        self.seq += 1;
        Ok(start..start + length)
    }

    /// A key is expanded when it is used, because an expanded one has 550 bytes and most sessions
    /// are silent. Each thread keeps it until a key with the same place in its table is used.
    fn with_key<T>(
        &self,
        use_it: impl FnOnce(&LessSafeKey) -> Result<T, ring::error::Unspecified>,
    ) -> Result<T, CryptoError> {
        EXPANDED.with_borrow_mut(|slots| {
            let slot = slot_of(slots, self.id);
            if slot.as_ref().is_none_or(|(id, _)| *id != self.id) {
                let key = UnboundKey::new(self.suite.aead(), self.key());
                *slot = Some((self.id, LessSafeKey::new(key.map_err(|_| CryptoError)?)));
            }
            match slot {
                Some((_, key)) => use_it(key).map_err(|_| CryptoError),
                None => Err(CryptoError),
            }
        })
    }
}

/// How many expanded keys a thread keeps.
const SLOTS: usize = 512;

type Slot = Option<(u64, LessSafeKey)>;

thread_local! {
    /// By the key's id. Empty until the thread has sealed or opened something.
    static EXPANDED: RefCell<Vec<Slot>> = const { RefCell::new(Vec::new()) };
}

fn slot_of(slots: &mut Vec<Slot>, id: u64) -> &mut Slot {
    if slots.is_empty() {
        slots.resize_with(SLOTS, || None);
    }
    &mut slots[id as usize % SLOTS]
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Relaxed)
}

impl Drop for Half {
    fn drop(&mut self) {
        self.key.zeroize();
        self.iv.zeroize();
        self.secret.zeroize();
        forget_expanded(self.id);
    }
}

/// The key is of no more use to this thread. Other threads replace theirs in time.
fn forget_expanded(key: u64) {
    // A thread that ends has none any more.
    let _ = EXPANDED.try_with(|slots| {
        if let Ok(mut slots) = slots.try_borrow_mut()
            && let Some(slot) = slots.get_mut(key as usize % SLOTS)
            && slot.as_ref().is_some_and(|(id, _)| *id == key)
        {
            *slot = None;
        }
    });
}

impl std::fmt::Debug for Half {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut half = f.debug_struct("Half");
        half.field("suite", &self.suite).field("seq", &self.seq);
        half.finish_non_exhaustive()
    }
}
