//! `allow` and `deny`: which addresses a route serves, by the trust rules, before anything else.

use std::fs;

use crate::support::{
    Answer, Client, Config, Origin, Outcome, Prusik, Response, check, handshake, handshake_with,
    metrics_of, status_of,
};

const ADMIN: &str = "admin: { listen: \"127.0.0.1:0\" }";

async fn ask(prusik: &Prusik, fields: &str) -> Response {
    let request = format!("GET / HTTP/1.1\r\nHost: test\r\n{fields}\r\n");
    Client::connect(prusik.public()).await.ask(request).await
}

#[tokio::test]
async fn who_is_not_allowed_gets_403_with_a_reason_in_log_and_metrics() {
    let origin = Origin::chat().await;
    let config = Config::to(&[&origin])
        .route("name: app")
        .route("allow: [10.0.0.0/8]")
        .top(ADMIN);
    let prusik = Prusik::start(config).await;
    let answer = ask(&prusik, "").await;
    assert_eq!(answer.status(), 403);
    assert_eq!(answer.field("www-authenticate"), None);
    let refused = Client::connect(prusik.public())
        .await
        .ask(handshake("/"))
        .await;
    assert_eq!(refused.status(), 403);
    assert!(origin.received().is_empty());
    let entry = prusik
        .wait_log("the 403", |entry| entry["status"] == 403)
        .await;
    assert_eq!(entry["route"], "app");
    let said = entry["error"].as_str().unwrap_or_default();
    assert!(
        said.contains("this address may not come in here"),
        "{entry}"
    );
    let metrics = metrics_of(&prusik).await;
    for count in [
        "prusik_auth_refused_total{route=\"app\",reason=\"address\"} 2",
        "prusik_handshakes_refused_total{route=\"app\",reason=\"auth\"} 1",
    ] {
        assert!(metrics.contains(count), "{count} in {metrics}");
    }
}

/// Servers decode what may stand in a path as it is, too.
#[tokio::test]
async fn no_spelling_of_a_path_gets_around_a_guarded_prefix() {
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let mut config = Config::to(&[&origin]);
    for prefix in ["/@admin", "/x,y", "/u=v", "/a|b"] {
        let guarded = "upstream: backend, deny: [127.0.0.0/8]";
        config = config.first(format!(
            "{{ match: {{ path_prefix: \"{prefix}\" }}, {guarded} }}"
        ));
    }
    let prusik = Prusik::start(config).await;
    for (path, status) in [
        ("/@admin/x", 403),
        ("/%40admin/x", 400),
        ("/%2540admin", 400),
        ("/@%61dmin", 403),
        ("/x%2Cy", 400),
        ("/x%2cy/z", 400),
        ("/u%3Dv", 400),
        ("/a%7Cb", 400),
        ("/%40alice", 200),
        ("/x%2C", 200),
    ] {
        assert_eq!(status_of(prusik.public(), path).await, status, "{path}");
    }
    assert_eq!(origin.received().len(), 2);
}

#[tokio::test]
async fn deny_wins_over_allow_and_a_reload_changes_both() {
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let with = |lists: &str| Config::to(&[&origin]).route(lists);
    let prusik = Prusik::start(with("allow: [127.0.0.0/8]")).await;
    assert_eq!(status_of(prusik.public(), "/").await, 200);
    for (lists, status) in [
        ("allow: [127.0.0.0/8]\n    deny: [127.0.0.1]", 403),
        ("allow: [127.0.0.0/8]\n    deny: [127.0.0.2]", 200),
        ("deny: [127.0.0.0/8]", 403),
        ("deny: [10.0.0.0/8]", 200),
        ("allow: [\"::1\"]", 403),
        ("allow: [\"::ffff:127.0.0.0/104\"]", 200),
    ] {
        assert_eq!(prusik.reload_with(with(lists)).await, Outcome::Done);
        assert_eq!(status_of(prusik.public(), "/").await, status, "{lists}");
    }
}

#[tokio::test]
async fn the_client_behind_a_trusted_proxy_counts_and_a_forged_field_does_not() {
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let lists = "allow: [203.0.113.0/24]\n    deny: [203.0.113.9]";
    let config = Config::to(&[&origin]).route(lists);
    let trusting = config.clone().top("trusted_proxies: [127.0.0.0/8]");
    let prusik = Prusik::start(trusting).await;
    for (fields, status) in [
        ("X-Forwarded-For: 203.0.113.7\r\n", 200),
        ("X-Forwarded-For: 203.0.113.9\r\n", 403),
        ("X-Forwarded-For: 198.51.100.1\r\n", 403),
        // Only the rightmost that is no proxy of ours counts.
        ("X-Forwarded-For: 203.0.113.7, 198.51.100.1\r\n", 403),
        (
            "X-Forwarded-For: 203.0.113.9, 203.0.113.7, 127.0.0.5\r\n",
            200,
        ),
        ("Forwarded: for=203.0.113.7\r\n", 200),
        ("X-Real-IP: 203.0.113.7\r\n", 403),
        ("", 403),
    ] {
        assert_eq!(ask(&prusik, fields).await.status(), status, "{fields}");
    }
    let request = handshake_with("/", &["X-Forwarded-For: 203.0.113.9"]);
    let refused = Client::connect(prusik.public()).await.ask(request).await;
    assert_eq!(refused.status(), 403);
    // Nobody is trusted: the field says nothing.
    let served = origin.received().len();
    assert_eq!(prusik.reload_with(config).await, Outcome::Done);
    let forged = "X-Forwarded-For: 203.0.113.7\r\n";
    assert_eq!(ask(&prusik, forged).await.status(), 403);
    assert_eq!(origin.received().len(), served);
}

#[tokio::test]
async fn who_comes_by_a_unix_socket_has_the_address_that_it_names_or_none() {
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let socket = folder.path().join("web.sock");
    let server = origin.address();
    let config = format!(
        "listeners: [{{ listen: \"unix:{}\" }}]\n\
         upstreams: {{ backend: {{ servers: [\"{server}\"] }} }}\n\
         routes:\n\
         - {{ match: {{ path: /inside }}, upstream: backend, allow: [10.0.0.0/8] }}\n\
         - {{ upstream: backend, deny: [10.6.6.0/24] }}\n",
        socket.display()
    );
    let _prusik = Prusik::start(config).await;
    for (target, fields, status) in [
        ("/inside", "", 403),
        ("/inside", "X-Forwarded-For: 10.1.2.3\r\n", 200),
        ("/inside", "X-Forwarded-For: 192.0.2.1\r\n", 403),
        ("/", "", 200),
        ("/", "X-Forwarded-For: 10.6.6.6\r\n", 403),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: test\r\n{fields}\r\n");
        let answer = Client::connect_unix(&socket).await.ask(request).await;
        assert_eq!(answer.status(), status, "{target} {fields}");
    }
}

#[tokio::test]
async fn addresses_come_before_passwords_and_the_auth_server_is_not_asked() {
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let keeper = Origin::start(|_| Answer::text("in")).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let users = folder.path().join("htpasswd");
    fs::write(&users, "a:$apr1$x$tMwYqBfQwi3FYAr0aJc8M/\n").expect("it can be written");
    let config = Config::to(&[&origin])
        .route("deny: [127.0.0.1]")
        .route(format!(
            "auth: {{ basic: {{ users: \"{}\" }}, forward: {{ url: \"http://{}/\" }} }}",
            users.display(),
            keeper.address()
        ));
    let prusik = Prusik::start(config).await;
    let answer = ask(&prusik, "Authorization: Basic YTo=\r\n").await;
    assert_eq!(answer.status(), 403);
    assert_eq!(answer.field("www-authenticate"), None);
    assert!(keeper.received().is_empty());
    assert!(origin.received().is_empty());
}

#[tokio::test]
async fn a_route_that_answers_by_itself_has_lists_too() {
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let config = Config::to(&[&origin])
        .first("{ match: { path: /own }, respond: { status: 200 }, deny: [127.0.0.1] }")
        .first("{ match: { path: /moved }, redirect: { to: /new }, deny: [127.0.0.1] }");
    let prusik = Prusik::start(config).await;
    for (target, status) in [("/own", 403), ("/moved", 403), ("/", 200)] {
        assert_eq!(status_of(prusik.public(), target).await, status, "{target}");
    }
}

#[test]
fn lists_that_make_no_sense_are_errors() {
    for (lists, place, what) in [
        (
            "allow: [10.0.0.0/33]",
            ":5:13: ",
            "\"10.0.0.0/33\" is not a network",
        ),
        (
            "deny: [example.com]",
            ":5:12: ",
            "\"example.com\" is not a network",
        ),
        (
            "allow: []",
            ":5:12: ",
            "\"allow\" is empty: no client could come in",
        ),
        (
            "deny: [\"::/0\", \"::ffff:0:0/95\"]",
            ":5:20: ",
            "is more than the IPv4 addresses",
        ),
        ("allow: 10.0.0.0/8", ":5:12: ", "allow"),
    ] {
        let output = check(&format!(
            "listeners: [{{ listen: 127.0.0.1:9090 }}]\n\
             upstreams: {{ chat: {{ servers: [127.0.0.1:9080] }} }}\n\
             routes:\n  - upstream: chat\n    {lists}\n"
        ));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{lists}: {said}");
        let line = said.lines().find(|line| line.contains(place));
        let line = line.unwrap_or_else(|| panic!("nothing at {place} in {said}"));
        assert!(line.contains(what), "{lists}: {said}");
    }
}
