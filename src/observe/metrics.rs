//! Counts of exchanges and of the process, for `/metrics`. [`crate::session::registry`] counts
//! sessions.
//!
//! A route's counters belong to its name: the next configuration takes them over, and if the route
//! is gone they are dropped with the last generation that has it.

use std::array;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use prometheus::{Histogram, HistogramOpts};

use super::exposition::Family;
use crate::auth::Reason;

/// The route label of requests that no route matches.
pub const NO_ROUTE: &str = "none";

/// How many statuses from 100 on are distinguished. Others, which servers may invent, share one.
const STATUSES: usize = 500;

const SECONDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0,
];

/// Why a handshake did not become a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeFailure {
    /// It was not a valid handshake by RFC 6455 or HTTP.
    Invalid,
    /// No route matched, or the route has no websockets.
    Route,
    /// The route's `allow`, `deny` or `auth` has not let it in.
    Auth,
    Origin,
    Limit,
    /// It has waited too long for a server that had room, or too many were waiting.
    Queue,
    NoServer,
    Stopping,
    /// A server could not be reached, or its answer was not usable.
    ServerFailed,
    Timeout,
    /// A server has answered with another status than 101.
    Declined,
    ClientGone,
}

impl HandshakeFailure {
    pub const ALL: [Self; 12] = [
        Self::Invalid,
        Self::Route,
        Self::Auth,
        Self::Origin,
        Self::Limit,
        Self::Queue,
        Self::NoServer,
        Self::Stopping,
        Self::ServerFailed,
        Self::Timeout,
        Self::Declined,
        Self::ClientGone,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Route => "route",
            Self::Auth => "auth",
            Self::Origin => "origin",
            Self::Limit => "limit",
            Self::Queue => "queue",
            Self::NoServer => "no_server",
            Self::Stopping => "stopping",
            Self::ServerFailed => "server_failed",
            Self::Timeout => "timeout",
            Self::Declined => "declined",
            Self::ClientGone => "client_gone",
        }
    }
}

/// The metrics of one route. They take no memory before the route is used.
#[derive(Debug, Default)]
pub struct RouteMetrics(OnceLock<Box<Counted>>);

#[derive(Debug)]
struct Counted {
    /// By status. The last counter is for all other statuses.
    by_status: Box<[AtomicU64]>,
    refused: [AtomicU64; HandshakeFailure::ALL.len()],
    denied: [AtomicU64; Reason::ALL.len()],
    requests: Histogram,
    handshakes: Histogram,
}

impl Default for Counted {
    fn default() -> Self {
        Self {
            by_status: (0..=STATUSES).map(|_| AtomicU64::new(0)).collect(),
            refused: array::from_fn(|_| AtomicU64::new(0)),
            denied: array::from_fn(|_| AtomicU64::new(0)),
            requests: histogram("prusik_request_seconds"),
            handshakes: histogram("prusik_handshake_seconds"),
        }
    }
}

/// A histogram of seconds.
pub fn histogram(name: &str) -> Histogram {
    Histogram::with_opts(HistogramOpts::new(name, name).buckets(SECONDS.to_vec()))
        .expect("the name is valid and the buckets ascend")
}

impl RouteMetrics {
    /// Whether the route was ever used.
    pub fn is_used(&self) -> bool {
        self.0.get().is_some()
    }

    fn counted(&self) -> &Counted {
        self.0.get_or_init(Box::default)
    }

    /// Counts an exchange that has ended and was not a session.
    pub fn count_request(&self, status: u16, duration: Duration) {
        let index = usize::from(status)
            .checked_sub(100)
            .unwrap_or(STATUSES)
            .min(STATUSES);
        let counted = self.counted();
        counted.by_status[index].fetch_add(1, Relaxed);
        counted.requests.observe(duration.as_secs_f64());
    }

    pub fn count_refused(&self, why: HandshakeFailure) {
        self.counted().refused[why as usize].fetch_add(1, Relaxed);
    }

    /// Counts a request that may not come in.
    pub fn count_denied(&self, why: Reason) {
        self.counted().denied[why as usize].fetch_add(1, Relaxed);
    }

    /// Counts a handshake when its 101 is sent.
    pub fn count_handshake(&self, duration: Duration) {
        self.counted().handshakes.observe(duration.as_secs_f64());
    }
}

/// The families of [`RouteMetrics`], filled route by route.
#[derive(Debug)]
pub struct RouteFamilies {
    handshakes: Family,
    refused: Family,
    denied: Family,
    requests: Family,
    durations: Family,
}

impl Default for RouteFamilies {
    fn default() -> Self {
        Self {
            handshakes: Family::histogram(
                "prusik_handshake_seconds",
                "From the head of a handshake to its 101.",
            ),
            refused: Family::counter(
                "prusik_handshakes_refused_total",
                "Handshakes that became no session, by reason.",
            ),
            denied: Family::counter(
                "prusik_auth_refused_total",
                "Requests that a route's allow, deny or auth has not let in, by reason.",
            ),
            requests: Family::counter(
                "prusik_requests_total",
                "Exchanges that have ended, those that became sessions apart.",
            ),
            durations: Family::histogram(
                "prusik_request_seconds",
                "From the head of a request to the end of its answer.",
            ),
        }
    }
}

impl RouteFamilies {
    /// Adds the series of a route, if the route was used.
    pub fn add(&mut self, route: &str, metrics: &RouteMetrics) {
        let Some(metrics) = metrics.0.get() else {
            return;
        };
        let labels = &[("route", route)];
        self.handshakes.add_histogram(labels, &metrics.handshakes);
        self.durations.add_histogram(labels, &metrics.requests);
        for why in HandshakeFailure::ALL {
            let count = metrics.refused[why as usize].load(Relaxed);
            let labels = &[("route", route), ("reason", why.name())];
            self.refused.add(labels, count as f64);
        }
        for why in Reason::ALL {
            let count = metrics.denied[why as usize].load(Relaxed);
            if count > 0 {
                let labels = &[("route", route), ("reason", why.name())];
                self.denied.add(labels, count as f64);
            }
        }
        for (index, count) in metrics.by_status.iter().enumerate() {
            let count = count.load(Relaxed);
            if count > 0 {
                let status = match index {
                    STATUSES => "other".to_owned(),
                    index => (index + 100).to_string(),
                };
                let labels = &[("route", route), ("status", &status)];
                self.requests.add(labels, count as f64);
            }
        }
    }

    pub fn into_families(self) -> [Family; 5] {
        [
            self.handshakes,
            self.refused,
            self.denied,
            self.requests,
            self.durations,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::exposition::render;

    #[test]
    fn each_reason_has_a_place_of_its_own() {
        for (index, why) in HandshakeFailure::ALL.into_iter().enumerate() {
            assert_eq!(index, why as usize);
        }
    }

    #[test]
    fn odd_statuses_are_counted_as_one() {
        let metrics = RouteMetrics::default();
        for status in [100, 200, 200, 599, 600, 999, 42] {
            metrics.count_request(status, Duration::from_millis(3));
        }
        let mut families = RouteFamilies::default();
        families.add("chat", &metrics);
        let text = render(families.into_families().into());
        for line in [
            "prusik_requests_total{route=\"chat\",status=\"100\"} 1",
            "prusik_requests_total{route=\"chat\",status=\"200\"} 2",
            "prusik_requests_total{route=\"chat\",status=\"599\"} 1",
            "prusik_requests_total{route=\"chat\",status=\"other\"} 3",
            "prusik_request_seconds_bucket{route=\"chat\",le=\"0.005\"} 7",
            "prusik_request_seconds_bucket{route=\"chat\",le=\"0.0025\"} 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
