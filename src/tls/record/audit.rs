//! Notes every nonce that is sealed with, so that a test can find one that is used twice. Only in
//! builds for tests.
//!
//! Within a test the list is in memory. Across processes it is the file that `PRUSIK_NONCE_AUDIT`
//! names: a line for each record, with a digest of the key, and the nonce.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::LazyLock;

use ring::digest::{SHA256, digest};

use ring::aead::NONCE_LEN;

static FILE: LazyLock<Option<File>> = LazyLock::new(|| {
    let path = std::env::var_os("PRUSIK_NONCE_AUDIT")?;
    OpenOptions::new().create(true).append(true).open(path).ok()
});

pub fn note(key: &[u8], nonce: [u8; NONCE_LEN]) {
    #[cfg(test)]
    in_memory::note(key, nonce);
    if let Some(mut file) = FILE.as_ref() {
        let key = digest(&SHA256, key);
        let hex =
            |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
        let line = format!("{} {}\n", hex(&key.as_ref()[..12]), hex(&nonce));
        // One write a line, so that lines of two processes do not mix.
        let _ = file.write_all(line.as_bytes());
    }
}

#[cfg(test)]
mod in_memory {
    use std::cell::RefCell;
    use std::collections::HashSet;

    use ring::aead::NONCE_LEN;

    thread_local! {
        static SEEN: RefCell<HashSet<(Vec<u8>, [u8; NONCE_LEN])>> = RefCell::default();
    }

    pub fn note(key: &[u8], nonce: [u8; NONCE_LEN]) {
        let is_new = SEEN.with_borrow_mut(|seen| seen.insert((key.to_vec(), nonce)));
        assert!(is_new, "a nonce is used twice with one key");
    }
}
