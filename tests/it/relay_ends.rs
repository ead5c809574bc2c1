//! The relay between a client and a server that are both in the test's hand: last words, ends and
//! causes, moved or not.

use std::time::Duration;

use crate::support::{
    ACCEPT, Answer, Client, Config, Frame, Origin, Prusik, RawSession, client_frame, eventually,
    handshake, listen, within,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ADMIN: &str = "admin: { listen: \"127.0.0.1:0\" }";

/// A session whose two ends are both in the test's hand: client and server.
async fn both_ends() -> (Prusik, TcpStream, TcpStream) {
    let listener = listen();
    let address = listener.local_addr().expect("it is bound");
    let prusik = Prusik::start(Config::to(&[]).server(address).top(ADMIN)).await;
    let opening = async {
        let mut client = TcpStream::connect(prusik.public())
            .await
            .expect("it listens");
        say(&mut client, handshake("/")).await;
        let (mut server, _) = listener.accept().await.expect("a connection");
        take_head(&mut server).await;
        let switch = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
        );
        say(&mut server, switch).await;
        take_head(&mut client).await;
        (client, server)
    };
    let (client, server) = within("a session", opening).await;
    for end in [&client, &server] {
        // What is said is there when it has been said, whatever was acknowledged before it.
        end.set_nodelay(true).expect("it is there");
    }
    (prusik, client, server)
}

/// Not a byte more.
async fn take_head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
}

async fn say(stream: &mut TcpStream, bytes: impl AsRef<[u8]>) {
    let bytes = bytes.as_ref();
    stream.write_all(bytes).await.expect("it takes them");
}

/// What comes until the end, or a reset.
async fn all_of(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let reading = stream.read_to_end(&mut bytes);
    // A reset is an end as well.
    let _ = within("the end", reading).await;
    bytes
}

/// Between this and `CONT` things happen that the relay will find all at once.
async fn stop(prusik: &Prusik) {
    prusik.signal("STOP");
    let tasks = format!("/proc/{}/task", prusik.pid());
    eventually("every thread stands still", async || {
        std::fs::read_dir(&tasks).expect("it lives").all(|task| {
            let stat = task.map(|task| task.path().join("stat"));
            let stat = stat.and_then(std::fs::read_to_string);
            stat.is_ok_and(|stat| stat.contains(") T "))
        })
    })
    .await;
}

/// As when a message is refused: the server says why and closes, its client goes on sending.
#[tokio::test]
async fn the_last_words_of_a_server_that_takes_no_more_arrive() {
    let (prusik, mut client, mut server) = both_ends().await;
    say(&mut client, client_frame(1, b"never read")).await;
    server.peek(&mut [0]).await.expect("it comes");
    stop(&prusik).await;
    for _ in 0..3 {
        say(&mut client, client_frame(1, b"too late")).await;
    }
    let mut last = Frame::text("last words").unmasked();
    last.extend([0x88, 2, 0x03, 0xf1]);
    say(&mut server, &last).await;
    // With something unread: a reset.
    drop(server);
    prusik.signal("CONT");
    assert_eq!(all_of(&mut client).await, last);
    // Had it said this before, the relay could have read it first: that would be the cause.
    say(&mut client, client_frame(8, &4001_u16.to_be_bytes())).await;
    drop(client);
    let close = prusik.session_close().await;
    assert_eq!(
        (&close["closed_by"], &close["close_code"]),
        (&"server".into(), &1009.into())
    );
    assert_eq!(close["bytes_out"], last.len());
}

#[tokio::test]
async fn the_last_words_of_a_client_that_takes_no_more_arrive() {
    let (prusik, mut client, mut server) = both_ends().await;
    say(&mut server, Frame::text("never read").unmasked()).await;
    client.peek(&mut [0]).await.expect("it comes");
    stop(&prusik).await;
    say(&mut server, Frame::text("too late").unmasked()).await;
    let mut last = client_frame(1, b"last words");
    last.extend(client_frame(8, &4001_u16.to_be_bytes()));
    say(&mut client, &last).await;
    drop(client);
    prusik.signal("CONT");
    assert_eq!(all_of(&mut server).await, last);
    drop(server);
    let close = prusik.session_close().await;
    assert_eq!(
        (&close["closed_by"], &close["close_code"]),
        (&"client".into(), &4001.into())
    );
}

/// RFC 6455 section 5.5.1.
#[tokio::test]
async fn nothing_passes_behind_a_close_frame() {
    let (prusik, mut client, mut server) = both_ends().await;
    let close = client_frame(8, &1000_u16.to_be_bytes());
    let mut bytes = close.clone();
    bytes.extend(client_frame(1, b"behind it"));
    say(&mut client, &bytes).await;
    say(&mut client, client_frame(1, b"and later")).await;
    client.shutdown().await.expect("it is there");
    assert_eq!(all_of(&mut server).await, close);
    // The other direction is open until the server has closed it too.
    let mut bytes = Frame::text("still mine").unmasked();
    bytes.extend([0x88, 2, 0x03, 0xe8]);
    let passes = bytes.len();
    bytes.extend(Frame::text("behind it").unmasked());
    say(&mut server, &bytes).await;
    assert_eq!(all_of(&mut client).await, bytes[..passes]);
    let entry = prusik.session_close().await;
    assert_eq!(
        (&entry["bytes_in"], &entry["messages_in"]),
        (&close.len().into(), &0.into())
    );
    assert_eq!(
        (&entry["bytes_out"], &entry["messages_out"]),
        (&passes.into(), &1.into())
    );
}

/// RFC 6455 sections 5.5.1 and 7.4.
#[tokio::test]
async fn a_close_frame_that_must_not_be_sent_does_not_pass() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    for payload in [
        &[7][..],         // half a code
        &[0x03, 0xe7],    // 999: below all ranges
        &[0x03, 0xed, 7], // 1005: no code, said to be one
        &[0x03, 0xee],    // 1006: no Close frame
        &[0x03, 0xf7],    // 1015: a failed TLS handshake
    ] {
        let before = origin.closes().len();
        let mut session = RawSession::open(prusik.public(), handshake("/")).await;
        let frame = client_frame(8, payload);
        // Not a byte of it may pass before the code is known.
        let (start, end) = frame.split_at(7);
        session.send(start).await;
        session.send(end).await;
        let goodbye = session.frame().await;
        assert_eq!(
            (goodbye.opcode, goodbye.payload),
            (8, vec![0x03, 0xea]),
            "{payload:?}"
        );
        session.client.expect_end().await;
        eventually("the server knows", async || {
            origin.closes().len() == before + 1
        })
        .await;
    }
    assert!(origin.closes().iter().all(|code| *code == 1002));
    let is_close = |entry: &&serde_json::Value| entry["kind"] == "session_close";
    eventually("they are in the log", async || {
        prusik.access_log().iter().filter(is_close).count() == 5
    })
    .await;
    for entry in prusik.access_log().iter().filter(is_close) {
        assert_eq!(
            (&entry["closed_by"], &entry["close_code"]),
            (&"error".into(), &1002.into())
        );
        assert_eq!(entry["bytes_in"], 0, "nothing has passed");
    }
}

/// Codes that nobody knows yet may mean something to both ends.
#[tokio::test]
async fn a_close_code_of_tomorrow_passes() {
    let origin = Origin::start(|request| {
        let close = [0x88, 2, 0x0b, 0xb7]; // 2999
        Answer::upgrade(request).send(close).close()
    })
    .await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let mut session = RawSession::open(prusik.public(), handshake("/")).await;
    assert_eq!(session.frame().await.payload, [0x0b, 0xb7]);
    assert_eq!(prusik.session_close().await["close_code"], 2999);
}

/// Its FIN comes in one packet with its handshake.
#[tokio::test]
async fn a_client_that_has_finished_before_its_session_begins_is_who_ended_it() {
    let late = Frame::text("late").unmasked();
    let origin = Origin::start(move |request| {
        Answer::upgrade(request)
            .after(Duration::from_millis(300))
            .send(&late)
            .close()
    })
    .await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let mut client = Client::connect(prusik.public()).await;
    let mut bytes = handshake("/").into_bytes();
    bytes.extend(client_frame(1, b"all I say"));
    client.send(&bytes).await;
    client.wire.finish().await.expect("the connection is there");
    let head = client.head().await;
    let mut session = RawSession { head, client };
    assert_eq!(session.frame().await, Frame::text("late"));
    session.client.expect_end().await;
    assert_eq!(prusik.session_close().await["closed_by"], "client");
}

/// The time that the other side has begins with the end, not with the last byte before it.
#[tokio::test]
async fn a_client_may_finish_after_its_server_ended_a_long_silence() {
    let (prusik, mut client, mut server) = both_ends().await;
    // Longer than the client will have: the silence is what is tested.
    tokio::time::sleep(Duration::from_secs(6)).await;
    server.shutdown().await.expect("it is there");
    assert!(all_of(&mut client).await.is_empty());
    let last = client_frame(1, b"what was left to say");
    say(&mut client, &last).await;
    drop(client);
    assert_eq!(all_of(&mut server).await, last);
    assert_eq!(prusik.session_close().await["closed_by"], "server");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_moves_between_two_close_frames_keeps_its_cause() {
    let (mut prusik, mut client, mut server) = both_ends().await;
    let goodbye = client_frame(8, &4001_u16.to_be_bytes());
    say(&mut client, &goodbye).await;
    let mut heard = vec![0; goodbye.len()];
    server.read_exact(&mut heard).await.expect("it passes");
    prusik.upgrade().await;
    say(&mut server, [0x88, 2, 0x0f, 0xa1]).await;
    drop(server);
    assert_eq!(all_of(&mut client).await, [0x88, 2, 0x0f, 0xa1]);
    let close = prusik.session_close().await;
    assert_eq!(
        (&close["closed_by"], &close["close_code"]),
        (&"client".into(), &4001.into())
    );
    assert_eq!(
        (&close["bytes_in"], &close["bytes_out"]),
        (&8.into(), &4.into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_moves_half_closed_hears_the_other_half() {
    let (mut prusik, mut client, mut server) = both_ends().await;
    let text = client_frame(1, b"over");
    say(&mut client, &text).await;
    client.shutdown().await.expect("it can end");
    assert_eq!(all_of(&mut server).await, text);
    prusik.upgrade().await;
    let late = Frame::text("late").unmasked();
    say(&mut server, &late).await;
    drop(server);
    assert_eq!(all_of(&mut client).await, late);
    let close = prusik.session_close().await;
    assert_eq!(close["closed_by"], "client");
    assert!(close["close_code"].is_null());
}
