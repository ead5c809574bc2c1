//! How many connections the process's descriptors allow.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// Set apart for what is not a client's or its server's: files, checks, an upgrade, and clients
/// that are turned away.
const RESERVED: u64 = 64;

/// As many as the process may have. The soft limit is low for programs that use select(2).
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

/// The clients for whom there are descriptors: each needs one, and one for its server.
pub fn ceiling() -> usize {
    let Some(most) = getrlimit(Resource::Nofile).current else {
        return usize::MAX;
    };
    let open = fs::read_dir("/proc/self/fd").map_or(0, |open| open.count() as u64);
    let reserved = RESERVED.min(most / 4);
    let left = most.saturating_sub(open + reserved);
    usize::try_from(left / 2).unwrap_or(usize::MAX).max(1)
}

/// What the file allows and the process cannot serve.
pub fn warning(config: &Config, ceiling: usize) -> Option<String> {
    let limits = config.listeners.iter();
    let allowed: usize = limits
        .filter_map(|listener| listener.limits.bounds.all)
        .sum();
    let needed = allowed.saturating_mul(2) + RESERVED as usize;
    (allowed > ceiling).then(|| {
        format!(
            "the listeners' limits allow {allowed} connections, the process's descriptors \
             {ceiling}: raise the limit of open files to {needed} or more (LimitNOFILE= in the \
             systemd unit, `ulimit -Hn` in a shell)"
        )
    })
}
