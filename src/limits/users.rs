//! Counts per user, and which sessions of a user began first.
//!
//! A [`UserPermit`] is taken when a handshake comes, and dropped when its session ends. When the
//! session has begun, it is [noted](UserPermit::begin) with its age. Where the newest wins, that is
//! the moment at which the oldest is told: a handshake that fails at its server costs nobody a
//! session.
//!
//! ```text
//!   enter ──► taken ── begin ──► begun ──┬─ drop ──► (gone)
//!               │                        │
//!               └─ drop ──► (gone)       └─ too many newer ones ──► told ── drop ──► (gone)
//! ```

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use uuid::Uuid;

use super::{Full, Limiter};

/// Each shard has its own lock, so that users on many threads do not wait for each other.
const SHARDS: usize = 16;

/// How many sessions of one user there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserBound {
    pub most: usize,
    /// One more takes the place of the oldest. Else it is refused.
    pub newest_wins: bool,
}

#[derive(Debug, Default)]
pub(super) struct Users {
    /// Uses a random key, so that nobody can choose names that share a shard.
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Debug, Default)]
struct Shard {
    users: HashMap<Arc<str>, User>,
    /// The sessions that have begun and were not told to go, by the numbers of their users. One set
    /// for all users needs less memory than one for each. Always `Some`: `None` is before all.
    begun: BTreeSet<(u64, Option<Begun>)>,
    last_number: u64,
}

#[derive(Debug)]
struct User {
    /// Names the user in `begun`.
    number: u64,
    permits: usize,
    begun: usize,
}

/// A session that has begun. The oldest is the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Begun {
    since: Instant,
    id: Uuid,
}

/// One session of a user, or a handshake from which one may follow. It is counted until it is
/// dropped.
#[derive(Debug)]
pub struct UserPermit {
    limiter: Arc<Limiter>,
    user: Arc<str>,
    begun: Option<Begun>,
}

impl Users {
    fn shard(&self, user: &str) -> MutexGuard<'_, Shard> {
        let number = self.hasher.hash_one(user) as usize % SHARDS;
        self.shards[number].lock()
    }

    /// How many permits each user has.
    pub fn counts(&self) -> Vec<(Arc<str>, usize)> {
        let mut counts = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            let users = shard.users.iter();
            counts.extend(users.map(|(name, user)| (name.clone(), user.permits)));
        }
        counts
    }
}

impl Shard {
    fn permits_of(&self, user: &str) -> usize {
        self.users.get(user).map_or(0, |user| user.permits)
    }

    /// Counts one more. Returns the name that all permits of the user share.
    fn add(&mut self, user: &str) -> Arc<str> {
        let known = self.users.get_key_value(user);
        let name = known.map_or_else(|| user.into(), |(name, _)| name.clone());
        let user = self.users.entry(name.clone()).or_insert_with(|| {
            self.last_number += 1;
            User {
                number: self.last_number,
                permits: 0,
                begun: 0,
            }
        });
        user.permits += 1;
        name
    }

    /// Notes a session. Returns those that are told because of it: the oldest, until no more than
    /// `most` are left.
    fn begin(&mut self, user: &str, session: Begun, most: usize) -> Vec<Uuid> {
        let mut told = Vec::new();
        let Some(user) = self.users.get_mut(user) else {
            return told;
        };
        self.begun.insert((user.number, Some(session)));
        user.begun += 1;
        while user.begun > most
            && let Some(&oldest) = self.begun.range((user.number, None)..).next()
        {
            self.begun.remove(&oldest);
            user.begun -= 1;
            told.extend(oldest.1.map(|session| session.id));
        }
        told
    }

    fn leave(&mut self, name: &Arc<str>, session: Option<Begun>) {
        let Entry::Occupied(mut entry) = self.users.entry(name.clone()) else {
            return;
        };
        let user = entry.get_mut();
        if session.is_some() && self.begun.remove(&(user.number, session)) {
            user.begun -= 1;
        }
        user.permits -= 1;
        if user.permits == 0 {
            entry.remove();
        }
    }
}

impl Limiter {
    /// Gives out a permit, or says that the user has as many as the bound allows.
    pub(super) fn enter_user(
        self: &Arc<Self>,
        user: &str,
        bound: Option<UserBound>,
    ) -> Result<UserPermit, Full> {
        let most = match bound {
            Some(bound) if !bound.newest_wins => bound.most,
            _ => usize::MAX,
        };
        let mut shard = self.users().shard(user);
        if shard.permits_of(user) >= most {
            return Err(Full::User);
        }
        Ok(UserPermit {
            limiter: self.clone(),
            user: shard.add(user),
            begun: None,
        })
    }

    /// Gives out a permit for a session that already exists, even above the bound.
    pub fn adopt_user(self: &Arc<Self>, user: &str) -> UserPermit {
        UserPermit {
            limiter: self.clone(),
            user: self.users().shard(user).add(user),
            begun: None,
        }
    }
}

impl UserPermit {
    /// The name that all permits of the user share.
    pub fn name(&self) -> &Arc<str> {
        &self.user
    }

    /// The session has begun, and can be found by its id. Returns those that must be told that
    /// newer ones have taken their places.
    #[must_use]
    pub fn begin(&mut self, id: Uuid, since: Instant, bound: Option<UserBound>) -> Vec<Uuid> {
        let most = match bound {
            Some(bound) if bound.newest_wins => bound.most,
            _ => usize::MAX,
        };
        let session = Begun { since, id };
        self.begun = Some(session);
        let mut shard = self.limiter.users().shard(&self.user);
        shard.begin(&self.user, session, most)
    }
}

impl Drop for UserPermit {
    fn drop(&mut self) {
        let mut shard = self.limiter.users().shard(&self.user);
        shard.leave(&self.user, self.begun);
    }
}

#[cfg(test)]
mod tests;
