//! How many connections the process's descriptors allow.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Reserved for other purposes than clients and their servers: files, checks, an upgrade, and
/// clients that are turned away.
const RESERVED: u64 = 64;

/// Descriptors that are in use or reserved, without those of clients, which are counted when they
/// connect.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// One descriptor that is in use or reserved until this is dropped: for a session's server, an idle
/// connection to a server, a caller of the admin API, or the server of a client's next request. A
/// stream of HTTP/2 needs none.
#[derive(Debug)]
pub struct Descriptor(());

impl Descriptor {
    pub fn hold() -> Self {
        HELD.fetch_add(1, Relaxed);
        Self(())
    }

    pub fn held() -> usize {
        HELD.load(Relaxed)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        HELD.fetch_sub(1, Relaxed);
    }
}

/// Raises the limit as far as allowed. The soft limit is low for programs that use select(2).
pub fn raise() {
    let now = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: now.maximum,
        maximum: now.maximum,
    };
    if now.current != now.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        log::warn!("cannot raise the number of open files to its hard limit: {error}");
    }
}

/// How many clients the descriptors allow: each needs one, and one for its server.
pub fn ceiling() -> usize {
    let Some(most) = getrlimit(Resource::Nofile).current else {
        return usize::MAX;
    };
    let open = fs::read_dir("/proc/self/fd").map_or(0, |open| open.count() as u64);
    let reserved = RESERVED.min(most / 4);
    let remaining = most.saturating_sub(open + reserved);
    usize::try_from(remaining / 2).unwrap_or(usize::MAX).max(1)
}

/// A warning if the listeners together allow more connections than the process can serve.
pub fn warning(allowed: usize, ceiling: usize) -> Option<String> {
    let needed = allowed.saturating_mul(2) + RESERVED as usize;
    (allowed > ceiling).then(|| {
        format!(
            "the listeners' limits allow {allowed} connections, the process's descriptors \
             {ceiling}: raise the limit of open files to {needed} or more (LimitNOFILE= in the \
             systemd unit, `ulimit -Hn` in a shell)"
        )
    })
}
