//! Active checks: what takes a server out, and what brings it back.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use crate::support;
use crate::support::{Answer, Client, Config, Origin, Outcome, Prusik, eventually, get, listen};

/// An origin whose health the test decides; everything but the check is answered with 200.
async fn switchable(healthy: Answer, sick: Answer) -> (Origin, Arc<AtomicBool>) {
    let is_well = Arc::new(AtomicBool::new(true));
    let switch = is_well.clone();
    let origin = Origin::start(
        move |request| match (request.target(), switch.load(SeqCst)) {
            ("/healthz", true) => match request.field("upgrade") {
                Some(_) => Answer::upgrade(request),
                None => healthy.clone(),
            },
            ("/healthz", false) => match request.field("upgrade") {
                // The handshake works, but nobody is behind it.
                Some(_) => Answer::upgrade(request).hang(),
                None => sick.clone(),
            },
            _ => Answer::text("switchable"),
        },
    )
    .await;
    (origin, is_well)
}

/// Takes the server out by the switch and brings it back, twice.
async fn check_follows_the_switch(check: &str, healthy: Answer, sick: Answer) {
    let (origin, is_well) = switchable(healthy, sick).await;
    let other = Origin::start(|_| Answer::text("other")).await;
    let config = Config::to(&[&origin, &other]).upstream(format!(
        "health_check: {{ {check}, interval: 100ms, timeout: 500ms, rise: 2, fall: 2 }}"
    ));
    let prusik = Prusik::start(config).await;
    let serves = async || {
        let mut served = false;
        for _ in 0..4 {
            served |= get(prusik.public(), "/").await.text() == "switchable";
        }
        served
    };
    for _ in 0..2 {
        eventually("it serves", async || serves().await).await;
        is_well.store(false, SeqCst);
        eventually("it is out", async || !serves().await).await;
        is_well.store(true, SeqCst);
    }
    let down = prusik.stderr().matches("is down").count();
    assert!(down >= 2, "{}", prusik.stderr());
    assert!(prusik.stderr().contains("is up again"));
}

#[tokio::test]
async fn an_http_check_goes_by_the_status() {
    let sick = Answer::status(503, &[], "not now");
    check_follows_the_switch("type: http, path: /healthz", Answer::text("fine"), sick).await;
}

#[tokio::test]
async fn an_http_check_takes_the_statuses_that_it_expects() {
    check_follows_the_switch(
        "type: http, path: /healthz, expect: [204, 500-502]",
        Answer::status(501, &[], "as it should be"),
        Answer::text("200 is not what was asked for"),
    )
    .await;
}

#[tokio::test]
async fn an_http_check_has_one_timeout_for_all_of_it() {
    let slow = (0..100).fold(Answer::raw("HTTP/1.1 200 OK\r\n"), |answer, number| {
        answer
            .wait(std::time::Duration::from_millis(100))
            .send(format!("X-Slow-{number}: 1\r\n"))
    });
    check_follows_the_switch("type: http, path: /healthz", Answer::text("fine"), slow).await;
}

#[tokio::test]
async fn an_interim_answer_before_a_check_s_answer_is_no_failure() {
    let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n";
    let sick = Answer::raw(interim).followed_by(Answer::status(503, &[], "not now"));
    let well = Answer::raw(interim).followed_by(Answer::text("fine"));
    check_follows_the_switch("type: http, path: /healthz", well, sick).await;
}

#[tokio::test]
async fn an_interim_answer_alone_is_no_answer() {
    let interim = Answer::raw("HTTP/1.1 102 Processing\r\n\r\n").hang();
    let check = "type: http, path: /healthz, expect: [100-299]";
    check_follows_the_switch(check, Answer::text("fine"), interim).await;
}

#[tokio::test]
async fn an_interim_answer_before_the_101_is_no_failure() {
    let origin = Origin::start(|request| {
        Answer::raw("HTTP/1.1 103 Early Hints\r\n\r\n").followed_by(Answer::upgrade(request))
    })
    .await;
    let check = "health_check: { type: websocket, path: /, interval: 100ms, fall: 1 }";
    let prusik = Prusik::start(Config::to(&[&origin]).upstream(check)).await;
    eventually("it is checked thrice", async || {
        origin.received().len() >= 3
    })
    .await;
    assert!(!prusik.stderr().contains("is down"), "{}", prusik.stderr());
}

#[tokio::test]
async fn a_server_s_body_after_the_head_is_no_part_of_the_check() {
    // A stream of events, say: its end never comes.
    let endless = Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbegun").hang();
    let sick = Answer::status(503, &[], "not now");
    check_follows_the_switch("type: http, path: /healthz", endless, sick).await;
}

#[tokio::test]
async fn a_websocket_check_wants_a_pong() {
    let never = Answer::text("not asked without an upgrade");
    check_follows_the_switch("type: websocket, path: /healthz", never.clone(), never).await;
}

#[tokio::test]
async fn a_tcp_check_follows_the_listener() {
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let check = "health_check: { type: tcp, interval: 100ms, rise: 2, fall: 2 }";
    let prusik = Prusik::start(Config::to(&[&origin]).upstream(check)).await;
    for _ in 0..2 {
        eventually("it serves", async || {
            get(prusik.public(), "/").await.status() == 200
        })
        .await;
        origin.kill().await;
        eventually("it is out", async || {
            get(prusik.public(), "/").await.status() == 503
        })
        .await;
        origin.restart().await;
    }
}

#[tokio::test]
async fn a_check_asks_for_the_host_and_path_that_are_configured() {
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let check = "health_check: { type: http, path: \"/are/you?ok=1\", host: chat.internal, \
                 interval: 100ms }";
    let _prusik = Prusik::start(Config::to(&[&origin]).upstream(check)).await;
    eventually("it is checked twice", async || origin.received().len() >= 2).await;
    let request = &origin.received()[0];
    assert_eq!(request.first_line(), "GET /are/you?ok=1 HTTP/1.1");
    assert_eq!(request.field("host"), Some("chat.internal"));
}

#[tokio::test]
async fn a_server_that_fails_its_very_first_check_is_out_at_once() {
    let living = Origin::start(|_| Answer::text("hello")).await;
    let dead = support::free_address();
    let check = "health_check: { interval: 60s, rise: 2, fall: 3 }";
    let prusik = Prusik::start(Config::to(&[&living]).server(dead).upstream(check)).await;
    prusik.wait_stderr(&format!("{dead} is down")).await;
    for _ in 0..4 {
        get(prusik.public(), "/checked").await;
    }
    eventually("four requests are in the log", async || {
        prusik.access_log().len() == 4
    })
    .await;
    for entry in prusik.access_log() {
        assert_eq!(entry["attempts"], 1, "{entry}");
    }
}

/// How many of forty requests the server got whose answer is `back`.
async fn share(prusik: &Prusik) -> usize {
    let mut share = 0;
    for _ in 0..40 {
        share += usize::from(get(prusik.public(), "/").await.text() == "back");
    }
    share
}

#[tokio::test]
async fn a_server_that_comes_back_warms_up() {
    let origin = Origin::start(|_| Answer::text("back")).await;
    let other = Origin::start(|_| Answer::text("other")).await;
    let config = Config::to(&[&origin, &other])
        .upstream("health_check: { interval: 100ms, rise: 1, fall: 1 }")
        .upstream("slow_start: 10m");
    let prusik = Prusik::start(config).await;
    // From the start all are equal: it is not as if they all had come back.
    assert_eq!(share(&prusik).await, 20);
    origin.kill().await;
    prusik.wait_stderr("is down").await;
    origin.restart().await;
    prusik.wait_stderr("is up again").await;
    let share = share(&prusik).await;
    assert!((1..10).contains(&share), "{share} of 40");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_put_back_warms_up_too() {
    let origin = Origin::start(|_| Answer::text("back")).await;
    let other = Origin::start(|_| Answer::text("other")).await;
    let config = Config::to(&[&origin, &other])
        .upstream("slow_start: 10m")
        .top("admin: { listen: \"127.0.0.1:0\" }");
    let prusik = Prusik::start(config).await;
    // Enabled as it is, it loses nothing.
    let name = format!("backend/{}", origin.address());
    prusik.order(&["enable", &name]).await;
    assert_eq!(share(&prusik).await, 20);
    prusik.order(&["drain", &name]).await;
    assert_eq!(share(&prusik).await, 0);
    prusik.order(&["enable", &name]).await;
    let share = share(&prusik).await;
    assert!((1..10).contains(&share), "{share} of 40");
}

#[tokio::test]
async fn checks_go_to_the_port_that_is_named() {
    for kind in ["tcp", "http", "websocket"] {
        let server = Origin::start(|_| Answer::text("served")).await;
        // At the server's address, on a port of its own.
        let beside = match server.address().ip() {
            IpAddr::V4(ip) => support::free_port_on(ip),
            IpAddr::V6(_) => unreachable!("origins are on 127.0.0.0/8"),
        };
        let check = Origin::start_on(beside, |request| match request.field("upgrade") {
            Some(_) => Answer::upgrade(request),
            None => Answer::text("checked"),
        })
        .await;
        let port = beside.port();
        let keys = format!(
            "health_check: {{ type: {kind}, port: {port}, interval: 100ms, rise: 1, fall: 1 }}"
        );
        let prusik = Prusik::start(Config::to(&[&server]).upstream(keys)).await;
        eventually("it is checked there", async || check.connections() >= 3).await;
        assert_eq!(get(prusik.public(), "/").await.text(), "served");
        let asked = server.received();
        assert!(
            asked.iter().all(|request| request.target() == "/"),
            "{kind}: {asked:?}"
        );
        assert_eq!(server.connections(), 1, "{kind}: only the request's");
        for request in check.received() {
            assert_eq!(request.field("host"), Some(beside.to_string().as_str()));
        }
        // What is checked decides about the server, which is called by its own address.
        check.kill().await;
        let down = format!("{} is down", server.address());
        prusik.wait_stderr(&down).await;
        assert_eq!(get(prusik.public(), "/").await.status(), 503);
        check.restart().await;
        let up = format!("{} is up again", server.address());
        prusik.wait_stderr(&up).await;
        assert_eq!(get(prusik.public(), "/").await.text(), "served");
    }
}

/// A server whose first check is answered when the test says so.
async fn undecided(text: &'static str) -> (Origin, Arc<AtomicBool>) {
    let decided = Arc::new(AtomicBool::new(false));
    let switch = decided.clone();
    let origin = Origin::start(move |request| match request.target() {
        "/healthz" if !switch.load(SeqCst) => Answer::silence(),
        _ => Answer::text(text),
    })
    .await;
    (origin, decided)
}

/// What `prusik status` calls the server.
async fn state_of(prusik: &Prusik, server: &Origin) -> String {
    let status = prusik.status().await;
    let servers = status["upstreams"][0]["servers"].as_array().cloned();
    let address = server.address().to_string();
    let found = servers
        .into_iter()
        .flatten()
        .find(|entry| entry["address"] == *address);
    let state = found.and_then(|entry| Some(entry["state"].as_str()?.to_owned()));
    state.unwrap_or_else(|| panic!("no state of {address} in {status}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_start_down_a_server_gets_nothing_until_its_first_check_has_passed() {
    let ready = Origin::start(|_| Answer::text("ready")).await;
    let (starting, decided) = undecided("starting").await;
    let config = |start: &str| {
        // The second check, which is answered, comes when the first has had a whole second.
        let check = format!(
            "health_check: {{ type: http, path: /healthz, interval: 1s, timeout: 1s, {start} }}"
        );
        Config::to(&[&ready, &starting])
            .upstream(check)
            .top("admin: { listen: \"127.0.0.1:0\" }")
    };
    let prusik = Prusik::start(config("start: down")).await;
    eventually("the other one is up", async || {
        state_of(&prusik, &ready).await == "up"
    })
    .await;
    for _ in 0..8 {
        assert_eq!(get(prusik.public(), "/").await.text(), "ready");
    }
    prusik
        .wait_stderr(&format!("{} is down", starting.address()))
        .await;
    for _ in 0..4 {
        assert_eq!(get(prusik.public(), "/").await.text(), "ready");
    }
    decided.store(true, SeqCst);
    eventually("it serves", async || {
        get(prusik.public(), "/").await.text() == "starting"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_held_back_is_called_unchecked_and_alone_it_is_a_503() {
    let (origin, _undecided) = undecided("hello").await;
    let config = |start: &str| {
        let check = format!(
            "health_check: {{ type: http, path: /healthz, interval: 1h, timeout: 10m{start} }}"
        );
        Config::to(&[&origin])
            .upstream(check)
            .top("admin: { listen: \"127.0.0.1:0\" }")
    };
    let prusik = Prusik::start(config(", start: down")).await;
    assert_eq!(get(prusik.public(), "/").await.status(), 503);
    assert_eq!(state_of(&prusik, &origin).await, "unchecked");
    let mut admin = Client::connect(prusik.admin()).await;
    let ask = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let scrape = admin.ask(ask).await.text();
    let address = origin.address();
    let up = format!("prusik_server_up{{upstream=\"backend\",server=\"{address}\"}} 0");
    assert!(scrape.contains(&up), "{up} is not in {scrape}");
    // Where it counts as up it is called so too, and serves.
    for start in [", start: up", ""] {
        assert_eq!(prusik.reload_with(config(start)).await, Outcome::Done);
        assert_eq!(get(prusik.public(), "/").await.text(), "hello");
        assert_eq!(state_of(&prusik, &origin).await, "unchecked");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_known_before_an_upgrade_or_a_reload_is_no_reason_to_hold_a_server_back() {
    let (origin, is_well) = switchable(Answer::text("fine"), Answer::silence()).await;
    let config = |attempts: u32| {
        Config::to(&[&origin])
            .upstream("health_check: { type: http, path: /healthz, interval: 1h, timeout: 1s, start: down }")
            .upstream(format!("attempts: {attempts}"))
            .top("admin: { listen: \"127.0.0.1:0\" }")
    };
    let mut prusik = Prusik::start(config(1)).await;
    eventually("it serves", async || {
        get(prusik.public(), "/").await.status() == 200
    })
    .await;
    // From now on no check has a result.
    is_well.store(false, SeqCst);
    assert_eq!(prusik.reload_with(config(2)).await, Outcome::Done);
    assert_eq!(get(prusik.public(), "/").await.status(), 200);
    prusik.upgrade().await;
    assert_eq!(get(prusik.public(), "/").await.status(), 200);
    assert_eq!(state_of(&prusik, &origin).await, "up");
}

/// A server that takes connections and never says a word.
fn silent() -> (tokio::net::TcpListener, SocketAddr) {
    let listener = listen();
    let address = listener.local_addr().expect("it is bound");
    (listener, address)
}

#[tokio::test]
async fn a_server_s_checks_do_not_wait_for_those_of_another() {
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let (_silent, silent) = silent();
    let check = "health_check: { type: http, path: /, interval: 100ms, timeout: 10m, fall: 3 }";
    let prusik = Prusik::start(Config::to(&[&origin]).server(silent).upstream(check)).await;
    eventually("it is checked five times", async || {
        origin.received().len() >= 5
    })
    .await;
    origin.kill().await;
    let down = format!("{} is down", origin.address());
    prusik.wait_stderr(&down).await;
    origin.restart().await;
    let up = format!("{} is up again", origin.address());
    prusik.wait_stderr(&up).await;
    // All of this while the very first check of the other was still waited for.
    let silent_is_out = format!("{silent} is down");
    assert!(
        !prusik.stderr().contains(&silent_is_out),
        "{}",
        prusik.stderr()
    );
}

#[tokio::test]
async fn new_servers_are_checked_at_once_and_those_that_left_no_more() {
    let old = Origin::start(|_| Answer::text("old")).await;
    let stays = Origin::start(|_| Answer::text("stays")).await;
    let dead = support::free_address();
    let check = "health_check: { type: http, path: /, interval: 100ms, fall: 1 }";
    let prusik = Prusik::start(Config::to(&[&old, &stays]).upstream(check)).await;
    eventually("both are checked", async || {
        old.received().len() >= 2 && stays.received().len() >= 2
    })
    .await;
    // With checks so rare that only the first one can be what finds it.
    let rare = "health_check: { type: http, path: /, interval: 1h, fall: 1 }";
    let next = Config::to(&[&stays]).server(dead).upstream(rare);
    assert_eq!(prusik.reload_with(next).await, Outcome::Done);
    prusik.wait_stderr(&format!("{dead} is down")).await;
    let often = Config::to(&[&stays]).upstream(check);
    assert_eq!(prusik.reload_with(often).await, Outcome::Done);
    let others = async |times: usize| {
        let before = stays.received().len();
        eventually(
            format!("the other one is checked {times} times more"),
            async || stays.received().len() >= before + times,
        )
        .await;
    };
    // One that was under way may still arrive.
    others(2).await;
    let left = old.received().len();
    others(10).await;
    assert_eq!(old.received().len(), left);
}

#[tokio::test]
async fn a_reload_that_leaves_an_upstream_alone_leaves_its_checks_alone() {
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let other = Origin::start(|_| Answer::text("other")).await;
    let file = |keys: &str| {
        let check = "health_check: { type: http, path: /check, interval: 1h }";
        format!(
            "listeners: [{{ listen: \"127.0.0.1:0\", name: public }}]\nupstreams:\n  \
             one: {{ servers: [\"{}\"], {check} }}\n  \
             two: {{ servers: [\"{}\"], {check}, {keys} }}\nroutes:\n  \
             - {{ match: {{ path_prefix: /two }}, upstream: two }}\n  - upstream: one\n",
            origin.address(),
            other.address()
        )
    };
    let prusik = Prusik::start(file("attempts: 2")).await;
    let checked = |origin: &Origin, times: usize| origin.received().len() == times;
    eventually("both are checked", async || {
        checked(&origin, 1) && checked(&other, 1)
    })
    .await;
    assert_eq!(prusik.reload_with(file("attempts: 3")).await, Outcome::Done);
    eventually("the one that changed is checked again", async || {
        checked(&other, 2)
    })
    .await;
    assert!(checked(&origin, 1));
}

#[tokio::test]
async fn many_servers_have_their_first_check_at_the_same_time() {
    // Fifty that do not answer: one after the other they would take a hundred seconds.
    let silent: Vec<_> = (0..50).map(|_| silent()).collect();
    let config = silent
        .iter()
        .fold(Config::default(), |config, (_, address)| {
            config.server(address)
        });
    let check = "health_check: { type: http, path: /, interval: 1h, timeout: 2s }";
    let prusik = Prusik::start(config.upstream(check)).await;
    eventually("all of them are down", async || {
        let said = prusik.stderr();
        silent
            .iter()
            .all(|(_, address)| said.contains(&format!("{address} is down")))
    })
    .await;
}
