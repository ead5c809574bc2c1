//! Servers by name at a start, at a reload, and when DNS is slow, silent or wrong for a moment.
//!
//! All of these need the right to listen on port 53 and to make a mount namespace.

use std::fmt::Display;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::support;
use crate::support::{Answer, Dns, Ended, Origin, Outcome, Session, eventually, get, status_of};
use futures_util::future::join_all;

/// One route with one upstream, of these keys.
fn config(upstream: impl Display) -> String {
    format!(
        "server: {{ drain: {{ window: 0s }} }}
admin: {{ listen: \"127.0.0.1:0\" }}
listeners: [{{ listen: \"127.0.0.1:0\", name: public }}]
upstreams: {{ chat: {{ {upstream} }} }}
routes: [{{ match: {{ path_prefix: / }}, upstream: chat }}]
"
    )
}

fn servers(server: impl Display) -> String {
    config(format!("servers: [\"{server}\"]"))
}

fn discover(name: impl Display, keys: &str) -> String {
    config(format!("discover: {{ dns: \"{name}\", {keys} }}"))
}

async fn dns() -> Option<Dns> {
    let dns = Dns::listen().await;
    if dns.is_none() {
        eprintln!("skipped: no right to play a DNS server");
    }
    dns
}

/// Two servers on the same port, each of which says who it is.
async fn two_servers() -> [Origin; 2] {
    let one = Origin::chat().await;
    let port = one.address().port();
    let other = support::free_address();
    let address = SocketAddr::new(other.ip(), port);
    let two = Origin::start_on(address, move |request| {
        match request.field("upgrade").is_some() {
            true => Answer::upgrade(request),
            false => Answer::text(&address.to_string()),
        }
    })
    .await;
    [one, two]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_request_after_a_start_or_a_reload_is_served_by_name() {
    let Some(dns) = dns().await else { return };
    let origin = Origin::chat().await;
    let port = origin.address().port();
    dns.set_delay(Duration::from_millis(300));
    for number in 0..4 {
        dns.set(&format!("h{number}.test"), &[origin.address()]);
    }
    let by = |number: usize| servers(format!("h{number}.test:{port}"));
    let prusik = dns.prusik(by(0)).await;
    assert_eq!(status_of(prusik.public(), "/").await, 200);
    for number in 1..4 {
        prusik.write_config(by(number));
        let said = prusik.order(&["reload"]).await;
        assert_eq!(status_of(prusik.public(), "/").await, 200, "{said}");
        assert!(!said.contains("could not"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_stay_when_their_server_is_only_called_otherwise() {
    let Some(dns) = dns().await else { return };
    let origin = Origin::chat().await;
    let port = origin.address().port();
    dns.set_delay(Duration::from_millis(50));
    for name in ["one.test", "two.test", "three.test"] {
        dns.set(name, &[origin.address()]);
    }
    let by_address = servers(origin.address());
    let prusik = dns.prusik(&by_address).await;
    let open = (0..20).map(|_| Session::open(prusik.public(), "/"));
    let mut sessions = join_all(open).await;
    for next in [
        servers(format!("one.test:{port}")),
        servers(format!("two.test:{port}")),
        by_address.clone(),
        discover(format!("three.test:{port}"), "refresh: 1h"),
        by_address,
    ] {
        assert_eq!(prusik.reload_with(&next).await, Outcome::Done);
        for session in &mut sessions {
            assert!(session.is_alive().await, "{next}");
        }
        assert_eq!(status_of(prusik.public(), "/").await, 200, "{next}");
    }
    let status = prusik.status().await;
    assert_eq!(status["upstreams"][0]["servers"][0]["sessions"], 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_not_known_yet_removes_nobody_and_the_reload_says_so() {
    let Some(dns) = dns().await else { return };
    let origin = Origin::chat().await;
    let port = origin.address().port();
    let prusik = dns.prusik(servers(origin.address())).await;
    let mut session = Session::open(prusik.public(), "/").await;
    let next = discover(format!("late.test:{port}"), "refresh: 100ms, hold: 1h");
    prusik.write_config(next);
    let said = prusik.order(&["reload"]).await;
    let told = format!("upstream \"chat\": late.test:{port} could not be resolved yet (");
    let stays = format!("until then {} stays, for 3600s at most", origin.address());
    assert!(said.contains(&told) && said.contains(&stays), "{said}");
    assert!(prusik.stderr().contains(&told));
    let operation = prusik.status().await["operations"][0].clone();
    assert_eq!(operation["succeeded"], true);
    assert!(
        operation["outcome"].as_str().unwrap().contains(&told),
        "{operation}"
    );
    assert!(session.is_alive().await);
    assert_eq!(status_of(prusik.public(), "/").await, 200);

    dns.set("late.test", &[origin.address()]);
    prusik
        .wait_stderr(&format!("late.test:{port} is {}", origin.address()))
        .await;
    assert!(session.is_alive().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_name_that_stays_unknown_goes_when_the_hold_is_over() {
    let Some(dns) = dns().await else { return };
    let origin = Origin::chat().await;
    let prusik = dns.prusik(servers(origin.address())).await;
    let mut session = Session::open(prusik.public(), "/").await;
    let name = format!("never.test:{}", origin.address().port());
    let next = discover(name, "refresh: 1h, hold: 1s");
    assert_eq!(prusik.reload_with(next).await, Outcome::Done);
    assert!(session.is_alive().await);
    assert_eq!(session.ended().await, Ended::Close(1012));
    prusik
        .wait_stderr(&format!("{} has left", origin.address()))
        .await;
    assert_eq!(status_of(prusik.public(), "/").await, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_wrong_answer_tells_nobody_to_go() {
    let Some(dns) = dns().await else { return };
    let [right, wrong] = two_servers().await;
    let port = right.address().port();
    dns.set("chat.test", &[right.address()]);
    // The next look after the wrong answer is the one at the end of the hold.
    for keys in ["refresh: 200ms, hold: 1s", "refresh: 1s, hold: 500ms"] {
        let prusik = dns
            .prusik(discover(format!("chat.test:{port}"), keys))
            .await;
        let mut session = Session::open(prusik.public(), "/").await;
        dns.set("chat.test", &[wrong.address()]);
        let missing = format!("{} is missing from it and stays for", right.address());
        prusik.wait_stderr(&missing).await;
        dns.set("chat.test", &[right.address()]);
        // By then the hold of either would be over.
        prusik
            .wait_stderr(&format!("{} has left", wrong.address()))
            .await;
        assert!(session.is_alive().await, "{keys}");
        assert_eq!(prusik.status().await["sessions"], 1);
        assert!(
            !prusik
                .stderr()
                .contains(&format!("{} has left", right.address()))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stays_missing_goes_after_the_hold_and_its_sessions_are_told() {
    let Some(dns) = dns().await else { return };
    let [one, two] = two_servers().await;
    let port = one.address().port();
    dns.set("chat.test", &[one.address(), two.address()]);
    let keys = "refresh: 100ms, hold: 1s";
    let prusik = dns
        .prusik(discover(format!("chat.test:{port}"), keys))
        .await;
    let mut leaving = Vec::new();
    let mut staying = Vec::new();
    for _ in 0..4 {
        let mut session = Session::open(prusik.public(), "/").await;
        match session.server().await == one.address() {
            true => leaving.push(session),
            false => staying.push(session),
        }
    }
    let since = Instant::now();
    dns.set("chat.test", &[two.address()]);
    prusik
        .wait_stderr(&format!("{} is missing", one.address()))
        .await;
    for session in leaving.iter_mut().chain(&mut staying) {
        assert!(session.is_alive().await);
    }
    prusik
        .wait_stderr(&format!("{} has left", one.address()))
        .await;
    assert!(since.elapsed() >= Duration::from_secs(1));
    assert_eq!((leaving.len(), staying.len()), (2, 2));
    for session in &mut leaving {
        assert_eq!(session.ended().await, Ended::Close(1012));
    }
    for session in &mut staying {
        assert!(session.is_alive().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_logged_of_a_name_holds_when_it_is_read() {
    let Some(dns) = dns().await else { return };
    let servers = two_servers().await;
    let port = servers[0].address().port();
    dns.set("chat.test", &[servers[0].address()]);
    let keys = "refresh: 50ms, hold: off";
    let prusik = dns
        .prusik(discover(format!("chat.test:{port}"), keys))
        .await;
    for round in 1..20 {
        let address = servers[round % 2].address();
        let line = format!("chat.test:{port} is {address}\n");
        let before = prusik.stderr().matches(&line).count();
        dns.set("chat.test", &[address]);
        eventually(format!("the log has {address}"), async || {
            prusik.stderr().matches(&line).count() > before
        })
        .await;
        assert_eq!(get(prusik.public(), "/").await.text(), address.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_nobody_answers_holds_up_no_other_and_a_reload_only_for_a_bound() {
    let Some(dns) = dns().await else { return };
    let [one, two] = two_servers().await;
    let port = one.address().port();
    dns.set("chat.test", &[one.address()]);
    dns.silence("silent.test");
    let keys = format!("discover: {{ dns: \"chat.test:{port}\", refresh: 100ms, hold: off }}");
    let prusik = dns.prusik(config(&keys)).await;
    let with_silent = format!("servers: [\"silent.test:{port}\"], {keys}");
    let since = Instant::now();
    assert_eq!(prusik.reload_with(config(with_silent)).await, Outcome::Done);
    let took = since.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
    let told = format!("silent.test:{port} could not be resolved yet (no answer within 5s)");
    assert!(prusik.stderr().contains(&told));
    // Its next lookup begins after 10 s and takes 5: the other one goes on in the meantime.
    let since = Instant::now();
    for address in [two.address(), one.address()].repeat(8) {
        dns.set("chat.test", &[address]);
        eventually(format!("{address} serves"), async || {
            get(prusik.public(), "/").await.text() == address.to_string()
        })
        .await;
    }
    let took = since.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_a_reload_that_waits_for_a_name() {
    let Some(dns) = dns().await else { return };
    let origin = Origin::chat().await;
    dns.silence("silent.test");
    let mut prusik = dns.prusik(servers(origin.address())).await;
    prusik.write_config(servers("silent.test:80"));
    let since = Instant::now();
    prusik.signal("HUP");
    eventually("the name is looked up", async || {
        dns.has_been_asked("silent.test")
    })
    .await;
    assert_eq!(status_of(prusik.public(), "/").await, 200);
    prusik.signal("TERM");
    assert_eq!(prusik.exit_code().await, Some(0));
    let took = since.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_waits_for_a_name_ends_at_once_when_it_is_told_to_stop() {
    let Some(dns) = dns().await else { return };
    for signal in ["TERM", "INT"] {
        let name = format!("silent-{}.test", signal.to_lowercase());
        dns.silence(&name);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = servers(format!("{name}:80"));
        let pid_file = "server: { pid_file: prusik.pid }";
        let config = config.replace("server: { drain: { window: 0s } }", pid_file);
        let mut child = dns.start(config, folder.path());
        eventually("the name is looked up", async || dns.has_been_asked(&name)).await;
        assert!(folder.path().join("prusik.pid").exists());
        let since = Instant::now();
        support::signal(child.id(), signal);
        let mut status = None;
        eventually("it ends", async || {
            status = child.try_wait().expect("a child can be asked");
            status.is_some()
        })
        .await;
        assert!(
            since.elapsed() < Duration::from_secs(3),
            "{:?}",
            since.elapsed()
        );
        assert_eq!(status.and_then(|status| status.code()), Some(0));
        assert!(!folder.path().join("prusik.pid").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_whose_file_has_a_name_that_is_not_known_yet_removes_nobody() {
    let Some(dns) = dns().await else { return };
    let origin = Origin::chat().await;
    let mut prusik = dns.prusik(servers(origin.address())).await;
    let mut session = Session::open(prusik.public(), "/").await;
    prusik.write_config(servers(format!("late.test:{}", origin.address().port())));
    prusik.upgrade().await;
    prusik.wait_stderr("could not be resolved yet").await;
    assert!(session.is_alive().await);
    assert_eq!(status_of(prusik.public(), "/").await, 200);
}
