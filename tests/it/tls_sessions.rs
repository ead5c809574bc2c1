//! Sessions by TLS are the same as in plain text. How they move is in `tls_moves`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use crate::support::{
    Client, Frame, RawSession, SecureChat, Session, Wire, client_frame, eventually, handshake,
    tls_connect, within,
};
use tokio::io::AsyncWriteExt;

/// Of the message with this number; far more than every buffer on the way holds, in a few of them.
fn payload(number: usize) -> Vec<u8> {
    const SIZES: [usize; 8] = [0, 1, 125, 126, 65535, 65536, 300_000, 1_000_000];
    let size = SIZES[number % SIZES.len()];
    (0..size).map(|i| (i as u8) ^ (number as u8)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_all_sizes_pass_both_ways_in_order_past_a_reader_that_stalls() {
    let (chat, prusik) = SecureChat::start().await;
    let client = chat.authority.client();
    let stream = client.connect(prusik.public(), "chat.test").await;
    let session = RawSession::over(stream, handshake("/")).await;
    let (stream, early) = session.client.wire.into_parts();
    assert!(early.is_empty());
    let (read, mut write) = tokio::io::split(stream);
    let sent = Arc::new(AtomicUsize::new(0));
    let is_enough = Arc::new(AtomicBool::new(false));
    let sending = tokio::spawn({
        let (sent, is_enough) = (sent.clone(), is_enough.clone());
        async move {
            while !is_enough.load(SeqCst) {
                let number = sent.load(SeqCst);
                write.write_all(&client_frame(2, &payload(number))).await?;
                write.flush().await?;
                sent.store(number + 1, SeqCst);
            }
            let close = client_frame(8, &1000_u16.to_be_bytes());
            write.write_all(&close).await?;
            write.flush().await?;
            Ok::<_, io::Error>(write)
        }
    });
    let (mut before, mut quiet) = (0, 0);
    eventually("nothing more is taken while nobody reads", async || {
        let now = sent.load(SeqCst);
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
        now > 0 && quiet >= 50
    })
    .await;
    is_enough.store(true, SeqCst);
    let mut session = RawSession {
        head: session.head,
        client: Client {
            wire: Wire::new(tokio::io::join(read, tokio::io::sink())),
        },
    };
    let mut number = 0;
    loop {
        let frame = session.frame().await;
        if frame.opcode == 8 {
            break;
        }
        assert!(frame.payload == payload(number), "message {number}");
        number += 1;
    }
    let _open_until_now = sending.await.unwrap().unwrap();
    assert_eq!(number, sent.load(SeqCst));
    let close = prusik.session_close().await;
    assert_eq!(close["messages_in"], number);
    assert_eq!(close["messages_out"], number);
    assert_eq!(close["close_code"], 1000);
}

#[tokio::test]
async fn a_stop_tells_sessions_and_ends_with_close_notify() {
    let (chat, mut prusik) =
        SecureChat::start_with(|config| config.top("server: { drain: { window: 0s } }")).await;
    let client = chat.authority.client();
    let raw = client.connect(prusik.public(), "chat.test").await;
    let mut session = RawSession::over(raw, handshake("/")).await;
    let mut idle = client.connect(prusik.public(), "chat.test").await;
    assert_eq!(idle.get("/").await.status(), 200);
    prusik.signal("TERM");
    assert_eq!(
        session.frame().await,
        Frame {
            opcode: 8,
            payload: 1012_u16.to_be_bytes().to_vec()
        }
    );
    session.send(client_frame(8, &1012_u16.to_be_bytes())).await;
    // To rustls, an end without close_notify would be an error.
    let rest = within("the end", session.client.wire.some()).await.unwrap();
    assert!(rest.is_empty());
    let rest = within("the end", idle.wire.some()).await.unwrap();
    assert!(rest.is_empty());
    assert_eq!(prusik.exit_code().await, Some(0));
}

/// Anonymous memory; a debug build has the same buffers as a release.
#[tokio::test]
async fn an_idle_wss_session_costs_at_most_4_kib() {
    const SESSIONS: u64 = 400;
    let (chat, prusik) = SecureChat::start().await;
    let config = chat.authority.client().config();
    let open = async || {
        let stream = tls_connect(&config, prusik.public(), "chat.test").await;
        let mut session = Session::over(stream.expect("a handshake"), "/")
            .await
            .unwrap();
        // Having talked, it must give its buffers back.
        session.ask(&"x".repeat(50_000)).await;
        session
    };
    let mut sessions = Vec::new();
    for _ in 0..50 {
        sessions.push(open().await);
    }
    let before = prusik.anonymous_kib();
    for _ in 0..SESSIONS {
        sessions.push(open().await);
    }
    let more = prusik.anonymous_kib() - before;
    assert!(
        more <= 4 * SESSIONS,
        "{} B a session",
        more * 1024 / SESSIONS
    );
}
