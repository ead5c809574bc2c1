//! Compares passwords with hashes, on threads of its own: a comparison takes as long as a thousand
//! requests, and no worker may be blocked by one.

use std::sync::{Arc, LazyLock};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ring::hmac;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::hash::PasswordHash;
use super::memo::{Memo, Tag};

/// How many may wait for a thread, and how long.
const WAITING: usize = 256;
const PATIENCE: Duration = Duration::from_secs(10);

/// One for the process: what it bounds is the machine's time, and a result depends on nothing but
/// what was compared, so it holds for every route and after every reload.
pub static VERIFIER: LazyLock<Verifier> = LazyLock::new(Verifier::new);

pub struct Verifier {
    /// Random, and never leaves the process.
    key: hmac::Key,
    memo: Arc<Mutex<Memo>>,
    threads: Arc<Semaphore>,
    /// One permit for each that waits or compares.
    places: Arc<Semaphore>,
}

/// So many wait already that this one would not get an answer in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

impl Verifier {
    fn new() -> Self {
        let threads = threads();
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<[u8; 32]>()),
            memo: Arc::new(Mutex::new(Memo::new(Instant::now()))),
            threads: Arc::new(Semaphore::new(threads)),
            places: Arc::new(Semaphore::new(threads + WAITING)),
        }
    }

    /// `user`: as the client has it. It takes part in the comparison so that a result says nothing
    /// about other users.
    pub async fn verify(
        &self,
        user: &[u8],
        password: Zeroizing<Vec<u8>>,
        hash: &Arc<PasswordHash>,
    ) -> Result<bool, Busy> {
        let tag = self.tag(user, &password, hash);
        if let Some(known) = self.known(&tag) {
            return Ok(known);
        }
        let place = self.places.clone().try_acquire_owned().map_err(|_| Busy)?;
        let thread = timeout(PATIENCE, self.threads.clone().acquire_owned()).await;
        let Ok(Ok(thread)) = thread else {
            return Err(Busy);
        };
        // The client may have sent the same password with other requests, which came first.
        if let Some(known) = self.known(&tag) {
            return Ok(known);
        }
        let (hash, memo) = (hash.clone(), self.memo.clone());
        // The permits go along: the thread goes on if nobody waits for it any more.
        let compared = spawn_blocking(move || {
            let _permits = (place, thread);
            let is_right = hash.verify(&password);
            memo.lock().put(tag, is_right, Instant::now());
            is_right
        });
        Ok(compared.await.unwrap_or(false))
    }

    fn known(&self, tag: &Tag) -> Option<bool> {
        self.memo.lock().get(tag, Instant::now())
    }

    fn tag(&self, user: &[u8], password: &[u8], hash: &PasswordHash) -> Tag {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [user, hash.as_bytes(), password] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut tag = [0; 32];
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }

    /// A number that is always the same for a user, and that nobody else can know.
    pub fn number_of(&self, user: &[u8]) -> u64 {
        let tag = hmac::sign(&self.key, user);
        let (first, _) = tag.as_ref().split_at(8);
        first
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

/// Half of the cores, so that the other half stays for traffic.
fn threads() -> usize {
    let cores = available_parallelism().map_or(1, usize::from);
    cores.div_ceil(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash() -> Arc<PasswordHash> {
        let text = "$apr1$rqXexS6Z$aZPrT61zTCW5Lnamo2wYn/";
        Arc::new(text.parse().unwrap())
    }

    fn password(text: &str) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(text.as_bytes().to_vec())
    }

    #[tokio::test]
    async fn a_password_is_compared_once_a_minute() {
        let verifier = Verifier::new();
        let (hash, right) = (hash(), password("s3cret"));
        let verify = |text| verifier.verify(b"alice", password(text), &hash);
        assert_eq!(verify("s3cret").await, Ok(true));
        assert_eq!(verify("guess").await, Ok(false));
        assert_eq!(
            verifier.known(&verifier.tag(b"alice", &right, &hash)),
            Some(true)
        );
        assert_eq!(verifier.known(&verifier.tag(b"bob", &right, &hash)), None);
        // It is known without a thread.
        verifier.places.close();
        assert_eq!(verify("s3cret").await, Ok(true));
        assert_eq!(verify("guess").await, Ok(false));
        assert_eq!(verify("another guess").await, Err(Busy));
    }

    #[tokio::test]
    async fn who_finds_no_place_is_told_so_at_once() {
        let verifier = Verifier::new();
        let all = verifier.places.available_permits() as u32;
        let places = verifier.places.clone().acquire_many_owned(all).await;
        let hash = hash();
        let verify = || verifier.verify(b"alice", password("s3cret"), &hash);
        assert_eq!(verify().await, Err(Busy));
        drop(places);
        assert_eq!(verify().await, Ok(true));
        assert_eq!(verifier.places.available_permits() as u32, all);
    }

    #[test]
    fn parts_that_are_cut_elsewhere_have_another_tag() {
        let verifier = Verifier::new();
        let hash = hash();
        assert_ne!(
            verifier.tag(b"ab", b"c", &hash),
            verifier.tag(b"a", b"bc", &hash)
        );
    }
}
