//! Upgraded sessions: what they carry, what ends them, and what the log says of them.

use std::time::{Duration, Instant};

use crate::support::{
    Answer, Client, Config, Ended, Frame, Origin, Prusik, RawSession, Session, client_frame,
    eventually, handshake,
};
use futures_util::future::join_all;

#[tokio::test]
async fn a_quiet_session_ends_after_idle() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin]).route("websocket: { idle: 1s }")).await;
    let opened = Instant::now();
    let mut session = Session::open(prusik.public(), "/").await;
    assert_eq!(session.ended().await, Ended::Close(1001));
    assert!(opened.elapsed() >= Duration::from_secs(1));
    assert_eq!(prusik.session_close().await["closed_by"], "idle");
    // That is how it should be: nobody needs to be warned.
    let stderr = prusik.stderr();
    assert!(
        !stderr.contains("WARN") && !stderr.contains("ERROR"),
        "{stderr}"
    );
    assert_eq!(prusik.access_log().len(), 2);
    eventually("the server has no session", async || origin.sessions() == 0).await;
}

#[tokio::test]
async fn a_talking_session_outlives_idle() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin]).route("websocket: { idle: 2s }")).await;
    let mut session = Session::open(prusik.public(), "/").await;
    let mut ticks = tokio::time::interval(Duration::from_millis(250));
    for _ in 0..20 {
        ticks.tick().await;
        assert_eq!(session.ask("still here").await, "still here");
    }
    assert!(session.is_alive().await);
}

/// Idle is quiet in both directions: a client may listen for as long as the server talks.
#[tokio::test]
async fn a_session_in_which_only_the_server_talks_outlives_idle() {
    let tick = Frame::text("tick").unmasked();
    let origin = Origin::start(move |request| {
        (0..15).fold(Answer::upgrade(request), |answer, _| {
            answer.wait(Duration::from_millis(200)).send(&tick)
        })
    })
    .await;
    let prusik = Prusik::start(Config::to(&[&origin]).route("websocket: { idle: 1s }")).await;
    let mut session = Session::open(prusik.public(), "/").await;
    for _ in 0..15 {
        assert_eq!(session.hear().await, "tick");
    }
    assert!(session.is_alive().await);
}

#[tokio::test]
async fn the_timeouts_of_requests_do_not_cut_a_quiet_session() {
    let origin = Origin::chat().await;
    let config = Config::to(&[&origin])
        .route("timeouts: { connect: 1s, response: 1s, idle: 1s }")
        .route("websocket: { idle: 20s }");
    let prusik = Prusik::start(config).await;
    let mut session = Session::open(prusik.public(), "/").await;
    // Longer than each of the timeouts: the silence is what is tested.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(session.is_alive().await);
}

#[tokio::test]
async fn a_session_ends_at_max_session_however_busy_it_is() {
    let origin = Origin::chat().await;
    let limit = "websocket: { max_session: 1s }";
    let prusik = Prusik::start(Config::to(&[&origin]).route(limit)).await;
    let opened = Instant::now();
    let mut session = Session::open(prusik.public(), "/").await;
    while session.is_alive().await {}
    // Jitter makes it up to a tenth shorter.
    assert!(opened.elapsed() >= Duration::from_millis(900));
    let close = prusik.session_close().await;
    assert_eq!(close["closed_by"], "max_session");
    assert_eq!(close["close_code"], 1001);
}

#[tokio::test]
async fn the_log_tells_of_a_session_when_it_opens_and_when_its_client_closes_it() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin]).route("name: chat")).await;
    let mut session = Session::open(prusik.public(), "/chat?room=1").await;
    let open = prusik.wait_log("session_open", |_| true).await;
    assert_eq!(open["kind"], "session_open");
    assert_eq!(open["status"], 101);
    assert!(open["handshake_ms"].is_number(), "{open}");

    for text in ["one", "two", "three"] {
        session.ask(text).await;
    }
    assert_eq!(session.close(4001).await, Ended::Close(4001));
    let close = prusik.session_close().await;
    for (field, value) in [
        ("listener", "public"),
        ("route", "chat"),
        ("upstream", "backend"),
        ("server", &origin.address().to_string()),
        ("client", "127.0.0.1"),
        ("method", "GET"),
        ("path", "/chat?room=1"),
        ("closed_by", "client"),
    ] {
        assert_eq!(close[field], value, "{field} in {close}");
    }
    assert_eq!(close["id"], open["id"]);
    assert_eq!(close["close_code"], 4001);
    assert_eq!(close["attempts"], 1);
    // 11 bytes of text in frames with headers of 2 bytes, masks of 4 from the client, and a
    // Close with its code in each direction.
    assert_eq!(
        (&close["messages_in"], &close["messages_out"]),
        (&3.into(), &3.into())
    );
    let bytes_out = close["bytes_out"].as_u64().unwrap();
    assert_eq!(close["bytes_in"], 11 + 3 * 6 + 8);
    // The server's Close may or may not be counted: it is the answer to the client's.
    assert!(
        (11 + 3 * 2..=11 + 3 * 2 + 4).contains(&bytes_out),
        "{close}"
    );
    assert!(close["duration_ms"].as_f64() > Some(0.0), "{close}");
    assert_eq!(prusik.access_log().len(), 2, "no other line for it");
}

#[tokio::test]
async fn the_log_names_a_server_that_closes() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let mut session = Session::open(prusik.public(), "/").await;
    session.say("close 4002").await;
    assert_eq!(session.ended().await, Ended::Close(4002));
    let close = prusik.session_close().await;
    assert_eq!(close["closed_by"], "server");
    assert_eq!(close["close_code"], 4002);
}

#[tokio::test]
async fn the_log_names_a_server_that_dies() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let mut session = Session::open(prusik.public(), "/").await;
    origin.kill().await;
    assert_eq!(session.ended().await, Ended::Cut);
    let close = prusik.session_close().await;
    assert_eq!(close["closed_by"], "server");
    assert!(close["close_code"].is_null(), "{close}");
}

#[tokio::test]
async fn the_log_names_a_client_that_vanishes() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let mut session = Session::open(prusik.public(), "/").await;
    session.ask("hello").await;
    drop(session);
    let close = prusik.session_close().await;
    assert_eq!(close["closed_by"], "client");
    assert!(close["close_code"].is_null(), "{close}");
    eventually("the server has no session", async || origin.sessions() == 0).await;
}

#[tokio::test]
async fn large_messages_pass_both_ways_unchanged() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let mut session = Session::open(prusik.public(), "/").await;
    for size in [0, 125, 126, 65_535, 65_536, 1 << 20, 8 << 20] {
        let text = "0123456789abcdef".repeat(size / 16 + 1)[..size].to_owned();
        assert!(session.ask(&text).await == text, "{size} bytes");
    }
}

#[tokio::test]
async fn pings_and_pongs_pass_as_they_are() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let mut session = RawSession::open(prusik.public(), handshake("/")).await;
    session.send(client_frame(9, b"are you there")).await;
    let pong = Frame {
        opcode: 10,
        payload: b"are you there".to_vec(),
    };
    assert_eq!(session.frame().await, pong);
}

#[tokio::test]
async fn frames_cut_anywhere_arrive_whole() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let mut session = RawSession::open(prusik.public(), handshake("/")).await;
    let frame = client_frame(1, "cut me anywhere".as_bytes());
    for cut in 1..frame.len() {
        let (start, end) = frame.split_at(cut);
        session.send(start).await;
        session.send(end).await;
        assert_eq!(session.frame().await, Frame::text("cut me anywhere"));
    }
}

#[tokio::test]
async fn two_hundred_sessions_talk_at_once_and_leave_nothing_behind() {
    let origins = [Origin::chat().await, Origin::chat().await];
    let prusik = Prusik::start(Config::to(&[&origins[0], &origins[1]])).await;
    // What the first sessions make it open for good is no leak.
    for _ in 0..4 {
        Session::open(prusik.public(), "/").await.close(1000).await;
    }
    eventually("the first sessions are gone", async || {
        origins.iter().all(|origin| origin.open() == 0)
    })
    .await;
    let before = prusik.fds();
    let address = prusik.public();
    let sessions = join_all((0..200).map(|_| Session::open(address, "/"))).await;
    eventually("the servers have 200 sessions", async || {
        origins.iter().map(Origin::sessions).sum::<usize>() == 200
    })
    .await;
    join_all(sessions.into_iter().enumerate().map(
        async |(number, mut session): (usize, Session)| {
            for round in 0..5 {
                let text = format!("session {number}, round {round}");
                assert_eq!(session.ask(&text).await, text);
            }
            assert_eq!(session.close(1000).await, Ended::Close(1000));
        },
    ))
    .await;
    eventually("every descriptor is closed", async || {
        prusik.fds() <= before
    })
    .await;
}

#[tokio::test]
async fn a_client_that_stops_reading_does_not_make_prusik_hoard() {
    // 64 MiB in frames of a MiB, for a client that takes none of them.
    let mut frame = vec![0x82, 127];
    frame.extend_from_slice(&(1_u64 << 20).to_be_bytes());
    frame.resize(frame.len() + (1 << 20), 7);
    let flood = frame.repeat(64);
    let origin = Origin::start(move |request| Answer::upgrade(request).send(&flood)).await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let before = prusik.rss_kib();
    let mut client = Client::connect(prusik.public()).await;
    client.send(handshake("/")).await;
    let head = client.head().await;
    // Time for whatever would be hoarded to be hoarded: there is no event to wait for.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let hoarded = prusik.peak_rss_kib().saturating_sub(before);
    assert!(hoarded < 16 * 1024, "{hoarded} KiB");
    let mut session = RawSession { head, client };
    for _ in 0..64 {
        assert_eq!(session.frame().await.payload.len(), 1 << 20);
    }
    session.send(client_frame(1, b"all of it")).await;
    assert_eq!(session.frame().await, Frame::text("all of it"));
}
