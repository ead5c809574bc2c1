//! The counts for limits, by name. All configurations share them, so that a route or upstream that
//! leaves the file and comes back finds its remaining sessions.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::limits::{Limiter, RateTable};
use crate::upstream::Servers;

#[derive(Debug, Default)]
pub(super) struct Counts {
    /// By route.
    limiters: Mutex<HashMap<String, Arc<Limiter>>>,
    /// The same for event streams.
    streams: Mutex<HashMap<String, Arc<Limiter>>>,
    /// The buckets of requests, by route.
    rates: Mutex<HashMap<String, Arc<RateTable>>>,
    /// By upstream.
    servers: Mutex<HashMap<String, Arc<Servers>>>,
}

impl Counts {
    /// The limiter is made if there is none.
    pub fn limiter(&self, route: &str) -> Arc<Limiter> {
        made_of(&mut self.limiters.lock(), route)
    }

    /// The same for the event streams of a route.
    pub fn stream_limiter(&self, route: &str) -> Arc<Limiter> {
        made_of(&mut self.streams.lock(), route)
    }

    /// The buckets of a route's requests.
    pub fn rate_table(&self, route: &str) -> Arc<RateTable> {
        made_of(&mut self.rates.lock(), route)
    }

    /// The servers are made if there are none.
    pub fn servers(&self, upstream: &str) -> Arc<Servers> {
        made_of(&mut self.servers.lock(), upstream)
    }

    /// Forgets what no configuration has, once the last session is gone.
    pub fn forget_unused(&self) {
        for limiters in [&self.limiters, &self.streams] {
            limiters
                .lock()
                .retain(|_, limiter| Arc::strong_count(limiter) > 1 || limiter.taken() > 0);
        }
        self.rates
            .lock()
            .retain(|_, table| Arc::strong_count(table) > 1);
        self.servers.lock().retain(|_, servers| {
            servers.forget_unused();
            Arc::strong_count(servers) > 1 || !servers.all().is_empty()
        });
    }
}

fn made_of<T: Default>(all: &mut HashMap<String, Arc<T>>, name: &str) -> Arc<T> {
    match all.get(name) {
        Some(known) => known.clone(),
        None => all.entry(name.to_owned()).or_default().clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::Lease;

    #[test]
    fn what_counts_is_found_again_and_forgotten_when_nothing_counts() {
        let counts = Counts::default();
        let server = ([127, 0, 0, 1], 9080).into();
        let permit = counts.limiter("chat").adopt(None);
        let lease = Lease::of_session(counts.servers("chat").of(server));
        counts.limiter("idle");
        counts.forget_unused();
        assert_eq!(counts.limiter("chat").taken(), 1);
        assert_eq!(counts.servers("chat").all()[0].sessions(), 1);
        drop((permit, lease));
        counts.forget_unused();
        assert!(counts.limiters.lock().is_empty() && counts.servers.lock().is_empty());
    }
}
