//! The table of an upstream with `affinity.header`, which the groups of its name share.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::affinity::Learned;
use crate::config::{self, Affinity, HeaderAffinity};

pub(super) type LearnedServers = Arc<Mutex<Learned>>;

/// `before`: the table of the group before, which is used on. `None`: the group learns nothing.
pub(super) fn table(
    config: &config::Upstream,
    before: Option<LearnedServers>,
) -> Option<LearnedServers> {
    let Some(Affinity::Header(HeaderAffinity { idle, max, .. })) = config.affinity else {
        return None;
    };
    // The bounds are set when the group begins: a reload that comes to nothing changes nothing.
    Some(before.unwrap_or_else(|| Arc::new(Mutex::new(Learned::new(max, idle)))))
}
