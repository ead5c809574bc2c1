//! `HUP`: everything of the file at once, or nothing; nobody notices.

mod support;

use std::time::Duration;

use support::{
    Answer, Client, Config, Frame, Origin, Outcome, Prusik, RawSession, Session, client_frame,
    eventually, get, handshake, status_of,
};

#[tokio::test]
async fn routes_come_and_go_while_a_session_and_a_request_go_on() {
    let origin = Origin::start(|request| match request.target() {
        "/slow" => Answer::text("slow").after(Duration::from_secs(1)),
        _ if request.field("upgrade").is_some() => Answer::upgrade(request),
        _ => Answer::text("hello"),
    })
    .await;
    // The session's own route is gone too: it is told so, but not within the test.
    let old = Config::to(&[&origin]).first("{ match: { path: /old }, respond: { status: 201 } }");
    let prusik = Prusik::start(old).await;
    assert_eq!(status_of(prusik.public(), "/old").await, 201);
    let mut session = RawSession::open(prusik.public(), handshake("/chat")).await;
    let mut slow = Client::connect(prusik.public()).await;
    slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("the server has the slow request", async || {
        origin.received().len() == 2
    })
    .await;

    // Not even the upstream is left.
    let new = "server: { drain: { window: 1h, deadline: 1h } }\n\
               listeners: [{ listen: 127.0.0.1:0, name: public }]\n\
               routes: [{ match: { path: /new }, respond: { status: 202 } }]\n";
    assert_eq!(prusik.reload_with(new).await, Outcome::Done);
    assert_eq!(status_of(prusik.public(), "/old").await, 404);
    assert_eq!(status_of(prusik.public(), "/new").await, 202);
    assert_eq!(slow.response().await.text(), "slow");
    session.send(client_frame(1, b"still here")).await;
    assert_eq!(session.frame().await, Frame::text("still here"));
}

#[tokio::test]
async fn a_kept_connection_gets_the_new_rules() {
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let with = |value: &str| {
        Config::to(&[&origin]).route(format!(
            "headers: {{ response: {{ set: {{ X-Version: {value} }} }} }}"
        ))
    };
    let prusik = Prusik::start(with("one")).await;
    let mut client = Client::connect(prusik.public()).await;
    assert_eq!(client.get("/").await.field("x-version"), Some("one"));
    assert_eq!(prusik.reload_with(with("two")).await, Outcome::Done);
    assert_eq!(client.get("/").await.field("x-version"), Some("two"));
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_says_everything_that_is_wrong() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let mut session = Session::open(prusik.public(), "/").await;
    let bad = "listeners: [{ listen: 127.0.0.1:0, name: public }]
upstreams:
  backend: { servers: [127.0.0.1:1], atempts: 3 }
routes:
  - upstream: bakend
    timeouts: { idle: soon }
";
    let Outcome::Refused(said) = prusik.reload_with(bad).await else {
        panic!("a bad file was taken: {}", prusik.stderr());
    };
    for error in [
        "prusik.yaml:3:38: ",
        "atempts",
        "prusik.yaml:5:15: ",
        "\"bakend\"",
        "did you mean \"backend\"?",
        "prusik.yaml:6:23: ",
    ] {
        assert!(said.contains(error), "no {error:?} in {said}");
    }
    assert_eq!(status_of(prusik.public(), "/").await, 200);
    assert!(session.is_alive().await);
    let good = Config::to(&[&origin]);
    assert_eq!(prusik.reload_with(good).await, Outcome::Done);
}

#[tokio::test]
async fn a_file_that_is_gone_changes_nothing() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    std::fs::remove_file(prusik.folder().join("prusik.yaml")).unwrap();
    assert!(matches!(prusik.reload().await, Outcome::Refused(_)));
    assert_eq!(status_of(prusik.public(), "/").await, 200);
}

#[tokio::test]
async fn what_only_a_new_process_can_take_is_refused() {
    let origin = Origin::chat().await;
    let config = Config::to(&[&origin]);
    let prusik = Prusik::start(&config).await;
    let moved = config.to_string().replace("127.0.0.1:0", "127.0.0.1:1");
    let more = format!("{config}\nserver: {{ threads: 7 }}\n");
    let second = config
        .to_string()
        .replace("name: public }", "name: public }, { listen: 127.0.0.2:0 }");
    for (yaml, about) in [(moved, "listen"), (more, "threads"), (second, "listen")] {
        match prusik.reload_with(yaml).await {
            Outcome::Refused(said) => assert!(said.contains(about), "{said}"),
            Outcome::Done => panic!("{about} was changed"),
        }
        assert_eq!(status_of(prusik.public(), "/").await, 200);
    }
}

#[tokio::test]
async fn the_sessions_of_servers_that_stay_are_still_counted() {
    let origin = Origin::chat().await;
    let with = |line: &str| {
        Config::default()
            .server(format!(
                "{{ address: \"{}\", max_sessions: 1 }}",
                origin.address()
            ))
            .upstream(line)
    };
    let prusik = Prusik::start(with("attempts: 1")).await;
    let session = Session::open(prusik.public(), "/").await;
    assert_eq!(prusik.reload_with(with("attempts: 2")).await, Outcome::Done);
    let mut client = Client::connect(prusik.public()).await;
    assert_eq!(client.ask(handshake("/")).await.status(), 503);
    drop(session);
    eventually("there is room again", async || {
        Session::try_open(prusik.public(), "/").await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn the_health_of_servers_that_stay_is_still_known() {
    let origin = Origin::chat().await;
    let dead = support::free_address();
    let with = |line: &str| {
        Config::to(&[&origin])
            .server(dead)
            .upstream("health_check: { interval: 30s, rise: 1, fall: 1 }")
            .upstream(line)
    };
    let prusik = Prusik::start(with("attempts: 3")).await;
    prusik.wait_stderr("is down").await;
    assert_eq!(prusik.reload_with(with("attempts: 2")).await, Outcome::Done);
    for _ in 0..6 {
        assert_eq!(status_of(prusik.public(), "/").await, 200);
    }
    eventually("six requests are in the log", async || {
        prusik.access_log().len() == 6
    })
    .await;
    for entry in prusik.access_log() {
        assert_eq!(entry["attempts"], 1, "{entry}");
    }
}

#[tokio::test]
async fn a_server_that_was_added_gets_its_share_and_one_that_left_gets_none() {
    let [a, b] = [Origin::chat().await, Origin::chat().await];
    let prusik = Prusik::start(Config::to(&[&a])).await;
    assert_eq!(status_of(prusik.public(), "/").await, 200);
    let share_of_b = async || {
        let mut share = 0;
        for _ in 0..6 {
            let page = get(prusik.public(), "/").await.text();
            share += usize::from(page == b.address().to_string());
        }
        share
    };
    assert_eq!(
        prusik.reload_with(Config::to(&[&a, &b])).await,
        Outcome::Done
    );
    assert_eq!(share_of_b().await, 3);
    assert_eq!(prusik.reload_with(Config::to(&[&b])).await, Outcome::Done);
    assert_eq!(share_of_b().await, 6);
}

#[tokio::test]
async fn reloads_under_traffic_cost_nothing() {
    let origins = [Origin::chat().await, Origin::chat().await];
    let with = |number: usize| {
        Config::to(&[&origins[0], &origins[1]])
            .upstream(format!("attempts: {}", number % 3 + 1))
            .upstream("health_check: { interval: 100ms }")
    };
    let prusik = Prusik::start(with(0)).await;
    let address = prusik.public();
    let mut session = Session::open(address, "/").await;
    prusik.reload_with(with(1)).await;
    let before = prusik.fds();
    let reloads = async {
        for number in 0..30 {
            assert_eq!(prusik.reload_with(with(number)).await, Outcome::Done);
        }
    };
    let traffic = async {
        let mut client = Client::connect(address).await;
        loop {
            assert_eq!(client.get("/").await.status(), 200);
            assert_eq!(status_of(address, "/").await, 200);
            assert!(session.is_alive().await);
            let mut new = Session::open(address, "/").await;
            assert!(new.is_alive().await);
        }
    };
    tokio::select! {
        () = reloads => {}
        () = traffic => {}
    }
    eventually("the old configurations leave nothing open", async || {
        prusik.fds() <= before + 8
    })
    .await;
}
