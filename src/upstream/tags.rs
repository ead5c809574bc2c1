//! The members of a group by the tags that cookies name them with.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use super::own_key::own_key;
use super::server::Member;
use crate::affinity::{AffinityKey, ServerTag};
use crate::config::{self, Affinity};

/// The servers by the tags that one key gives them.
pub(super) struct Tags {
    key: Arc<AffinityKey>,
    pub servers: HashMap<ServerTag, SocketAddr>,
}

/// The tags of the members, if the group sets a cookie.
#[derive(Default)]
pub(super) struct MemberTags(ArcSwapOption<Tags>);

impl MemberTags {
    pub fn of(config: &config::Upstream, all: &[Arc<Member>]) -> Self {
        let tags = Self::default();
        if let Some(Affinity::Cookie { key, .. }) = &config.affinity {
            tags.by(&key.clone().unwrap_or_else(own_key), &config.name, all);
        }
        tags
    }

    /// The process's own key may have come from the process before since they were made.
    pub fn by(&self, key: &Arc<AffinityKey>, upstream: &str, all: &[Arc<Member>]) -> Arc<Tags> {
        if let Some(tags) = self.0.load_full()
            && Arc::ptr_eq(&tags.key, key)
        {
            return tags;
        }
        let addresses = all.iter().map(|member| member.server.address);
        let tags = Arc::new(Tags {
            key: key.clone(),
            servers: addresses
                .map(|address| (key.tag(upstream, address), address))
                .collect(),
        });
        self.0.store(Some(tags.clone()));
        tags
    }
}
