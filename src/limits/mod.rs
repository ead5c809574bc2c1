//! Limits: how many of something there may be, in total and for each client, and how fast they
//! come.
//!
//! Pure, except [`descriptors`]. A [`Limiter`] counts, and a [`Permit`] is one that is counted: a
//! connection on a listener, or a session on a route. A connection with several requests has a
//! [`SharedPermit`]. Counts survive reloads, and the limits ([`Bounds`]) come from the present
//! configuration.

mod bucket;
mod clients;
pub mod descriptors;
mod drain_deadline;
mod rate;
mod shared;

use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering::Relaxed};

use bucket::Bucket;
use clients::Clients;

pub use drain_deadline::{Cut, DrainDeadline};
pub use rate::{Rate, RateTable};
pub use shared::{SharedPermit, StreamPermit};

/// After how many seconds a refused client should come back.
pub const RETRY_AFTER: &str = "2";

/// `None`: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bounds {
    pub all: Option<usize>,
    pub per_client: Option<usize>,
    /// How many may come each second, and in one burst.
    pub per_second: Option<NonZeroU32>,
}

/// Which limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    All,
    Client,
    Rate,
}

/// What counts as one client: an IPv4 address, or the /64 network of an IPv6 address, because each
/// customer of a provider has at least such a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientKey(NonZeroU64);

impl ClientKey {
    pub fn of(address: IpAddr) -> Self {
        let number = match address.to_canonical() {
            // ff00::/8 is multicast, from which nobody connects, so its numbers are free for IPv4.
            IpAddr::V4(address) => 0xff00 << 48 | u64::from(u32::from(address)),
            IpAddr::V6(address) => (u128::from(address) >> 64) as u64,
        };
        // ::/64, which contains the loopback address, gets an unused number too.
        Self(NonZeroU64::new(number).unwrap_or(NonZeroU64::MAX))
    }
}

impl ClientKey {
    /// The number for another process.
    pub fn to_number(self) -> u64 {
        self.0.get()
    }

    /// The inverse. `None`: no client has this number.
    pub fn from_number(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(Self)
    }
}

/// Gives out permits and counts them.
#[derive(Debug, Default)]
pub struct Limiter {
    taken: AtomicUsize,
    /// How many permits are for further requests on a connection that has a permit already.
    shared: AtomicIsize,
    clients: Clients,
    bucket: Bucket,
}

impl Limiter {
    /// Gives out a permit, or the reason against it. A refusal takes no token of the rate.
    pub fn enter(
        self: &Arc<Self>,
        client: Option<ClientKey>,
        bounds: &Bounds,
    ) -> Result<Permit, Full> {
        let mut permit = self.enter_unnamed(bounds.all)?;
        permit.name(client, bounds.per_client)?;
        match bounds.per_second {
            Some(rate) if !self.bucket.take(rate) => Err(Full::Rate),
            _ => Ok(permit),
        }
    }

    /// Gives out a permit for a client that is not known yet.
    pub fn enter_unnamed(self: &Arc<Self>, all: Option<usize>) -> Result<Permit, Full> {
        let most = all.unwrap_or(usize::MAX);
        let taken = self.taken.fetch_update(Relaxed, Relaxed, |taken| {
            (taken < most).then_some(taken + 1)
        });
        taken.map_err(|_| Full::All)?;
        Ok(Permit {
            limiter: self.clone(),
            client: None,
        })
    }

    /// Gives out a permit for something that already exists, even above the limits.
    pub fn adopt(self: &Arc<Self>, client: Option<ClientKey>) -> Permit {
        self.taken.fetch_add(1, Relaxed);
        if let Some(client) = client {
            self.clients.add(client, usize::MAX);
        }
        Permit {
            limiter: self.clone(),
            client,
        }
    }

    pub fn taken(&self) -> usize {
        self.taken.load(Relaxed)
    }

    /// Like [`Limiter::taken`], but counts several requests on one connection once: only the
    /// connection has a descriptor.
    pub fn connections(&self) -> usize {
        let shared = usize::try_from(self.shared.load(Relaxed)).unwrap_or(0);
        self.taken().saturating_sub(shared)
    }

    fn note_shared(&self, more: isize) {
        self.shared.fetch_add(more, Relaxed);
    }

    /// How many permits each client has. `None`: permits of no particular client. The numbers may
    /// not match the total while permits are taken and dropped.
    pub fn counts(&self) -> Vec<(Option<ClientKey>, usize)> {
        let named = self.clients.counts();
        let sum: usize = named.iter().map(|(_, count)| count).sum();
        let unnamed = self.taken().saturating_sub(sum);
        let named = named
            .into_iter()
            .map(|(client, count)| (Some(client), count));
        named
            .chain([(None, unnamed)])
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}

/// One permit. It is counted until it is dropped.
#[derive(Debug)]
pub struct Permit {
    limiter: Arc<Limiter>,
    client: Option<ClientKey>,
}

impl Permit {
    pub fn limiter(&self) -> &Arc<Limiter> {
        &self.limiter
    }

    /// The client. `None`: the permit is not counted for a client.
    pub fn client(&self) -> Option<ClientKey> {
        self.client
    }

    /// Sets the client, which is known now. `None`: it is not counted for a client.
    pub fn name(&mut self, client: Option<ClientKey>, most: Option<usize>) -> Result<(), Full> {
        let Some(client) = client else {
            return Ok(());
        };
        if !self.limiter.clients.add(client, most.unwrap_or(usize::MAX)) {
            return Err(Full::Client);
        }
        self.client = Some(client);
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limiter.taken.fetch_sub(1, Relaxed);
        if let Some(client) = self.client {
            self.limiter.clients.remove(client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(address: &str) -> Option<ClientKey> {
        Some(ClientKey::of(address.parse().unwrap()))
    }

    fn bounds(all: usize, per_client: usize) -> Bounds {
        Bounds {
            all: Some(all),
            per_client: Some(per_client),
            per_second: None,
        }
    }

    #[test]
    fn an_ipv6_client_is_its_slash_64_and_an_ipv4_one_its_address() {
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
        assert_eq!(key("192.0.2.1"), key("::ffff:192.0.2.1"));
        assert_ne!(key("::1"), key("0.0.0.0"));
        assert_ne!(key("::1"), key("255.255.255.255"));
    }

    #[test]
    fn seats_count_until_they_are_dropped_and_refusals_leave_no_trace() {
        let limiter = Arc::new(Limiter::default());
        let bounds = bounds(3, 2);
        let first = limiter.enter(key("192.0.2.1"), &bounds).unwrap();
        let _second = limiter.enter(key("192.0.2.1"), &bounds).unwrap();
        let third = limiter.enter(key("192.0.2.1"), &bounds);
        assert_eq!(third.unwrap_err(), Full::Client);
        assert_eq!(limiter.taken(), 2);
        let _other = limiter.enter(key("192.0.2.2"), &bounds).unwrap();
        let fourth = limiter.enter(key("192.0.2.3"), &bounds);
        assert_eq!(fourth.unwrap_err(), Full::All);
        drop(first);
        assert!(limiter.enter(key("192.0.2.1"), &bounds).is_ok());
        assert_eq!(limiter.taken(), 2);
    }

    #[test]
    fn one_that_was_there_before_counts_whatever_the_bounds_say() {
        let limiter = Arc::new(Limiter::default());
        let adopted = [(); 3].map(|()| limiter.adopt(key("192.0.2.1")));
        let refused = limiter.enter(key("192.0.2.1"), &bounds(9, 3));
        assert_eq!(refused.unwrap_err(), Full::Client);
        drop(adopted);
        assert!(limiter.enter(key("192.0.2.1"), &bounds(9, 3)).is_ok());
    }

    #[test]
    fn counts_say_who_has_how_many() {
        let limiter = Arc::new(Limiter::default());
        let (one, other) = (key("192.0.2.1"), key("192.0.2.2"));
        let _seats = [one, one, other, None].map(|client| limiter.adopt(client));
        let mut counts = limiter.counts();
        counts.sort_by_key(|(client, _)| client.map(ClientKey::to_number));
        assert_eq!(counts, [(None, 1), (one, 2), (other, 1)]);
        let number = one.unwrap().to_number();
        assert_eq!(ClientKey::from_number(number), one);
    }

    #[test]
    fn who_is_nobody_in_particular_is_held_to_the_bound_of_all_only() {
        let limiter = Arc::new(Limiter::default());
        let _first = limiter.enter(None, &bounds(2, 1)).unwrap();
        let _second = limiter.enter(None, &bounds(2, 1)).unwrap();
        assert_eq!(limiter.enter(None, &bounds(2, 1)).unwrap_err(), Full::All);
    }

    #[test]
    fn a_burst_is_as_large_as_a_second_brings() {
        let limiter = Arc::new(Limiter::default());
        let bounds = Bounds {
            per_second: NonZeroU32::new(3),
            ..Bounds::default()
        };
        let took = (0..10)
            .filter(|_| limiter.enter(None, &bounds).is_ok())
            .count();
        assert!((3..=4).contains(&took), "{took}");
    }
}
