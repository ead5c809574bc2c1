//! The relay: what passes, what is put in, and what ends a session.

use std::time::{Duration, Instant};

use crate::support::{
    Answer, Client, Config, Ended, Frame, Origin, Prusik, RawSession, Session, client_frame,
    eventually, handshake,
};
use rand::{Rng, SeedableRng};

const ADMIN: &str = "admin: { listen: \"127.0.0.1:0\" }";

#[tokio::test]
async fn what_a_server_says_after_its_client_has_finished_arrives() {
    let late = Frame::text("late").unmasked();
    let origin = Origin::start(move |request| {
        Answer::upgrade(request)
            .wait(Duration::from_millis(1200))
            .send(&late)
            .close()
    })
    .await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let mut session = RawSession::open(prusik.public(), handshake("/")).await;
    session
        .client
        .wire
        .finish()
        .await
        .expect("the connection is there");
    assert_eq!(session.frame().await, Frame::text("late"));
    session.client.expect_end().await;
    assert_eq!(prusik.session_close().await["closed_by"], "client");
}

#[tokio::test]
async fn a_session_whose_server_has_finished_ends_though_its_client_does_nothing() {
    let origin = Origin::start(|request| {
        Answer::upgrade(request)
            .send(Frame::text("last").unmasked())
            .close()
    })
    .await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let mut session = RawSession::open(prusik.public(), handshake("/")).await;
    assert_eq!(session.frame().await, Frame::text("last"));
    session.client.expect_end().await;
    let entry = prusik.session_close().await;
    assert_eq!(entry["closed_by"], "server");
    assert!(entry["close_code"].is_null());
}

#[tokio::test]
async fn broken_framing_ends_the_session_with_1002_and_does_not_pass() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    for broken in [
        &[0x83, 0x80, 0, 0, 0, 0][..], // a reserved opcode
        &[0x81, 1, b'x'],              // no mask
        &[0xc1, 0x80, 0, 0, 0, 0],     // a reserved bit, and no extension
        &[0x80, 0x80, 0, 0, 0, 0],     // a continuation of nothing
        &[0x09, 0x80, 0, 0, 0, 0],     // a ping in fragments
    ] {
        let before = origin.closes().len();
        let mut session = RawSession::open(prusik.public(), handshake("/")).await;
        session.send(client_frame(1, b"sound")).await;
        assert_eq!(session.frame().await, Frame::text("sound"));
        let mut bytes = broken.to_vec();
        bytes.extend(client_frame(1, b"never to arrive"));
        session.send(&bytes).await;
        let goodbye = session.frame().await;
        assert_eq!(
            (goodbye.opcode, goodbye.payload),
            (8, vec![0x03, 0xea]),
            "{broken:?}"
        );
        session.client.expect_end().await;
        eventually("the server knows", async || {
            origin.closes().len() == before + 1
        })
        .await;
    }
    assert!(origin.closes().iter().all(|code| *code == 1002));
    let log = prusik.access_log();
    let entry = log.iter().find(|entry| entry["kind"] == "session_close");
    let entry = entry.expect("there was one");
    assert_eq!(
        (&entry["closed_by"], &entry["close_code"]),
        (&"error".into(), &1002.into())
    );
}

#[tokio::test]
async fn what_came_before_broken_framing_is_still_answered() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let mut session = RawSession::open(prusik.public(), handshake("/")).await;
    let mut bytes = client_frame(1, b"asked before");
    bytes.extend([0x83, 0x80, 0, 0, 0, 0]);
    session.send(&bytes).await;
    assert_eq!(session.frame().await, Frame::text("asked before"));
    let goodbye = session.frame().await;
    assert_eq!((goodbye.opcode, goodbye.payload), (8, vec![0x03, 0xea]));
    session.client.expect_end().await;
    let entry = prusik.session_close().await;
    assert_eq!(entry["close_code"], 1002);
}

#[tokio::test]
async fn a_client_that_broke_framing_is_told_though_its_server_says_nothing() {
    let origin = Origin::start(|request| Answer::upgrade(request).hang()).await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let mut session = RawSession::open(prusik.public(), handshake("/")).await;
    session.send([0x83, 0x80, 0, 0, 0, 0]).await;
    let goodbye = session.frame().await;
    assert_eq!((goodbye.opcode, goodbye.payload), (8, vec![0x03, 0xea]));
    session.client.expect_end().await;
}

#[tokio::test]
async fn a_server_that_breaks_framing_does_not_reach_its_client() {
    let origin = Origin::start(|request| {
        let mut bytes = Frame::text("sound").unmasked();
        bytes.extend([0x81, 0x80 | 2, 1, 2, 3, 4, 5, 6]);
        Answer::upgrade(request).send(bytes).hang()
    })
    .await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let mut session = RawSession::open(prusik.public(), handshake("/")).await;
    assert_eq!(session.frame().await, Frame::text("sound"));
    let goodbye = session.frame().await;
    assert_eq!((goodbye.opcode, goodbye.payload), (8, vec![0x03, 0xea]));
    session.client.expect_end().await;
}

/// Streams of all kinds of frames, cut anywhere.
#[tokio::test]
async fn any_stream_of_frames_in_any_pieces_passes_unchanged_and_is_counted() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    for seed in 0..12 {
        let mut random = rand::rngs::StdRng::seed_from_u64(seed);
        let mut session = RawSession::open(prusik.public(), handshake("/")).await;
        let mut expected = Vec::new();
        let mut bytes = Vec::new();
        for _ in 0..40 {
            let length = match random.random_range(0..4) {
                0 => random.random_range(0..126),
                1 => random.random_range(126..2000),
                2 => random.random_range(0..3),
                _ => random.random_range(60_000..80_000),
            };
            let payload: Vec<u8> = (0..length).map(|_| random.random()).collect();
            if random.random_bool(0.2) {
                // Its pong comes from the server.
                let ping = &payload[..payload.len().min(125)];
                bytes.extend(client_frame(9, ping));
                expected.push((0xA, ping.to_vec()));
            } else {
                bytes.extend(client_frame(2, &payload));
                expected.push((2, payload));
            }
        }
        let messages = expected.iter().filter(|(opcode, _)| *opcode == 2).count();
        let sending = async {
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let most = [3, 200, 5_000, 100_000][random.random_range(0..4)];
                let (piece, behind) = rest.split_at(random.random_range(1..=most).min(rest.len()));
                session
                    .client
                    .wire
                    .send(piece)
                    .await
                    .expect("it takes them");
                rest = behind;
                // So that small pieces arrive as pieces: whether they do is the kernel's to say.
                if most < 5_000 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            session
        };
        let mut session = sending.await;
        for (opcode, payload) in expected {
            let frame = session.frame().await;
            assert!(frame == Frame { opcode, payload }, "seed {seed}");
        }
        session.send(client_frame(8, &1000_u16.to_be_bytes())).await;
        assert_eq!(session.frame().await.opcode, 8);
        let wanted = |entry: &serde_json::Value| entry["kind"] == "session_close";
        eventually("it is in the log", async || {
            prusik.access_log().iter().filter(|e| wanted(e)).count() == seed as usize + 1
        })
        .await;
        let log = prusik.access_log();
        let close = log
            .iter()
            .rfind(|entry| wanted(entry))
            .expect("it is there");
        assert_eq!(close["messages_in"], messages, "seed {seed}");
        assert_eq!(close["messages_out"], messages, "seed {seed}");
        assert_eq!(close["bytes_in"], bytes.len() + 8, "seed {seed}");
    }
}

#[tokio::test]
async fn a_quiet_client_is_pinged_and_lives_for_as_long_as_it_answers() {
    let origin = Origin::chat().await;
    let config = Config::to(&[&origin]).route("websocket: { ping: 900ms, idle: 20s }");
    let prusik = Prusik::start(config).await;
    // An answer has to be there within the time between two pings, on a busy machine too.
    let opened = Instant::now();
    let mut session = RawSession::open(prusik.public(), handshake("/")).await;
    for _ in 0..4 {
        let ping = session.frame().await;
        assert_eq!((ping.opcode, ping.payload.len()), (9, 0));
        session.send(client_frame(0xA, b"")).await;
    }
    assert!(opened.elapsed() >= Duration::from_millis(3500));
    // Now it is gone without a word.
    assert_eq!(session.frame().await.opcode, 9);
    let goodbye = session.frame().await;
    assert_eq!(
        (goodbye.opcode, goodbye.payload),
        (8, 1001_u16.to_be_bytes().to_vec())
    );
    session.client.expect_end().await;
    assert_eq!(prusik.session_close().await["closed_by"], "idle");
}

/// The answers to our own pings are no life of the session's.
#[tokio::test]
async fn a_session_that_only_answers_pings_is_idle() {
    let origin = Origin::chat().await;
    let config = Config::to(&[&origin]).route("websocket: { ping: 300ms, idle: 1s }");
    let prusik = Prusik::start(config).await;
    let opened = Instant::now();
    // Its library answers pings by itself.
    let mut session = Session::open(prusik.public(), "/").await;
    assert_eq!(session.ended().await, Ended::Close(1001));
    assert!(
        (1..3).contains(&opened.elapsed().as_secs()),
        "{:?}",
        opened.elapsed()
    );
    assert_eq!(prusik.session_close().await["closed_by"], "idle");
}

#[tokio::test]
async fn a_101_behind_an_interim_response_and_before_frames_in_one_packet() {
    let origin = Origin::start(|request| {
        let upgrade = Answer::upgrade_with(request, &[], &Frame::text("eager").unmasked());
        Answer::raw("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").followed_by(upgrade)
    })
    .await;
    for tunnel in ["relay", "pingora"] {
        let config = Config::to(&[&origin]).top(format!("server: {{ tunnel: {tunnel} }}"));
        let prusik = Prusik::start(config).await;
        let mut client = Client::connect(prusik.public()).await;
        client.send(handshake("/")).await;
        assert_eq!(client.head().await.status(), 103, "{tunnel}");
        let head = client.head().await;
        assert_eq!(head.status(), 101, "{tunnel}");
        let mut session = RawSession { head, client };
        assert_eq!(session.frame().await, Frame::text("eager"), "{tunnel}");
        session.send(client_frame(1, b"and on")).await;
        assert_eq!(session.frame().await, Frame::text("and on"), "{tunnel}");
    }
}

/// A short form of a GiB: what is not taken waits at the server, not here. Several at once, for the
/// allocator may go through a page of 4 MiB for the first of them, and that is all that it takes.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_read_nothing_cost_a_bounded_buffer_each_and_can_still_talk() {
    const ALL: u64 = 64 << 20;
    const CLIENTS: usize = 32;
    const EACH_KIB: u64 = 256;
    let mut start = vec![0x82, 127];
    start.extend(ALL.to_be_bytes());
    let origin = Origin::start(move |request| match request.target() {
        "/flood" => Answer::upgrade(request).send(&start).pattern(ALL),
        _ => Answer::upgrade(request),
    })
    .await;
    // Another thread would take a buffer and an arena of the allocator for itself.
    let server = "server: { threads: 1 }";
    let prusik = Prusik::start(Config::to(&[&origin]).top(ADMIN).top(server)).await;
    let mut first = Session::open(prusik.public(), "/").await;
    assert!(first.is_alive().await);
    let before = prusik.anonymous_kib();
    let mut stalled = Vec::new();
    for _ in 0..CLIENTS {
        stalled.push(RawSession::open(prusik.public(), handshake("/flood")).await);
    }
    // They take nothing, and say a lot: all of it arrives.
    let message = client_frame(1, &[b'x'; 1000]);
    for session in &mut stalled {
        for _ in 0..50 {
            session.send(&message).await;
        }
    }
    eventually("what they say has passed", async || {
        let listed = tokio::task::block_in_place(|| prusik.operate(&["sessions", "--json"]));
        let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("JSON");
        let sessions = listed["sessions"].as_array().expect("a list");
        let has_said_all = |session: &&serde_json::Value| {
            session["path"] == "/flood" && session["bytes_in"] == 50 * message.len()
        };
        sessions.iter().filter(has_said_all).count() == CLIENTS
    })
    .await;
    let now = prusik.anonymous_kib();
    assert!(
        now < before + CLIENTS as u64 * EACH_KIB,
        "{before} KiB before, {now} KiB now"
    );
}
