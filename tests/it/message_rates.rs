//! How many messages a client may send: `websocket.messages_per_second`.

use crate::support::{
    Config, Frame, Origin, Prusik, RawSession, client_frame, eventually, handshake,
};

fn limited(origin: &Origin, tunnel: &str) -> Config {
    Config::to(&[origin])
        .top(format!("server: {{ tunnel: {tunnel} }}"))
        .top("admin: { listen: \"127.0.0.1:0\" }")
        .route("websocket: { messages_per_second: 3 }")
}

/// A text in two fragments, with a ping between them: one message.
fn fragmented(text: &str) -> Vec<u8> {
    let mut first = client_frame(1, text.as_bytes());
    first[0] = 0x01;
    let rest = client_frame(0, text.as_bytes());
    [first, client_frame(9, b"ping"), rest].concat()
}

async fn assert_told(mut session: RawSession) {
    let close = loop {
        let frame = session.frame().await;
        if frame.opcode == 8 {
            break frame;
        }
    };
    assert_eq!(close.payload[..2], 1008u16.to_be_bytes());
}

#[tokio::test]
async fn a_client_that_sends_more_is_told_1008_and_its_server_too() {
    for tunnel in ["relay", "pingora"] {
        let origin = Origin::chat().await;
        let prusik = Prusik::start(limited(&origin, tunnel)).await;
        let mut session = RawSession::open(prusik.public(), handshake("/")).await;
        // All in one packet: no time passes between them.
        let five = client_frame(1, b"one").repeat(5);
        session.send(&five).await;
        assert_told(session).await;
        let line = prusik.session_close().await;
        assert_eq!(
            (&line["closed_by"], &line["close_code"]),
            (&"limit".into(), &1008.into())
        );
        if tunnel == "relay" {
            // What is too much does not reach the server.
            assert_eq!(line["messages_in"], 3);
        }
        eventually("the server is told", async || {
            origin.closes().contains(&1008)
        })
        .await;
    }
}

#[tokio::test]
async fn messages_are_counted_and_not_their_frames() {
    for tunnel in ["relay", "pingora"] {
        let origin = Origin::chat().await;
        let prusik = Prusik::start(limited(&origin, tunnel)).await;
        let mut session = RawSession::open(prusik.public(), handshake("/")).await;
        let pings = client_frame(9, b"ping").repeat(20);
        let sent = [fragmented("a"), pings, fragmented("b"), fragmented("c")].concat();
        session.send(&sent).await;
        for expected in ["aa", "bb", "cc"] {
            let text = loop {
                let frame = session.frame().await;
                assert_ne!(frame.opcode, 8, "{tunnel}: {frame:?}");
                if frame.opcode == 1 {
                    break frame;
                }
            };
            assert_eq!(text, Frame::text(expected));
        }
        // Those of the server are not the client's.
        session.send(client_frame(1, b"whoami")).await;
    }
}

#[tokio::test]
async fn more_may_be_sent_when_time_has_passed() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(limited(&origin, "relay")).await;
    let mut session = RawSession::open(prusik.public(), handshake("/")).await;
    let mut between = tokio::time::interval(std::time::Duration::from_millis(350));
    for _ in 0..6 {
        between.tick().await;
        session.send(client_frame(1, b"tick")).await;
        assert_eq!(session.frame().await, Frame::text("tick"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_moves_with_the_session_to_a_new_process() {
    let origin = Origin::chat().await;
    let config = limited(&origin, "relay");
    let mut prusik = Prusik::start(&config).await;
    let mut session = RawSession::open(prusik.public(), handshake("/")).await;
    session.send(client_frame(1, b"before")).await;
    assert_eq!(session.frame().await, Frame::text("before"));
    prusik.upgrade().await;
    session.send(client_frame(1, b"behind")).await;
    assert_eq!(session.frame().await, Frame::text("behind"));
    session.send(client_frame(1, b"one").repeat(5)).await;
    assert_told(session).await;
    let line = prusik.session_close().await;
    assert_eq!(
        (&line["closed_by"], &line["close_code"]),
        (&"limit".into(), &1008.into())
    );
}
