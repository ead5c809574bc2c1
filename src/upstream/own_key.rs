//! The key of the process's own for the cookies of `affinity`.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rand::Rng;
use zeroize::Zeroizing;

use crate::affinity::{AffinityKey, SECRET_MIN};

/// The key of upstreams without a `key_file`. It is made when a group first needs it, and goes to
/// the next process.
static OWN: ArcSwapOption<AffinityKey> = ArcSwapOption::const_empty();

/// The secret of the process's own key, for the process that takes over. Empty: nobody has needed
/// one.
pub fn export_key() -> Zeroizing<Vec<u8>> {
    let own = OWN.load();
    let secret = own.as_ref().map(|key| key.secret().to_vec());
    Zeroizing::new(secret.unwrap_or_default())
}

/// Goes on with the key of the process that this one takes over from: clients have its cookies.
/// What is no key is ignored; clients then get new cookies.
pub fn import_key(secret: &[u8]) {
    if let Some(key) = AffinityKey::new(Zeroizing::new(secret.to_vec())) {
        OWN.store(Some(Arc::new(key)));
    }
}

pub(super) fn own_key() -> Arc<AffinityKey> {
    if let Some(key) = OWN.load_full() {
        return key;
    }
    let mut secret = Zeroizing::new(vec![0; SECRET_MIN]);
    rand::rng().fill(secret.as_mut_slice());
    let made = AffinityKey::new(secret).expect("it is long enough");
    // If another thread has made one meanwhile, that is the one.
    let nothing: Option<Arc<AffinityKey>> = None;
    OWN.compare_and_swap(&nothing, Some(Arc::new(made)));
    OWN.load_full().expect("it is never taken away")
}
