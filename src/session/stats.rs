//! How sessions have ended, counted by route, server and cause, for the metrics.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus::{Histogram, HistogramOpts};

use super::traffic::ClosedBy;
use crate::session::live::{Identity, LiveSession};

/// How long the counts of a removed server are kept, so that its last sessions are still shown.
const KEPT: Duration = Duration::from_secs(3600);

/// From sessions that fail at once to sessions of a week.
const DURATIONS: [f64; 14] = [
    1.0,
    5.0,
    15.0,
    60.0,
    300.0,
    900.0,
    1800.0,
    3600.0,
    2.0 * 3600.0,
    4.0 * 3600.0,
    8.0 * 3600.0,
    24.0 * 3600.0,
    72.0 * 3600.0,
    168.0 * 3600.0,
];

/// Where a session was. The file and the DNS answers limit how many there are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SessionLabels {
    pub route: Arc<str>,
    pub upstream: Arc<str>,
    pub server: SocketAddr,
}

impl SessionLabels {
    pub fn of(identity: &Identity) -> Self {
        Self {
            route: identity.route.clone(),
            upstream: identity.upstream.clone(),
            server: identity.server,
        }
    }
}

/// A close code as a label. Clients could send three thousand other codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CodeLabel {
    /// A registered code, 1000 to 1014.
    Known(u16),
    Libraries,
    Applications,
    Other,
    None,
}

impl CodeLabel {
    pub fn of(code: Option<u32>) -> Self {
        match code {
            None => Self::None,
            Some(code @ 1000..=1014) => Self::Known(code as u16),
            Some(3000..=3999) => Self::Libraries,
            Some(4000..=4999) => Self::Applications,
            Some(_) => Self::Other,
        }
    }

    pub fn text(self) -> String {
        match self {
            Self::Known(code) => code.to_string(),
            Self::Libraries => "3xxx".to_owned(),
            Self::Applications => "4xxx".to_owned(),
            Self::Other => "other".to_owned(),
            Self::None => "none".to_owned(),
        }
    }
}

#[derive(Debug)]
struct Count {
    by_cause: HashMap<(ClosedBy, CodeLabel), u64>,
    last: Instant,
}

#[derive(Debug)]
pub struct EndedSessions {
    counts: Mutex<HashMap<SessionLabels, Count>>,
    pub durations: Histogram,
}

impl Default for EndedSessions {
    fn default() -> Self {
        let durations = HistogramOpts::new(
            "prusik_session_duration_seconds",
            "How long sessions that have ended lasted, from the 101.",
        );
        Self {
            counts: Mutex::default(),
            durations: Histogram::with_opts(durations.buckets(DURATIONS.to_vec()))
                .expect("the name is valid and the buckets ascend"),
        }
    }
}

impl EndedSessions {
    pub fn count(&self, live: &LiveSession) {
        let traffic = &live.traffic;
        let cause = (traffic.ended_by(), CodeLabel::of(traffic.close_code()));
        self.durations.observe(live.age().as_secs_f64());
        let mut counts = self.counts.lock();
        let count = counts
            .entry(SessionLabels::of(&live.identity))
            .or_insert_with(|| Count {
                by_cause: HashMap::new(),
                last: Instant::now(),
            });
        *count.by_cause.entry(cause).or_default() += 1;
        count.last = Instant::now();
    }

    /// Forgets counts of servers that are gone and had no session for a while, and shows the rest.
    pub fn for_each(
        &self,
        now: Instant,
        is_there: impl Fn(&SessionLabels) -> bool,
        mut see: impl FnMut(&SessionLabels, ClosedBy, CodeLabel, u64),
    ) {
        let mut counts = self.counts.lock();
        counts.retain(|labels, count| {
            now.saturating_duration_since(count.last) < KEPT || is_there(labels)
        });
        for (labels, count) in counts.iter() {
            for (&(by, code), &count) in &count.by_cause {
                see(labels, by, code, count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::registry::tests::live;
    use crate::websocket::frames::CloseCode;

    #[test]
    fn a_close_code_is_folded_into_a_few_labels() {
        for (code, label) in [
            (None, "none"),
            (Some(1000), "1000"),
            (Some(1005), "1005"),
            (Some(1014), "1014"),
            (Some(1015), "other"),
            (Some(2999), "other"),
            (Some(3000), "3xxx"),
            (Some(4999), "4xxx"),
            (Some(5000), "other"),
        ] {
            assert_eq!(CodeLabel::of(code).text(), label, "{code:?}");
        }
    }

    #[test]
    fn sessions_are_counted_by_cause_until_their_place_has_been_gone_for_long() {
        let ended = EndedSessions::default();
        let session = live();
        session
            .traffic
            .close(ClosedBy::Server, Some(CloseCode::Code(4001)));
        ended.count(&session);
        ended.count(&session);
        let seen = |now: Instant, is_there: bool| {
            let mut seen = Vec::new();
            ended.for_each(
                now,
                |_| is_there,
                |_, by, code, count| seen.push((by, code, count)),
            );
            seen
        };
        let two = vec![(ClosedBy::Server, CodeLabel::Applications, 2)];
        let (now, later) = (Instant::now(), Instant::now() + KEPT);
        assert_eq!(seen(now, false), two);
        assert_eq!(seen(later, true), two);
        assert_eq!(seen(later, false), []);
        assert_eq!(ended.durations.get_sample_count(), 2);
    }
}
