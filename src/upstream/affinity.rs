//! Which server a client belongs to: by the tag in its cookie, or by what a server has set in a
//! header.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use super::group::Group;
use super::own_key::own_key;
use super::server::now_ms;
use crate::affinity::{AffinityKey, Binding, Fingerprint};
use crate::config::{Affinity, HeaderAffinity};

impl Group {
    /// The server to which the client of this request belongs. It may be unable to take it.
    pub fn server_of(&self, headers: &HeaderMap) -> Option<SocketAddr> {
        match self.config.affinity.as_ref()? {
            Affinity::Cookie { cookie, key } => {
                let members = self.members.load();
                let mut tags = cookie.tags(headers).peekable();
                // Most that come for the first time have no cookie.
                tags.peek()?;
                let key = key_or_own(key.as_ref());
                let known = members.tags.by(&key, &self.config.name, &members.all);
                tags.find_map(|tag| known.servers.get(&tag).copied())
            }
            Affinity::Header(HeaderAffinity { request, .. }) => {
                let value = headers.get(request).filter(|value| !value.is_empty())?;
                let value = Fingerprint::of(value.as_bytes());
                self.learned.as_ref()?.lock().find(value, now_ms())
            }
        }
    }

    /// The cookie for a client that this server has answered. `None`: the group sets none.
    pub fn cookie_for(&self, server: SocketAddr, is_by_tls: bool) -> Option<String> {
        let Some(Affinity::Cookie { cookie, key }) = &self.config.affinity else {
            return None;
        };
        let key = key_or_own(key.as_ref());
        Some(cookie.set(key.tag(&self.config.name, server), is_by_tls))
    }

    /// Learns which session this server has begun, if its answer says so.
    pub fn learn(&self, server: SocketAddr, answer: &HeaderMap) {
        let Some(Affinity::Header(HeaderAffinity { response, .. })) = &self.config.affinity else {
            return;
        };
        if let (Some(value), Some(table)) = (answer.get(response), &self.learned)
            && !value.is_empty()
        {
            let value = Fingerprint::of(value.as_bytes());
            table.lock().learn(value, server, now_ms());
        }
    }

    /// What was learned, or used again, within this time.
    pub fn learned_within(&self, time: Duration) -> Vec<Binding> {
        let Some(table) = &self.learned else {
            return Vec::new();
        };
        let now = now_ms();
        let since = now.saturating_sub(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        table.lock().used_since(since, now)
    }

    /// Adds what the process before has learned.
    pub fn restore_learned(&self, bindings: impl IntoIterator<Item = Binding>) {
        if let Some(table) = &self.learned {
            table.lock().restore(bindings, now_ms());
        }
    }

    /// From now on the table has the bounds of this group's configuration.
    pub(super) fn bound_learned(&self) {
        if let (Some(table), Some(Affinity::Header(HeaderAffinity { idle, max, .. }))) =
            (&self.learned, &self.config.affinity)
        {
            table.lock().set_bounds(*max, *idle);
        }
    }

    pub(super) fn forget_idle_sessions(&self) {
        if let Some(table) = &self.learned {
            table.lock().forget_idle(now_ms());
        }
    }
}

fn key_or_own(key: Option<&Arc<AffinityKey>>) -> Arc<AffinityKey> {
    key.cloned().unwrap_or_else(own_key)
}
