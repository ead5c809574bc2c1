//! HTTP/2 while a client has not taken in our settings: it sends by the windows that RFC 9113 has
//! by default, which are larger than ours.

use crate::support::http2::{
    DATA, END_HEADERS, END_STREAM, HEADERS, Http2Site, PREFACE, SETTINGS, WINDOW_UPDATE, raw_frame,
    request_fields,
};
use crate::support::{Answer, Origin, eventually, listen, within};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;

const ACK: u8 = 1;

/// A frame of the largest size: more than a stream of ours may send at first, and less than what
/// h2 would tell of by itself.
const EARLY: usize = 16 * 1024;

/// Counts what it gets, and answers behind the last chunk.
fn counting(listener: TcpListener) -> Arc<AtomicUsize> {
    let got = Arc::new(AtomicUsize::new(0));
    let counted = got.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let counted = counted.clone();
            tokio::spawn(async move {
                let mut said = Vec::new();
                while !said.ends_with(b"\r\n0\r\n\r\n") {
                    match socket.read_buf(&mut said).await {
                        Ok(1..) => counted.store(said.len(), SeqCst),
                        _ => return,
                    }
                }
                let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                let _ = socket.write_all(answer.as_bytes()).await;
            });
        }
    });
    got
}

/// The kind of the next frame, its stream, and what is in it.
async fn frame(client: &mut TlsStream<TcpStream>) -> (u8, u32, Vec<u8>) {
    let mut header = [0; 9];
    let read = within("a frame", client.read_exact(&mut header)).await;
    read.expect("the connection lives");
    let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
    let mut content = vec![0; length];
    let read = within("all of a frame", client.read_exact(&mut content)).await;
    read.expect("the connection lives");
    let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
    (header[3], stream, content)
}

/// A client that does not acknowledge our settings by itself.
struct Early {
    stream: TlsStream<TcpStream>,
    /// What it may still send on its stream, as far as it has heard.
    window: i64,
}

impl Early {
    /// Posts the beginning of a body at once, as a client may.
    async fn post(site: &Http2Site, target: &str) -> Self {
        let mut client = Self {
            stream: site.tls().await,
            window: -(EARLY as i64),
        };
        let fields = request_fields("POST", target);
        let mut early = PREFACE.to_vec();
        early.extend(raw_frame(SETTINGS, 0, 0, &[]));
        early.extend(raw_frame(HEADERS, END_HEADERS, 1, &fields));
        early.extend(raw_frame(DATA, 0, 1, &[b'x'; EARLY]));
        client.say(&early).await;
        client
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("it is taken");
        self.stream.flush().await.expect("it is taken");
    }

    /// The kind of the next frame.
    async fn hear(&mut self) -> u8 {
        let (kind, stream, content) = frame(&mut self.stream).await;
        let number = |bytes: &[u8]| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        match (kind, stream) {
            (SETTINGS, _) => {
                let initial = content.chunks(6).find(|setting| setting[..2] == [0, 4]);
                self.window += initial.map_or(0, |setting| i64::from(number(&setting[2..])));
            }
            (WINDOW_UPDATE, 1) => self.window += i64::from(number(&content)),
            _ => {}
        }
        kind
    }

    /// Takes in the settings, and waits until it may send more.
    async fn go_on(&mut self) {
        self.say(&raw_frame(SETTINGS, ACK, 0, &[])).await;
        while self.window <= 0 {
            self.hear().await;
        }
    }
}

/// Its window is negative once it takes in our settings: only a WINDOW_UPDATE lets it go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_sent_more_than_our_settings_allow_is_told_to_go_on() {
    let listener = listen();
    let server = listener.local_addr().expect("it is bound");
    let got = counting(listener);
    let origin = Origin::start(|_| Answer::text("unused")).await;
    let site = Http2Site::start(origin, |config| {
        config
            .first("{ match: { path_prefix: /up }, upstream: counting }")
            .upstream(format!(
                "on_down: keep\n  counting:\n    servers: ['{server}']"
            ))
    })
    .await;
    let mut client = Early::post(&site, "/up").await;
    eventually("all of it is with the server", async || {
        got.load(SeqCst) > EARLY
    })
    .await;
    client.go_on().await;
    client.say(&raw_frame(DATA, END_STREAM, 1, b"last")).await;
    while client.hear().await != HEADERS {}
}

/// What nobody wants is read on for a while, so that the client sees its answer.
#[tokio::test(flavor = "multi_thread")]
async fn one_whose_body_nobody_wants_is_told_to_go_on_too() {
    let origin = Origin::start(|_| Answer::text("unused")).await;
    let site = Http2Site::start(origin, |config| {
        config.first("{ match: { path_prefix: /no }, respond: { status: 403 } }")
    })
    .await;
    let mut client = Early::post(&site, "/no").await;
    while client.hear().await != HEADERS {}
    client.go_on().await;
}
