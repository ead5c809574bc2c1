//! What `/metrics` says, and that it is never wrong about a session.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support;
use crate::support::{
    Client, Config, Ended, Origin, Outcome, Prusik, Session, eventually, free_address, get,
    handshake_with, status_of,
};

const ADMIN: &str = "admin: { listen: \"127.0.0.1:0\" }";

/// A scrape: each series with its value.
struct Scrape {
    text: String,
    series: BTreeMap<String, f64>,
}

impl Scrape {
    async fn of(prusik: &Prusik) -> Self {
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let answer = Client::connect(prusik.admin()).await.ask(request).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(
            answer.field("content-type"),
            Some("text/plain; version=0.0.4; charset=utf-8")
        );
        let text = answer.text();
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let series = samples
            .map(|line| {
                let (series, value) = line.rsplit_once(' ').expect("a series and its value");
                (series.to_owned(), value.parse().expect("a number"))
            })
            .collect();
        Self { text, series }
    }

    /// 0 also when there is no such series: nothing was counted.
    fn value(&self, series: &str) -> f64 {
        self.series.get(series).copied().unwrap_or(0.0)
    }
}

/// Waits until a series has this value.
async fn until(prusik: &Prusik, series: &str, value: f64) -> Scrape {
    let mut last = Scrape::of(prusik).await;
    eventually(format!("{series} is {value}"), async || {
        last = Scrape::of(prusik).await;
        last.value(series) == value
    })
    .await;
    last
}

#[tokio::test]
async fn a_session_counts_while_it_lives_and_once() {
    let origin = Origin::chat().await;
    let config = Config::to(&[&origin]).route("name: chat").top(ADMIN);
    let prusik = Prusik::start(config).await;
    let server = origin.address();
    let active = format!(
        "prusik_sessions_active{{route=\"chat\",upstream=\"backend\",server=\"{server}\"}}"
    );
    let messages_in = "prusik_session_messages_total{direction=\"in\"}";
    let bytes_in = "prusik_session_bytes_total{direction=\"in\"}";
    let connections = "prusik_connections_active{listener=\"public\"}";
    assert_eq!(Scrape::of(&prusik).await.series.get(&active), Some(&0.0));

    let mut session = Session::open(prusik.public(), "/").await;
    for text in ["one", "two", "three"] {
        session.ask(text).await;
    }
    let scrape = until(&prusik, connections, 1.0).await;
    assert_eq!(scrape.value(&active), 1.0);
    assert_eq!(scrape.value(messages_in), 3.0);
    assert_eq!(scrape.value(bytes_in), 11.0 + 3.0 * 6.0);
    let handshakes = "prusik_handshake_seconds_count{route=\"chat\"}";
    assert_eq!(scrape.value(handshakes), 1.0);

    assert_eq!(session.close(4001).await, Ended::Close(4001));
    let ended = format!(
        "prusik_sessions_total{{route=\"chat\",upstream=\"backend\",server=\"{server}\",\
         closed_by=\"client\",close_code=\"4xxx\"}}"
    );
    let scrape = until(&prusik, &ended, 1.0).await;
    assert_eq!(scrape.value("prusik_session_duration_seconds_count"), 1.0);
    let scrape = until(&prusik, &active, 0.0).await;
    assert_eq!(scrape.value(messages_in), 3.0);
    assert_eq!(scrape.value(bytes_in), 11.0 + 3.0 * 6.0 + 8.0);
    until(&prusik, connections, 0.0).await;
    let version = env!("CARGO_PKG_VERSION");
    let build = format!("prusik_build_info{{version=\"{version}\"}}");
    assert_eq!(scrape.value(&build), 1.0);
    // A session is no request.
    assert!(!scrape.text.contains("prusik_requests_total"));
}

#[tokio::test]
async fn requests_are_counted_by_route_and_status_and_handshakes_by_why_they_were_refused() {
    let origin = Origin::chat().await;
    let config = Config::to(&[&origin])
        .first("{ name: quiet, match: { path: /quiet }, upstream: backend, websocket: off }")
        .first(
            "{ name: own, match: { path: /own }, upstream: backend, \
             websocket: { origins: ['https://app.example'] } }",
        )
        .route("name: chat")
        .top(ADMIN);
    let prusik = Prusik::start(config).await;
    let public = prusik.public();
    assert_eq!(get(public, "/page").await.status(), 200);
    assert_eq!(get(public, "/page").await.status(), 200);
    for (request, status, route, reason) in [
        (handshake_with("/quiet", &[]), 403, "quiet", "route"),
        (
            handshake_with("/own", &["Origin: https://evil.example"]),
            403,
            "own",
            "origin",
        ),
        (
            handshake_with("/", &["Sec-WebSocket-Version: 8"]),
            426,
            "chat",
            "invalid",
        ),
    ] {
        let answer = Client::connect(public).await.ask(request).await;
        assert_eq!(answer.status(), status);
        let refused =
            format!("prusik_handshakes_refused_total{{route=\"{route}\",reason=\"{reason}\"}}");
        let scrape = until(&prusik, &refused, 1.0).await;
        let requests = format!("prusik_requests_total{{route=\"{route}\",status=\"{status}\"}}");
        assert_eq!(scrape.value(&requests), 1.0);
    }
    let scrape = Scrape::of(&prusik).await;
    let pages = "prusik_requests_total{route=\"chat\",status=\"200\"}";
    assert_eq!(scrape.value(pages), 2.0);
    let seconds = "prusik_request_seconds_count{route=\"chat\"}";
    assert_eq!(scrape.value(seconds), 3.0);
    let all: f64 = scrape
        .series
        .iter()
        .filter(|(series, _)| series.starts_with("prusik_handshakes_refused_total"))
        .map(|(_, value)| value)
        .sum();
    assert_eq!(all, 3.0, "each has one reason");
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_counted_down_and_ejected() {
    let nobody = free_address();
    let config = Config::default()
        .server(nobody)
        .upstream("eject: { failures: 1, within: 10s, for: 60s }")
        .upstream("health_check: { type: tcp, interval: 1s, timeout: 1s, rise: 1, fall: 1 }")
        .route("name: chat")
        .top(ADMIN);
    let prusik = Prusik::start(config).await;
    let of = |name: &str| format!("{name}{{upstream=\"backend\",server=\"{nobody}\"}}");
    let scrape = until(&prusik, &of("prusik_server_up"), 0.0).await;
    assert!(scrape.series.contains_key(&of("prusik_server_up")));
    assert_eq!(status_of(prusik.public(), "/").await, 503);
    // Without checks it is asked.
    let config = Config::default()
        .server(nobody)
        .upstream("eject: { failures: 1, within: 10s, for: 60s }")
        .route("name: chat")
        .top(ADMIN);
    assert_eq!(prusik.reload_with(config).await, Outcome::Done);
    assert_eq!(status_of(prusik.public(), "/").await, 502);
    let scrape = until(&prusik, &of("prusik_connect_errors_total"), 1.0).await;
    assert_eq!(scrape.value(&of("prusik_server_ejected")), 1.0);
    let answer = Client::connect(prusik.public())
        .await
        .ask(handshake_with("/", &[]))
        .await;
    assert_eq!(answer.status(), 502);
    let failed = "prusik_handshakes_refused_total{route=\"chat\",reason=\"server_failed\"}";
    until(&prusik, failed, 1.0).await;
}

#[tokio::test]
async fn a_reload_keeps_what_was_counted_and_lets_go_of_routes_that_are_gone() {
    let origin = Origin::chat().await;
    let config = |route: &str| Config::to(&[&origin]).top(ADMIN).first(route);
    let with = config("{ name: gone, match: { path: /gone }, respond: { status: 410 } }");
    let prusik = Prusik::start(&with.clone().route("name: chat")).await;
    assert_eq!(status_of(prusik.public(), "/gone").await, 410);
    assert_eq!(status_of(prusik.public(), "/page").await, 200);
    let gone = "prusik_requests_total{route=\"gone\",status=\"410\"}";
    until(&prusik, gone, 1.0).await;
    let without = Config::to(&[&origin]).top(ADMIN).route("name: chat");
    assert_eq!(prusik.reload_with(without).await, Outcome::Done);
    let scrape = Scrape::of(&prusik).await;
    assert!(!scrape.text.contains("route=\"gone\""), "{}", scrape.text);
    let kept = "prusik_requests_total{route=\"chat\",status=\"200\"}";
    assert_eq!(scrape.value(kept), 1.0);
    let done = "prusik_config_reloads_total{result=\"success\"}";
    let failed = "prusik_config_reloads_total{result=\"failure\"}";
    // It is counted behind the line of the log that the test goes by.
    until(&prusik, done, 1.0).await;
    assert_eq!(scrape.value(failed), 0.0);
    prusik.write_config("nonsense: true");
    assert_ne!(prusik.reload().await, Outcome::Done);
    until(&prusik, failed, 1.0).await;
}

/// A place that the file has no more has a series for as long as there is a session at it.
#[tokio::test(flavor = "multi_thread")]
async fn the_series_of_a_place_that_is_gone_goes_with_its_last_session() {
    let (stays, goes) = (Origin::chat().await, Origin::chat().await);
    let route = |name: &str| {
        format!("{{ name: {name}, match: {{ path_prefix: /{name} }}, upstream: backend }}")
    };
    let all = Config::to(&[&stays, &goes]).top(ADMIN);
    let all = all.first(route("old")).route("name: chat");
    let prusik = Prusik::start(all.upstream("on_removed: keep")).await;
    let mut sessions = Vec::new();
    for path in ["/old/x", "/old/x", "/x", "/x"] {
        sessions.push(Session::open(prusik.public(), path).await);
    }
    let of = |route: &str, origin: &Origin| {
        let server = origin.address();
        format!(
            "prusik_sessions_active{{route=\"{route}\",upstream=\"backend\",server=\"{server}\"}}"
        )
    };
    // In turn: each place has one.
    let places = [
        ("old", &stays),
        ("old", &goes),
        ("chat", &stays),
        ("chat", &goes),
    ];
    for (route, origin) in places {
        until(&prusik, &of(route, origin), 1.0).await;
    }
    let fewer = Config::to(&[&stays]).top(ADMIN).route("name: chat");
    assert_eq!(
        prusik.reload_with(fewer.upstream("on_removed: keep")).await,
        Outcome::Done
    );
    for (route, origin) in places {
        until(&prusik, &of(route, origin), 1.0).await;
    }
    for session in sessions {
        session.close(1000).await;
    }
    let mut left = Vec::new();
    eventually("the others are gone", async || {
        let all = Scrape::of(&prusik).await.series.into_keys();
        left = all
            .filter(|series| series.starts_with("prusik_sessions_active"))
            .collect();
        left.len() == 1
    })
    .await;
    assert_eq!(left, [of("chat", &stays)]);
}

/// Prometheus takes a counter that falls for one that began at zero again: what a session has
/// carried before it moved must not be counted twice then.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_moves_to_a_new_process_counts_there_from_then_on() {
    let origin = Origin::chat().await;
    let config = Config::to(&[&origin]).top(ADMIN).route("name: chat");
    let mut prusik = Prusik::start(config).await;
    let mut session = Session::open(prusik.public(), "/").await;
    for _ in 0..5 {
        session.ask("before").await;
    }
    let messages = "prusik_session_messages_total{direction=\"in\"}";
    until(&prusik, messages, 5.0).await;
    let upgrades = "prusik_upgrades_total{result=\"success\"}";
    for done in [1.0, 2.0] {
        prusik.upgrade().await;
        let scrape = until(&prusik, upgrades, done).await;
        assert_eq!(scrape.value(messages), 0.0);
        session.ask("after").await;
        until(&prusik, messages, 1.0).await;
    }
}

/// Prometheus' own tool has nothing to say against a scrape with something of everything in it.
#[tokio::test]
async fn promtool_accepts_a_scrape() {
    let origin = Origin::chat().await;
    let config = Config::to(&[&origin])
        .top(ADMIN)
        .route("name: 'a \"b\" \\ c'");
    let prusik = Prusik::start(config).await;
    let session = Session::open(prusik.public(), "/").await;
    assert_eq!(session.close(1000).await, Ended::Close(1000));
    assert_eq!(status_of(prusik.public(), "/").await, 200);
    until(&prusik, "prusik_session_duration_seconds_count", 1.0).await;
    let scrape = Scrape::of(&prusik).await;
    assert!(scrape.series.len() > 40, "{}", scrape.text);
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else {
        eprintln!("promtool is not there: install Debian's `prometheus` to have it check this");
        return;
    };
    let mut input = promtool.stdin.take().expect("a pipe");
    input
        .write_all(scrape.text.as_bytes())
        .expect("promtool reads");
    drop(input);
    let output = promtool.wait_with_output().expect("promtool ends");
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stderr),
        scrape.text
    );
}

/// Every name that begins with `prusik_`, as it stands in the text.
fn names_in(text: &str) -> BTreeSet<String> {
    text.match_indices("prusik_")
        .map(|(at, _)| {
            let rest = &text[at..];
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            rest.chars().take_while(|c| is_name(*c)).collect()
        })
        .collect()
}

#[tokio::test]
async fn the_dashboard_and_the_alerts_ask_for_what_is_there() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin]).top(ADMIN)).await;
    let session = Session::open(prusik.public(), "/").await;
    assert_eq!(session.close(1000).await, Ended::Close(1000));
    assert_eq!(status_of(prusik.public(), "/").await, 200);
    until(&prusik, "prusik_session_duration_seconds_count", 1.0).await;
    let there = names_in(&Scrape::of(&prusik).await.text);
    for file in ["dashboard.json", "alerts.yaml"] {
        let path = format!("{}/conf/monitoring/{file}", env!("CARGO_MANIFEST_DIR"));
        let text = fs::read_to_string(&path).expect("it is shipped");
        let asked = names_in(&text);
        assert!(asked.len() > 5, "{path}: {asked:?}");
        let unknown: Vec<_> = asked.difference(&there).collect();
        assert!(unknown.is_empty(), "{path} asks for {unknown:?}");
    }
}

#[test]
fn the_dashboard_is_json_and_promtool_accepts_the_alerts() {
    let folder = format!("{}/conf/monitoring", env!("CARGO_MANIFEST_DIR"));
    let dashboard = fs::read_to_string(format!("{folder}/dashboard.json")).expect("it is shipped");
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).expect("it is JSON");
    let panels = dashboard["panels"].as_array().expect("there are panels");
    assert!(panels.len() > 8);
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len(), "Grafana wants each id once");
    for arguments in [
        ["check", "rules", "alerts.yaml"],
        ["test", "rules", "alerts_test.yaml"],
    ] {
        let promtool = Command::new("promtool")
            .args(arguments)
            .current_dir(&folder)
            .output();
        let Ok(output) = promtool else {
            eprintln!("promtool is not there: install Debian's `prometheus` to check the alerts");
            return;
        };
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// A few thousand here; `tests/long/scrape.py` has as many as there are descriptors for, and a
/// limit in milliseconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_keep_passing_while_many_sessions_are_gathered() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin]).route("name: chat").top(ADMIN)).await;
    let mut sessions = Vec::new();
    while sessions.len() < many() {
        let some = (0..100).map(|_| Session::open(prusik.public(), "/"));
        sessions.extend(futures_util::future::join_all(some).await);
    }
    let active = format!(
        "prusik_sessions_active{{route=\"chat\",upstream=\"backend\",server=\"{}\"}}",
        origin.address()
    );
    let mut talker = sessions.pop().expect("there are many");
    let (over, mut is_over) = tokio::sync::watch::channel(false);
    let talking = tokio::spawn(async move {
        let (mut count, mut slowest) = (0, Duration::ZERO);
        while !*is_over.borrow_and_update() {
            let begun = Instant::now();
            let text = "x".repeat(64);
            assert_eq!(talker.ask(&text).await, text);
            slowest = slowest.max(begun.elapsed());
            count += 1;
        }
        (count, slowest)
    });
    for _ in 0..20 {
        let scrape = Scrape::of(&prusik).await;
        assert_eq!(scrape.value(&active), sessions.len() as f64 + 1.0);
    }
    over.send_replace(true);
    let (count, slowest) = talking.await.expect("every message came back");
    println!("{count} echoes beside 20 scrapes, the slowest within {slowest:?}");
    assert!(count >= 20, "{count} messages");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
}

/// As many sessions as descriptors allow, at most: both ends of each are this process's.
fn many() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let descriptors = limit.current.unwrap_or(u64::MAX);
    usize::try_from(descriptors / 4).map_or(3000, |most| most.min(3000))
}

#[tokio::test]
async fn states_limits_certificates_and_the_process_are_told_of() {
    let origin = Origin::chat().await;
    let down = free_address();
    let authority = support::Authority::new();
    let pair = authority.issue("chat", &["chat.example.com"]);
    let server = origin.address();
    let config = Config::to(&[])
        .tls(support::certificates(&[&pair]))
        .server(format!("{{ address: \"{server}\", max_sessions: 7 }}"))
        .server(format!("\"{down}\""))
        .upstream("health_check: { type: tcp, interval: 100ms, timeout: 1s }")
        .top(ADMIN);
    let prusik = Prusik::start(config).await;
    let state = |server, state: &str| {
        format!("prusik_server_state{{upstream=\"backend\",server=\"{server}\",state=\"{state}\"}}")
    };
    until(&prusik, &state(server, "up"), 1.0).await;
    let scrape = until(&prusik, &state(down, "down"), 1.0).await;
    for other in ["up", "ejected", "drained", "unchecked"] {
        assert_eq!(
            scrape.series.get(&state(down, other)),
            Some(&0.0),
            "{other}"
        );
    }
    let limit = |server| format!("prusik_server_limit{{upstream=\"backend\",server=\"{server}\"}}");
    assert_eq!(scrape.value(&limit(server)), 7.0);
    assert!(!scrape.series.contains_key(&limit(down)));
    let expiry = "prusik_certificate_expiry_timestamp_seconds{listener=\"public\",name=\"chat.\
                  example.com\"}";
    assert!(scrape.value(expiry) > 1_500_000_000.0, "{}", scrape.text);
    // The kernel counts in hundredths of a second.
    assert!(scrape.value("process_cpu_seconds_total") >= 0.0);
    for name in [
        "process_open_fds",
        "process_max_fds",
        "process_virtual_memory_bytes",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
    ] {
        assert!(scrape.value(name) > 0.0, "{name}");
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let age = now.expect("after 1970").as_secs_f64() - scrape.value("process_start_time_seconds");
    assert!((-2.0..600.0).contains(&age), "{age}");
}

#[tokio::test]
async fn routes_that_nobody_uses_cost_no_series() {
    let origin = Origin::chat().await;
    let mut config = Config::to(&[&origin]).top(ADMIN);
    for number in 0..5000 {
        config = config.first(format!(
            "{{ name: r{number}, match: {{ path_prefix: /r{number} }}, upstream: backend }}"
        ));
    }
    let prusik = Prusik::start(config).await;
    let before = Scrape::of(&prusik).await;
    assert!(before.text.len() < 300_000, "{} bytes", before.text.len());
    assert_eq!(status_of(prusik.public(), "/r7/x").await, 200);
    let used = "prusik_requests_total{route=\"r7\",status=\"200\"}";
    let scrape = until(&prusik, used, 1.0).await;
    assert!(!scrape.text.contains("requests_total{route=\"r8\""));
    assert!(scrape.text.len() < 310_000, "{} bytes", scrape.text.len());
}
