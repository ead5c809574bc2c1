//! Sessions of which one side takes nothing of what waits for it: they end after `limits.stall`, or
//! the upstream's `stall`, and say so.

use std::time::Duration;

use crate::support::http2::Http2Site;
use crate::support::{
    Answer, Authority, Client, Config, Origin, Prusik, RawSession, client_frame, eventually,
    handshake, within,
};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SERVER_STALL: &str = "stall: 2s";
const CLIENT_STALL: &str = "limits: { stall: 2s }";

/// Of a socket the kernel keeps the time, which does not tell the one from the other.
const SERVER: &str =
    "the server answered nothing any more, or took nothing for as long as its stall";
const CLIENT_OF_TCP: &str =
    "the client answered nothing any more, or took nothing for as long as its stall";
const CLIENT: &str = "the client took nothing for as long as its stall";

/// From the stall on, with what a busy machine may add: much less than the minute of the default.
const DURATIONS: std::ops::Range<f64> = 1900.0..30_000.0;

/// Upgrades, and then reads nothing.
fn deaf(request: &crate::support::Received) -> Answer {
    Answer::upgrade(request).wait(Duration::from_secs(3600))
}

/// Upgrades, and then says more than anybody keeps for a client.
async fn flooding() -> Origin {
    Origin::start(|request| {
        let length = (1_u64 << 30).to_be_bytes();
        let start = [&[0x82, 127][..], &length].concat();
        Answer::upgrade(request).send(start).pattern(1 << 30)
    })
    .await
}

async fn ended(prusik: &Prusik, closed_by: &str, close_code: Option<u16>, error: &str) {
    let close = prusik.session_close().await;
    assert_eq!(close["closed_by"], closed_by, "{close}");
    assert_eq!(close["close_code"], json!(close_code), "{close}");
    assert_eq!(close["error"], error, "{close}");
    let lasted = close["duration_ms"].as_f64().expect("a duration");
    assert!(DURATIONS.contains(&lasted), "{close}");
}

async fn server_takes_nothing(origin: Origin, config: Config) {
    let prusik = Prusik::start(config.upstream(SERVER_STALL)).await;
    let session = RawSession::open(prusik.public(), handshake("/")).await;
    let (mut read, mut write) = tokio::io::split(session.client.wire.into_parts().0);
    let saying = tokio::spawn(async move {
        let message = client_frame(2, &[7; 64 * 1024]);
        while write.write_all(&message).await.is_ok() {}
    });
    let mut told = [0; 4];
    within("a word", read.read_exact(&mut told))
        .await
        .expect("a Close frame");
    assert_eq!(told, [0x88, 2, 0x03, 0xe9], "1001");
    ended(&prusik, "error", Some(1001), SERVER).await;
    within("the end of the connection", saying)
        .await
        .expect("it does not panic");
    drop(origin);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_takes_nothing_ends_its_session_and_the_client_is_told() {
    let origin = Origin::start(deaf).await;
    let config = Config::to(&[&origin]);
    server_takes_nothing(origin, config).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_by_tls_that_takes_nothing_ends_its_session_and_the_client_is_told() {
    let authority = Authority::new();
    let pair = authority.issue("chat", &["chat.test"]);
    let origin = Origin::secure(authority.server(&pair, false), deaf).await;
    let ca = authority.file();
    let tls = format!("tls: {{ sni: chat.test, ca: \"{}\" }}", ca.display());
    let config = Config::to(&[&origin]).upstream(tls);
    server_takes_nothing(origin, config).await;
}

/// In Pingora's tunnel, where nobody can be told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_takes_nothing_ends_its_session_in_pingoras_tunnel_too() {
    let origin = Origin::start(deaf).await;
    let config = Config::to(&[&origin]).upstream(SERVER_STALL);
    let prusik = Prusik::start(config.top("server: { tunnel: pingora }")).await;
    let session = RawSession::open(prusik.public(), handshake("/")).await;
    let (mut wire, _) = session.client.wire.into_parts();
    let message = client_frame(2, &[7; 64 * 1024]);
    let saying = async { while wire.write_all(&message).await.is_ok() {} };
    within("the end of the connection", saying).await;
    let close = prusik.session_close().await;
    assert_eq!(close["closed_by"], "error", "{close}");
    let lasted = close["duration_ms"].as_f64().expect("a duration");
    assert!(DURATIONS.contains(&lasted), "{close}");
}

/// A server that keeps so little that what is said to it waits in prusik's own socket.
async fn server_with_little_room() -> (Prusik, std::net::TcpListener) {
    let listener =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    listener.set_recv_buffer_size(4096).expect("it is set");
    let any: std::net::SocketAddr = ([127, 0, 0, 1], 0).into();
    listener.bind(&any.into()).expect("a free port");
    listener.listen(8).expect("it listens");
    let listener = std::net::TcpListener::from(listener);
    let server = listener.local_addr().expect("it is bound");
    let config = Config::to(&[]).server(server).upstream(SERVER_STALL);
    (Prusik::start(config).await, listener)
}

/// The session, once it is open, and the server's end of it.
async fn open_by_hand(
    prusik: &Prusik,
    listener: std::net::TcpListener,
) -> (RawSession, std::net::TcpStream) {
    let serving = tokio::task::spawn_blocking(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a head");
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).expect("text");
        let key = head
            .lines()
            .find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "))
            .expect("a key");
        let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
        let switch = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        stream.write_all(switch.as_bytes()).expect("it is taken");
        stream
    });
    let session = RawSession::open(prusik.public(), handshake("/")).await;
    (
        session,
        within("a server", serving).await.expect("it serves"),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_behind_data_that_a_server_never_takes_ends_the_session() {
    let (prusik, listener) = server_with_little_room().await;
    let (mut session, _server) = open_by_hand(&prusik, listener).await;
    session.send(client_frame(2, &[7; 60 * 1024])).await;
    session.client.wire.finish().await.expect("it is there");
    ended(&prusik, "client", None, SERVER).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_frame_behind_data_that_a_server_never_takes_ends_the_session() {
    let (prusik, listener) = server_with_little_room().await;
    let (mut session, _server) = open_by_hand(&prusik, listener).await;
    session.send(client_frame(2, &[7; 60 * 1024])).await;
    session.send(client_frame(8, &4001_u16.to_be_bytes())).await;
    ended(&prusik, "client", Some(4001), SERVER).await;
    session.client.expect_end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_nothing_ends_its_session() {
    let origin = flooding().await;
    let prusik = Prusik::start(Config::to(&[&origin]).listener(CLIENT_STALL)).await;
    let _session = RawSession::open(prusik.public(), handshake("/")).await;
    ended(&prusik, "error", None, CLIENT_OF_TCP).await;
    eventually("its server is rid of it", async || origin.open() == 0).await;
}

fn on_a_unix_socket(folder: &std::path::Path, origin: &Origin, tunnel: &str) -> String {
    format!(
        "server: {{ tunnel: {tunnel} }}\n\
         admin: {{ listen: '127.0.0.1:0' }}\n\
         listeners: [{{ listen: 'unix:{}', {CLIENT_STALL} }}]\n\
         upstreams: {{ u: {{ servers: ['{}'] }} }}\n\
         routes: [{{ match: {{ path_prefix: / }}, upstream: u }}]\n",
        folder.join("web.sock").display(),
        origin.address()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_on_a_unix_socket_that_takes_nothing_ends_its_session() {
    let folder = tempfile::tempdir().expect("a folder");
    let origin = flooding().await;
    let prusik = Prusik::start(on_a_unix_socket(folder.path(), &origin, "relay")).await;
    let client = Client::connect_unix(&folder.path().join("web.sock")).await;
    let _session = RawSession::over(client, handshake("/")).await;
    ended(&prusik, "error", None, CLIENT).await;
    eventually("its server is rid of it", async || origin.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_on_a_unix_socket_that_takes_nothing_ends_its_session_in_pingoras_tunnel_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let origin = flooding().await;
    let prusik = Prusik::start(on_a_unix_socket(folder.path(), &origin, "pingora")).await;
    let client = Client::connect_unix(&folder.path().join("web.sock")).await;
    let _session = RawSession::over(client, handshake("/")).await;
    let said = "the client took nothing of its answer for as long as it may";
    ended(&prusik, "error", None, said).await;
    eventually("its server is rid of it", async || origin.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_has_moved_to_a_new_process_keeps_its_stall() {
    let folder = tempfile::tempdir().expect("a folder");
    let origin = Origin::chat().await;
    let mut prusik = Prusik::start(on_a_unix_socket(folder.path(), &origin, "relay")).await;
    let client = Client::connect_unix(&folder.path().join("web.sock")).await;
    let mut session = RawSession::over(client, handshake("/")).await;
    prusik.upgrade().await;
    // Each comes back, and nobody takes it.
    let message = client_frame(1, &[b'x'; 32 * 1024]);
    let saying = async { while session.client.wire.send(&message).await.is_ok() {} };
    within("the end of the connection", saying).await;
    let close = prusik.session_close().await;
    assert_eq!(close["error"], CLIENT, "{close}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_http_2_that_takes_nothing_ends_its_session_and_no_other() {
    let site = Http2Site::start(flooding().await, |config| config.listener(CLIENT_STALL)).await;
    let mut client = site.client().await;
    let (response, _receive, _send) = client.connect("/").await;
    assert_eq!(response.status(), 200);
    ended(&site.prusik, "error", None, CLIENT).await;
    eventually("its server is rid of it", async || site.origin.open() == 0).await;
    let (response, ..) = client.connect("/").await;
    assert_eq!(response.status(), 200);
}
