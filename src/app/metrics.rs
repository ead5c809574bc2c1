//! `/metrics`: collected on request from the counts of all parts.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Instant, UNIX_EPOCH};

use super::App;
use crate::config::Action;
use crate::generation::Generation;
use crate::observe::exposition::{Family, render};
use crate::observe::metrics::{NO_ROUTE, RouteFamilies};
use crate::observe::process;
use crate::session::live::LiveSession;
use crate::session::registry::Registry;
use crate::session::stats::SessionLabels;
use crate::session::traffic::Totals;
use crate::upstream::history::Standing;
use crate::upstream::pacing::WAIT_SECONDS;

impl App {
    /// Returns Prometheus' text format.
    pub fn metrics(&self) -> String {
        let generation = self.generation();
        let mut kinds = Kinds::default();
        let carried = self.sessions.carried(|live| kinds.add(live));
        let seen = Seen::from(kinds);
        let mut families = sessions(&generation, &seen, carried, &self.sessions);
        families.extend(routes(&generation));
        families.extend(servers(&generation));
        families.extend(waiting(&generation));
        families.push(self.connections_of(&generation));
        families.push(certificates(&generation));
        families.extend(self.operations.families());
        families.push(self.sessions_moved());
        families.extend(self.log.families());
        let mut build = Family::gauge("prusik_build_info", "1, with the version that runs.");
        build.add(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        families.push(build);
        families.extend(process::families());
        render(families)
    }

    fn sessions_moved(&self) -> Family {
        let mut family = Family::counter(
            "prusik_sessions_moved_total",
            "Sessions that came here from the process before, and those that stayed there and were told \
             to go.",
        );
        for (result, count) in ["moved", "told"].into_iter().zip(&self.moved) {
            family.add(&[("result", result)], count.load(Relaxed) as f64);
        }
        family
    }

    fn connections_of(&self, generation: &Generation) -> Family {
        let mut family = Family::gauge(
            "prusik_connections_active",
            "Connections of clients, those of sessions among them.",
        );
        let mut by_name: HashMap<&str, usize> = HashMap::new();
        for state in self.edge.listener_states() {
            let name = &generation.listener(state.id).name;
            *by_name.entry(name).or_default() += state.limiter.taken();
        }
        for (name, count) in by_name {
            family.add(&[("listener", name)], count as f64);
        }
        family
    }
}

/// Counts the live sessions by the addresses of their names in memory: sessions share the names,
/// and comparing addresses is faster than comparing texts. One session of each kind is held, so
/// that the names stay where they are.
#[derive(Debug, Default)]
struct Kinds {
    /// The kinds that were met first: comparing a few is faster than computing a hash.
    few: Vec<(Kind, Arc<LiveSession>, usize)>,
    others: HashMap<Kind, (Arc<LiveSession>, usize)>,
}

type Kind = ([*const u8; 3], SocketAddr);

impl Kinds {
    const FEW: usize = 8;

    fn add(&mut self, live: &Arc<LiveSession>) {
        let identity = &live.identity;
        let names = [&identity.listener, &identity.route, &identity.upstream];
        let kind = (names.map(|name| name.as_ptr()), identity.server);
        match self.few.iter().position(|(known, ..)| *known == kind) {
            Some(known) => self.few[known].2 += 1,
            None if self.few.len() < Self::FEW => self.few.push((kind, live.clone(), 1)),
            None => {
                let other = self.others.entry(kind);
                other.or_insert_with(|| (live.clone(), 0)).1 += 1;
            }
        }
    }
}

/// The live sessions, counted by their labels.
#[derive(Debug, Default)]
struct Seen {
    by_labels: HashMap<SessionLabels, usize>,
}

impl From<Kinds> for Seen {
    fn from(kinds: Kinds) -> Self {
        let mut seen = Self::default();
        let few = kinds.few.into_iter().map(|(_, live, count)| (live, count));
        for (live, count) in few.chain(kinds.others.into_values()) {
            *seen
                .by_labels
                .entry(SessionLabels::of(&live.identity))
                .or_default() += count;
        }
        seen
    }
}

fn sessions(
    generation: &Generation,
    seen: &Seen,
    carried: Totals,
    registry: &Registry,
) -> Vec<Family> {
    let there = session_labels(generation);
    let mut active = Family::gauge("prusik_sessions_active", "Live sessions.");
    let unseen = there
        .iter()
        .filter(|labels| !seen.by_labels.contains_key(labels));
    let counts = seen
        .by_labels
        .iter()
        .map(|(labels, count)| (labels, *count));
    for (labels, count) in counts.chain(unseen.map(|labels| (labels, 0))) {
        let server = labels.server.to_string();
        active.add(&label_pairs(labels, &server), count as f64);
    }
    let mut ended = Family::counter(
        "prusik_sessions_total",
        "Sessions that have ended, by who ended them and the close code.",
    );
    let is_there =
        |labels: &SessionLabels| there.contains(labels) || seen.by_labels.contains_key(labels);
    registry
        .ended
        .for_each(Instant::now(), is_there, |labels, by, code, count| {
            let (server, code) = (labels.server.to_string(), code.text());
            let [route, upstream, server] = label_pairs(labels, &server);
            let cause = [("closed_by", by.name()), ("close_code", &code)];
            ended.add(&[route, upstream, server, cause[0], cause[1]], count as f64);
        });
    let mut messages = Family::counter(
        "prusik_session_messages_total",
        "WebSocket messages of sessions, live ones included. In is from the client.",
    );
    let mut bytes = Family::counter(
        "prusik_session_bytes_total",
        "Bytes of sessions, live ones included. In is from the client.",
    );
    for (direction, message_count, byte_count) in [
        ("in", carried.messages_in, carried.bytes_in),
        ("out", carried.messages_out, carried.bytes_out),
    ] {
        messages.add(&[("direction", direction)], message_count as f64);
        bytes.add(&[("direction", direction)], byte_count as f64);
    }
    let mut durations = Family::histogram(
        "prusik_session_duration_seconds",
        "How long sessions that have ended lasted, from the 101.",
    );
    durations.add_histogram(&[], &registry.ended.durations);
    vec![active, ended, messages, bytes, durations]
}

fn label_pairs<'a>(labels: &'a SessionLabels, server: &'a str) -> [(&'a str, &'a str); 3] {
    [
        ("route", &labels.route),
        ("upstream", &labels.upstream),
        ("server", server),
    ]
}

/// So many combinations have a series from the start, so that their first session shows as an
/// increase.
const FROM_THE_START: usize = 1000;

/// The combinations that the present configuration allows. With very many routes, only those that
/// were used.
fn session_labels(generation: &Generation) -> HashSet<SessionLabels> {
    let mut places = HashSet::new();
    let routes = generation.config.routes.iter();
    let routes = routes.zip(&generation.labels.routes);
    for ((route, name), metrics) in routes.zip(generation.route_metrics()) {
        if places.len() >= FROM_THE_START && !metrics.is_used() {
            continue;
        }
        let Action::Proxy { upstream, .. } = &route.action else {
            continue;
        };
        if route.websocket.is_none() && route.stream.is_none() {
            continue;
        }
        let group = generation.group(*upstream);
        places.extend(group.members().iter().map(|member| SessionLabels {
            route: name.clone(),
            upstream: group.label().clone(),
            server: member.server.address,
        }));
    }
    places
}

fn routes(generation: &Generation) -> [Family; 5] {
    let mut families = RouteFamilies::default();
    for (name, metrics) in generation
        .labels
        .routes
        .iter()
        .zip(generation.route_metrics())
    {
        families.add(name, metrics);
    }
    families.add(NO_ROUTE, generation.metrics_of(None));
    families.into_families()
}

fn certificates(generation: &Generation) -> Family {
    let mut family = Family::gauge(
        "prusik_certificate_expiry_timestamp_seconds",
        "When a listener's certificate expires, in seconds since 1970. The name is the first that it is \
         for.",
    )
    .kept();
    for listener in &generation.config.listeners {
        for (name, expires) in listener.tls.iter().flat_map(|tls| tls.expiries()) {
            let labels = &[("listener", listener.name.as_str()), ("name", &*name)];
            let since_1970 = expires.duration_since(UNIX_EPOCH).unwrap_or_default();
            family.add(labels, since_1970.as_secs_f64());
        }
    }
    family
}

/// The names of `prusik_server_state`.
const STATES: [&str; 5] = ["up", "down", "ejected", "drained", "unchecked"];

fn state(standing: Standing) -> &'static str {
    match standing {
        Standing::Up => "up",
        Standing::Down => "down",
        Standing::Ejected => "ejected",
        Standing::Drained => "drained",
        Standing::Unchecked => "unchecked",
    }
}

fn servers(generation: &Generation) -> [Family; 5] {
    let mut up = Family::gauge(
        "prusik_server_up",
        "0 while the server fails its health checks, or is held back until its first one.",
    );
    let mut ejected = Family::gauge(
        "prusik_server_ejected",
        "1 while the server is left alone after failures in live traffic.",
    );
    let mut errors = Family::counter(
        "prusik_connect_errors_total",
        "Connections to the server that could not be made, health checks apart.",
    );
    let mut states = Family::gauge(
        "prusik_server_state",
        "1 for the state that the server is in, 0 for the others.",
    );
    let mut limits = Family::gauge(
        "prusik_server_limit",
        "How many sessions the server may have, where the file says so.",
    )
    .kept();
    for group in generation.groups() {
        for member in group.members() {
            let server = member.server.address.to_string();
            let now = state(member.standing());
            for state in STATES {
                let labels = &[
                    ("upstream", group.name()),
                    ("server", &server),
                    ("state", state),
                ];
                states.add(labels, f64::from(u8::from(state == now)));
            }
            let labels = &[("upstream", group.name()), ("server", &server)];
            let is_ejected = member.ejectable && member.server.is_ejected();
            let is_up = member.is_healthy() && !member.is_held_back();
            up.add(labels, f64::from(u8::from(is_up)));
            ejected.add(labels, f64::from(u8::from(is_ejected)));
            errors.add(labels, member.server.connect_errors() as f64);
            if let Some(limit) = member.max_sessions {
                limits.add(labels, limit as f64);
            }
        }
    }
    [up, ejected, errors, states, limits]
}

/// The handshakes that wait for servers.
fn waiting(generation: &Generation) -> [Family; 3] {
    let mut now = Family::gauge(
        "prusik_handshakes_waiting",
        "Handshakes that wait until a server has time for them.",
    );
    let mut waits = Family::histogram(
        WAIT_SECONDS,
        "How long those handshakes have waited that had to, until they went to a server.",
    );
    let mut at_once = Family::gauge(
        "prusik_server_handshakes_at_once",
        "How many handshakes the server gets at once, by its latency.",
    );
    for group in generation.groups() {
        let labels = &[("upstream", group.name())];
        now.add(labels, group.waiting().0 as f64);
        if let Some(histogram) = group.waits() {
            waits.add_histogram(labels, histogram);
        }
        for member in group.members() {
            let server = member.server.address.to_string();
            let labels = &[("upstream", group.name()), ("server", &server)];
            at_once.add(labels, member.server.pace.now().1 as f64);
        }
    }
    [now, waits, at_once]
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::session::registry::tests::live;

    const CONFIG: &str = "
listeners: [{ listen: 127.0.0.1:0, name: public }]
upstreams: { ims_svr: { servers: [127.0.0.1:9080, 127.0.0.1:9081] } }
routes: [{ name: chat, match: { path_prefix: / }, upstream: ims_svr }]
";

    /// What a release build promises of a scrape; others are slower. `make test-long` has one.
    const MOST: Duration = Duration::from_millis(if cfg!(debug_assertions) { 2000 } else { 50 });

    #[test]
    fn a_hundred_thousand_sessions_are_gathered_quickly_and_others_begin_meanwhile() {
        let config = crate::config::parse("test", CONFIG).unwrap();
        let (departures, _) = tokio::sync::mpsc::unbounded_channel();
        let generation = Generation::new(config, departures);
        let registry = Arc::new(Registry::default());
        let names = live().identity;
        let all: Vec<_> = (0..100_000)
            .map(|_| {
                let mut live = live();
                live.identity.listener = names.listener.clone();
                live.identity.route = names.route.clone();
                live.identity.upstream = names.upstream.clone();
                registry.register(live)
            })
            .collect();
        let gather = || {
            let started = Instant::now();
            let mut kinds = Kinds::default();
            let carried = registry.carried(|live| kinds.add(live));
            let seen = Seen::from(kinds);
            let text = render(sessions(&generation, &seen, carried, &registry));
            (started.elapsed(), text)
        };
        let (took, text) = gather();
        println!("{} sessions gathered within {took:?}", all.len());
        let of = |server: &str| {
            format!(
                "prusik_sessions_active{{route=\"chat\",upstream=\"ims_svr\",server=\"{server}\"}}"
            )
        };
        assert!(
            text.contains(&format!("{} 100000\n", of("127.0.0.1:9080"))),
            "{text}"
        );
        assert!(
            text.contains(&format!("{} 0\n", of("127.0.0.1:9081"))),
            "{text}"
        );
        assert!(took < MOST, "{took:?}");

        // Whoever begins or ends waits for a part of them at most.
        let is_over = AtomicBool::new(false);
        let waits = thread::scope(|scope| {
            let coming_and_going = scope.spawn(|| {
                let mut waits = Vec::new();
                while !is_over.load(Relaxed) {
                    let started = Instant::now();
                    drop(registry.register(live()));
                    waits.push(started.elapsed());
                }
                waits.sort_unstable();
                waits
            });
            for _ in 0..10 {
                gather();
            }
            is_over.store(true, Relaxed);
            coming_and_going.join().unwrap()
        });
        let wait = waits[waits.len() * 99 / 100];
        println!(
            "of {} that came and went meanwhile 99 % were done within {wait:?}",
            waits.len()
        );
        assert!(wait < took / 4, "{wait:?}");
    }
}
