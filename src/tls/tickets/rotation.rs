//! Keys that the process makes itself: a new one every six hours, each opening tickets for twelve.
//!
//! ```text
//!   seals and opens ──6 h──► opens ──6 h──► forgotten, as soon as anybody asks for a key
//! ```
//!
//! What is made is one secret for all listeners, from which each derives its key: which clients it
//! trusts goes into that. Another process can go on with the secrets by [`Rotation::export`] and
//! [`Rotation::import`]. Nothing here asks for the time.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::UnixTime;
use zeroize::Zeroizing;

use super::key::{LIFETIME, TicketKey, TrustId};

/// How long a key seals.
const SEALS: Duration = Duration::from_secs(6 * 60 * 60);

/// More come together only if processes follow each other that have each made keys of their own.
const KEPT: usize = 8;

const SECRET_LEN: usize = 32;

/// Of the exported form: this byte, and for each secret when it was made and its bytes.
const VERSION: u8 = 1;
const TIME_LEN: usize = size_of::<u64>();
const ENTRY_LEN: usize = TIME_LEN + SECRET_LEN;

/// The first secret is made when a ticket is to be sealed: until then those of another process may
/// still be imported, and seal.
#[derive(Default)]
pub struct Rotation {
    /// The newest first.
    made: Mutex<Vec<Made>>,
}

struct Made {
    /// In seconds since 1970.
    at: u64,
    /// Boxed, because what moves leaves a copy behind that nobody overwrites.
    secret: Box<Zeroizing<[u8; SECRET_LEN]>>,
    /// What was derived from it until now, one for each set of authorities.
    keys: Vec<(TrustId, Arc<TicketKey>)>,
}

/// Why bytes are not those of an export.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    #[error("they are in a form that is not known here")]
    UnknownVersion,
    #[error("they are cut short")]
    Incomplete,
}

impl Rotation {
    pub const fn new() -> Self {
        Self {
            made: Mutex::new(Vec::new()),
        }
    }

    /// The key for new tickets. `None`: one is due, and the machine has no random numbers.
    pub fn sealing_key(&self, now: UnixTime, trust: TrustId) -> Option<Arc<TicketKey>> {
        let mut made = self.made.lock();
        forget_old(&mut made, now);
        let seals = |newest: &Made| newest.age(now) < SEALS.as_secs();
        if !made.first().is_some_and(seals) {
            made.insert(0, Made::new(now)?);
            made.truncate(KEPT);
        }
        made.first_mut().map(|newest| newest.key(trust))
    }

    /// The key that the ticket names, if it still opens.
    pub fn opening_key(
        &self,
        now: UnixTime,
        trust: TrustId,
        ticket: &[u8],
    ) -> Option<Arc<TicketKey>> {
        let mut made = self.made.lock();
        forget_old(&mut made, now);
        let mut keys = made.iter_mut().map(|made| made.key(trust));
        keys.find(|key| key.is_named_by(ticket))
    }

    /// All secrets, for [`Rotation::import`] in another process.
    pub fn export(&self, now: UnixTime) -> Zeroizing<Vec<u8>> {
        let mut made = self.made.lock();
        forget_old(&mut made, now);
        // It must not grow: what it grows out of would keep the secrets.
        let mut bytes = Zeroizing::new(Vec::with_capacity(1 + made.len() * ENTRY_LEN));
        bytes.push(VERSION);
        for made in made.iter() {
            bytes.extend_from_slice(&made.at.to_be_bytes());
            bytes.extend_from_slice(made.secret.as_slice());
        }
        bytes
    }

    /// Adds the secrets of another process. The newest one seals from now on.
    pub fn import(&self, now: UnixTime, bytes: &[u8]) -> Result<(), ImportError> {
        let imported = read(bytes)?;
        let mut made = self.made.lock();
        for theirs in imported {
            if !made.iter().any(|ours| ours.secret == theirs.secret) {
                made.push(theirs);
            }
        }
        forget_old(&mut made, now);
        // Of keys of the same age ours comes first, and seals.
        made.sort_by_key(|made| Reverse(made.at));
        made.truncate(KEPT);
        Ok(())
    }
}

impl Made {
    fn new(now: UnixTime) -> Option<Self> {
        let mut secret = Box::new(Zeroizing::new([0; SECRET_LEN]));
        SystemRandom::new().fill(secret.as_mut_slice()).ok()?;
        Some(Self {
            at: now.as_secs(),
            secret,
            keys: Vec::new(),
        })
    }

    fn age(&self, now: UnixTime) -> u64 {
        now.as_secs().saturating_sub(self.at)
    }

    fn key(&mut self, trust: TrustId) -> Arc<TicketKey> {
        if let Some((_, key)) = self.keys.iter().find(|(of, _)| *of == trust) {
            return key.clone();
        }
        let key = Arc::new(TicketKey::derive(self.secret.as_slice(), trust));
        self.keys.push((trust, key.clone()));
        key
    }
}

fn forget_old(made: &mut Vec<Made>, now: UnixTime) {
    for made in made.iter_mut() {
        // A clock that was set back must not prolong the life of a key by more than another one.
        made.at = made.at.min(now.as_secs());
    }
    made.retain(|made| made.age(now) < LIFETIME.as_secs());
}

fn read(bytes: &[u8]) -> Result<Vec<Made>, ImportError> {
    let Some((&VERSION, entries)) = bytes.split_first() else {
        return Err(ImportError::UnknownVersion);
    };
    let (entries, rest) = entries.as_chunks::<ENTRY_LEN>();
    if !rest.is_empty() {
        return Err(ImportError::Incomplete);
    }
    let read = entries.iter().map(|entry| {
        let (at, bytes) = entry.split_at(TIME_LEN);
        let mut secret = Box::new(Zeroizing::new([0; SECRET_LEN]));
        secret.copy_from_slice(bytes);
        let mut seconds = [0; TIME_LEN];
        seconds.copy_from_slice(at);
        Made {
            at: u64::from_be_bytes(seconds),
            secret,
            keys: Vec::new(),
        }
    });
    Ok(read.collect())
}
