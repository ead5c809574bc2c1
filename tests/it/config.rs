//! The configuration: every file in `tests/config/valid` is taken, every one in
//! `tests/config/invalid` is refused with exactly the errors beside it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prusik::config::{
    self, Action, Balance, Extent, Forwarded, HealthCheckKind, ListenAddress, LogOutput,
    PathChange, ServerAddress, Start, UpstreamId,
};
use prusik::route::ListenerId;

fn fixtures(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/config")
        .join(kind);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .expect("the fixtures are there")
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .collect();
    files.sort();
    files
}

fn resolve(yaml: &str) -> config::Config {
    config::parse("inline.yaml", yaml).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn valid_files_are_taken() {
    let files = fixtures("valid");
    assert!(files.len() >= 5, "only {} fixtures", files.len());
    for file in files {
        if let Err(errors) = config::load(&file, Extent::File) {
            panic!("{errors}");
        }
    }
}

#[test]
fn invalid_files_are_refused_with_every_error() {
    let files = fixtures("invalid");
    assert!(files.len() >= 25, "only {} fixtures", files.len());
    let mut wrong = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("the fixture can be read");
        let found = match config::parse("FILE", &text) {
            Ok(_) => "nothing is wrong".to_owned(),
            Err(errors) => format!("{errors}\n"),
        };
        for pair in found.lines().chain([""]).collect::<Vec<_>>().windows(2) {
            assert!(
                !pair[0].starts_with("FILE:") || pair[1].starts_with("  hint: "),
                "{}: an error without a remedy: {}",
                file.display(),
                pair[0]
            );
        }
        let beside = file.with_extension("expected");
        if std::env::var_os("BLESS").is_some() {
            fs::write(&beside, &found).expect("the fixture can be written");
        }
        let expected = fs::read_to_string(&beside).unwrap_or_default();
        if found != expected {
            wrong.push(format!(
                "{}\n--- expected\n{expected}--- found\n{found}",
                file.display()
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{}\n(BLESS=1 accepts what was found)",
        wrong.join("\n")
    );
}

/// A slip in the template of a generated file is one in each of its routes, and a reload must not
/// take a minute to say so. What grew with the square of the file took from 1.6 s of such a file,
/// and minutes of a large one.
#[test]
fn every_kind_of_error_is_found_in_linear_time() {
    let mut slow = Vec::new();
    for (what, at_least, text) in generated_files(2000) {
        let begun = cpu_time();
        let errors =
            config::parse("FILE", &text).map_or_else(|errors| errors.errors().len(), |_| 0);
        let took = cpu_time() - begun;
        println!("{what}: {took:?}");
        assert!(errors >= at_least, "{what}: only {errors} errors");
        assert!(errors > 0 || at_least == 0, "{what}");
        if took > Duration::from_millis(1500) {
            slow.push((what, took));
        }
    }
    assert!(slow.is_empty(), "{slow:?}");
}

/// Of this thread.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("it is not negative")
}

/// What is wrong with each, at least how many errors that is, and the file.
fn generated_files(many: usize) -> Vec<(&'static str, usize, String)> {
    let list = |entry: &dyn Fn(usize) -> String| -> String { (0..many).map(entry).collect() };
    let listener = "listeners: [{ listen: 127.0.0.1:9090 }]\n";
    let upstream = "upstreams: { u: { servers: [127.0.0.1:9080] } }\n";
    let head = format!("{listener}{upstream}");
    let one = "routes: [{ upstream: u }]\n";
    let route = |extra: &str| {
        let extra = extra.to_owned();
        let head = head.clone();
        let routes = list(&|i| {
            format!("  - {{ name: r{i}, match: {{ host: h{i}.example }}, upstream: u{extra} }}\n")
        });
        format!("{head}routes:\n{routes}")
    };
    let upstreams = |keys: &str| list(&|i| format!("  u{i}: {{ {keys} }}\n"));
    let address = |i: usize| format!("127.0.{}.{}:9090", i / 250, i % 250 + 1);
    let listeners = |keys: &str| list(&|i| format!("  - {{ listen: {}{keys} }}\n", address(i)));
    vec![
        ("nothing", 0, route("")),
        ("an unknown key", many, route(", timeout: 3s")),
        ("a bad value", many, route(", timeouts: { idle: 30 }")),
        ("a bad word", many, route(", forwarded: xforwarded")),
        ("no value", many, route(", websocket: ~")),
        (
            "a bad template",
            many,
            route(", headers: { request: { set: { X-A: $hst } } }"),
        ),
        (
            "an unknown upstream",
            many,
            format!(
                "{listener}upstreams:\n{}routes:\n{}",
                upstreams("servers: [127.0.0.1:9080]"),
                list(&|i| format!("  - {{ match: {{ path: /{i} }}, upstream: x{i}x }}\n"))
            ),
        ),
        (
            "the same name",
            many - 1,
            format!(
                "{head}routes:\n{}",
                list(&|i| format!("  - {{ name: r, match: {{ path: /{i} }}, upstream: u }}\n"))
            ),
        ),
        (
            "the same match",
            many - 1,
            format!(
                "{head}routes:\n{}",
                list(&|_| "  - { upstream: u }\n".to_owned())
            ),
        ),
        (
            "no route",
            many,
            format!("{head}routes: [{}]\n", list(&|_| "5, ".to_owned())),
        ),
        (
            "an unknown key at one place",
            many,
            format!(
                "{head}routes:\n  - upstream: u\n{}",
                list(&|i| format!("    k{i}: 1\n"))
            ),
        ),
        (
            "a bad header",
            many,
            format!(
                "{head}routes: [{{ upstream: u, headers: {{ request: {{ set: {{ {} }} }} }} }}]\n",
                list(&|i| format!("'a {i}': b, "))
            ),
        ),
        (
            "an unknown key at the top",
            many,
            head.clone() + one + &list(&|i| format!("k{i}: 1\n")),
        ),
        (
            "a key of one's own",
            0,
            head.clone() + one + &list(&|i| format!("x-{i}: 1\n")),
        ),
        (
            "the same key",
            many,
            head.clone() + one + &list(&|_| "routes: []\n".to_owned()),
        ),
        (
            "a bad server",
            many,
            format!(
                "{listener}upstreams: {{ u: {{ servers: [{}] }} }}\n{one}",
                list(&|_| "{ address: 127.0.0.1:1, weight: 0 }, ".to_owned())
            ),
        ),
        (
            "a bad upstream",
            many,
            format!(
                "{listener}upstreams:\n{}routes: []\n",
                upstreams("server: [a:1]")
            ),
        ),
        (
            "an upstream by TLS",
            0,
            format!(
                "{listener}upstreams:\n{}routes: []\n",
                upstreams("servers: [a:1], tls: {}")
            ),
        ),
        (
            "a listener",
            0,
            format!("listeners:\n{}{upstream}{one}", listeners("")),
        ),
        (
            "a bad listener",
            many,
            format!("listeners:\n{}{upstream}{one}", listeners(", limit: {}")),
        ),
        (
            "a listener that is its own server",
            many,
            format!(
                "listeners:\n{}upstreams: {{ u: {{ servers: [{}] }} }}\n{one}",
                listeners(""),
                list(&|i| address(i) + ", ")
            ),
        ),
        (
            "a missing certificate",
            many,
            format!(
                "listeners: [{{ listen: 127.0.0.1:1, tls: {{ certificates: [{}] }} }}]\n{upstream}{one}",
                list(&|_| "{ cert: /nonexistent/c, key: /nonexistent/k }, ".to_owned())
            ),
        ),
    ]
}

/// A refusal without an error would leave the operator with nothing to go by.
#[test]
fn a_file_cut_anywhere_is_taken_or_refused_with_errors() {
    let files = fixtures("valid").into_iter().chain(fixtures("invalid"));
    for file in files {
        let text = fs::read_to_string(&file).expect("the fixture can be read");
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let before = lines[..i].join("\n");
            let after = lines[i + 1..].join("\n");
            let half = line
                .chars()
                .take(line.chars().count() / 2)
                .collect::<String>();
            for cut in [
                format!("{before}\n{half}"),
                format!("{before}\n{half}\n{after}"),
                format!("{before}\n{after}"),
            ] {
                if let Err(errors) = config::parse("FILE", &cut) {
                    assert!(!errors.errors().is_empty(), "{}:\n{cut}", file.display());
                }
            }
        }
    }
}

#[test]
fn what_is_left_out_gets_its_default() {
    let config = resolve(
        "
        listeners: [{ listen: 127.0.0.1:9090 }]
        upstreams:
          a: { servers: [127.0.0.1:9080], health_check: { type: http } }
          b: { discover: { dns: chat.internal:9080 } }
        routes: [{ upstream: a }]
        ",
    );
    assert!(config.server.threads >= 1);
    assert_eq!(config.access_log.output, LogOutput::Stdout);
    assert_eq!(config.listeners[0].name, "127.0.0.1:9090");
    let upstream = &config.upstreams[0];
    let discover = config.upstreams[1].discover.as_ref().expect("it is there");
    let seconds = |seconds| Duration::from_secs(seconds);
    assert_eq!(
        (discover.refresh, discover.hold),
        (seconds(10), seconds(30))
    );
    assert_eq!(upstream.balance, Balance::RoundRobin);
    assert_eq!((upstream.attempts, upstream.keepalive), (3, 128));
    assert_eq!(upstream.slow_start, Duration::ZERO);
    assert_eq!(upstream.servers[0].weight, 1);
    assert_eq!(upstream.servers[0].max_sessions, None);
    let check = upstream.health_check.as_ref().expect("it is on");
    assert_eq!((check.port, check.start), (None, Start::Up));
    assert_eq!(
        (check.interval, check.timeout),
        (Duration::from_secs(2), Duration::from_secs(1))
    );
    assert_eq!((check.rise, check.fall), (2, 3));
    let expect = vec![200..=399];
    assert_eq!(
        check.kind,
        HealthCheckKind::Http {
            path: "/".to_owned(),
            host: None,
            expect
        }
    );
    let route = &config.routes[0];
    assert_eq!(route.name, "any");
    assert_eq!(route.forwarded, Forwarded::XForwarded);
    assert_eq!(route.timeouts.connect, Duration::from_secs(5));
    assert_eq!(route.timeouts.response, Duration::from_secs(60));
    assert_eq!(route.timeouts.idle, Duration::from_secs(60));
    let websocket = route.websocket.as_ref().expect("it is on");
    assert_eq!(websocket.idle, Some(Duration::from_secs(3600)));
    assert_eq!(websocket.max_session, None);
    assert!(websocket.origins.is_empty());
}

#[test]
fn references_become_indices() {
    let config = resolve(
        "
        listeners: [{ listen: 127.0.0.1:1, name: one }, { listen: unix:/run/two.sock }]
        upstreams: { z: { servers: [chat:80] }, a: { servers: ['[::1]:80'] } }
        routes:
          - { match: { path_prefix: /a, listener: 'unix:/run/two.sock' }, upstream: a, strip_prefix: /a/ }
          - { match: { listener: one }, upstream: z }
        ",
    );
    assert_eq!(
        config.listeners[1].address,
        ListenAddress::Unix("/run/two.sock".into())
    );
    let chat = ServerAddress::Name {
        host: "chat".to_owned(),
        port: 80,
    };
    assert_eq!(config.upstreams[0].servers[0].address, chat);
    assert_eq!(config.routes[0].matcher.listener, Some(ListenerId::new(1)));
    assert_eq!(
        config.routes[0].action,
        Action::Proxy {
            upstream: UpstreamId::new(1),
            path: PathChange::Strip("/a".to_owned()),
        }
    );
    assert_eq!(
        config.routes[1].action,
        Action::Proxy {
            upstream: UpstreamId::new(0),
            path: PathChange::None,
        }
    );
}

#[test]
fn routes_without_names_get_unique_ones() {
    let config = resolve(
        "
        listeners: [{ listen: 127.0.0.1:1 }]
        routes:
          - { match: { path: /x, methods: [GET] }, respond: { status: 200 } }
          - { name: /y, match: { path: /z }, respond: { status: 200 } }
          - { match: { path_prefix: /y, methods: [GET] }, respond: { status: 200 } }
          - { match: { path_prefix: /y, methods: [GET] }, respond: { status: 200 } }
        ",
    );
    let names: Vec<&str> = config
        .routes
        .iter()
        .map(|route| route.name.as_str())
        .collect();
    assert_eq!(names, ["path = /x GET", "/y", "/y GET", "/y GET #2"]);
}

#[test]
fn off_and_false_mean_the_same() {
    let with = |off: &str| {
        resolve(&format!(
            "
            access_log: {off}
            listeners: [{{ listen: 127.0.0.1:1 }}]
            upstreams: {{ a: {{ servers: [{{ address: a:1, backup: {off} }}], health_check: {off},
                                eject: {off}, slow_start: {off} }} }}
            routes: [{{ name: all, upstream: a, websocket: {off}, forwarded: {off} }}]
            "
        ))
    };
    assert_eq!(with("off"), with("false"));
    let config = with("off");
    assert_eq!(config.access_log.output, LogOutput::Off);
    assert_eq!(config.upstreams[0].health_check, None);
    assert_eq!(config.routes[0].websocket, None);
    assert_eq!(config.routes[0].forwarded, Forwarded::Off);
}

#[test]
fn headers_keep_their_case_and_order() {
    let config = resolve(
        "
        listeners: [{ listen: 127.0.0.1:1 }]
        upstreams: { a: { servers: [a:1] } }
        routes:
          - upstream: a
            headers: { request: { set: { X-Z: $host, x-a: '', Remote_Addr: '1' }, remove: [X-Debug] } }
        ",
    );
    let rules = &config.routes[0].request_headers;
    let names: Vec<&str> = rules
        .set
        .iter()
        .map(|(_, written, _)| written.as_str())
        .collect();
    assert_eq!(names, ["X-Z", "x-a", "Remote_Addr"]);
    assert_eq!(rules.remove[0], "x-debug");
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_that_names_it() {
    let errors = config::load(Path::new("/nonexistent/prusik.yaml"), Extent::File)
        .expect_err("it is not there");
    let shown = errors.to_string();
    assert!(
        shown.starts_with("/nonexistent/prusik.yaml: cannot read: "),
        "{shown}"
    );
    assert_eq!(errors.errors()[0].position, None);
}

#[test]
fn the_schema_knows_every_key_and_refuses_others() {
    let schema = config::json_schema();
    assert_eq!(schema["title"], "prusik configuration");
    assert_eq!(schema["additionalProperties"], false);
    let text = schema.to_string();
    for key in [
        "path_prefix",
        "hash_key",
        "max_sessions",
        "strip_prefix",
        "origins",
        "for",
    ] {
        assert!(text.contains(&format!("\"{key}\":")), "{key}");
    }
    assert!(
        !text.contains("\"null\""),
        "a key that is written has a value"
    );
}
