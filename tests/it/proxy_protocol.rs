//! The PROXY protocol: who a client is by the word of the proxy before us, and by ours to servers.

use std::net::SocketAddr;

use crate::support;
use crate::support::{
    Answer, Authority, Client, Config, Origin, Outcome, Prusik, RawSession, Session, certificates,
    check, eventually, handshake, listen, within,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

const GET: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = (block.len() as u16).to_be_bytes();
    [SIGNATURE, &[command, family], &length, block].concat()
}

/// What the server is told of a connection.
fn telling(received: &support::Received) -> Answer {
    Answer::text(&format!(
        "{} | {}",
        received.field("x-ends").unwrap_or_default(),
        received.field("x-forwarded-for").unwrap_or_default(),
    ))
}

fn required(origin: &Origin, trusted: &str) -> Config {
    Config::to(&[origin])
        .top(format!("trusted_proxies: [{trusted}]"))
        .listener("proxy_protocol: required")
        .route("headers: { request: { set: { X-Ends: \"$remote_addr:$remote_port $server_addr:$server_port\" } } }")
}

async fn ask(address: SocketAddr, header: &[u8], request: &str) -> String {
    let mut client = Client::connect(address).await;
    client.send([header, request.as_bytes()].concat()).await;
    client.response().await.text()
}

#[tokio::test]
async fn the_named_ends_are_the_connections_for_everything() {
    let origin = Origin::start(telling).await;
    let prusik = Prusik::start(required(&origin, "127.0.0.0/8, 10.0.0.0/8")).await;
    let block = [192, 0, 2, 1, 198, 51, 100, 2, 0x12, 0x34, 0x01, 0xbb];
    let with_fields = [&block[..], &[0x04, 0, 2, 7, 7]].concat();
    for header in [
        b"PROXY TCP4 192.0.2.1 198.51.100.2 4660 443\r\n".to_vec(),
        v2(0x21, 0x11, &block),
        v2(0x21, 0x11, &with_fields),
    ] {
        let told = ask(prusik.public(), &header, GET).await;
        assert_eq!(told, "192.0.2.1:4660 198.51.100.2:443 | 192.0.2.1");
    }
    let v6 = b"PROXY TCP6 2001:db8::1 2001:db8::2 4660 443\r\n";
    let told = ask(prusik.public(), v6, GET).await;
    assert_eq!(told, "2001:db8::1:4660 2001:db8::2:443 | 2001:db8::1");
    prusik
        .wait_log("the named client", |entry| entry["client"] == "2001:db8::1")
        .await;

    // It is believed what a peer at its address would be.
    let forwarded = "GET / HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n";
    let stranger = b"PROXY TCP4 192.0.2.1 198.51.100.2 4660 443\r\n";
    let told = ask(prusik.public(), stranger, forwarded).await;
    assert!(told.ends_with(" | 192.0.2.1"), "{told}");
    let proxy = b"PROXY TCP4 10.0.0.1 198.51.100.2 4660 443\r\n";
    let told = ask(prusik.public(), proxy, forwarded).await;
    assert!(told.starts_with("203.0.113.9:"), "{told}");
    assert!(told.ends_with(" | 203.0.113.9, 10.0.0.1"), "{told}");
}

#[tokio::test]
async fn a_header_that_names_nobody_leaves_the_connections_own_ends() {
    let origin = Origin::start(telling).await;
    let prusik = Prusik::start(required(&origin, "127.0.0.1")).await;
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        v2(0x20, 0, &[]),
        v2(0x21, 0, &[]),
        v2(0x21, 0x31, &[b'/'; 216]),
    ] {
        let told = ask(prusik.public(), &header, GET).await;
        let own = format!(" {} | 127.0.0.1", prusik.public());
        assert!(
            told.starts_with("127.0.0.1:") && told.ends_with(&own),
            "{told}"
        );
    }
}

#[tokio::test]
async fn behind_a_header_that_names_nobody_no_field_is_believed() {
    let origin = Origin::start(telling).await;
    let prusik = Prusik::start(required(&origin, "127.0.0.1")).await;
    let lies = "GET / HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n";
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        v2(0x20, 0, &[]),
        v2(0x21, 0, &[]),
    ] {
        let told = ask(prusik.public(), &header, lies).await;
        assert!(
            told.starts_with("127.0.0.1:") && told.ends_with(" | 127.0.0.1"),
            "{told}"
        );
    }
}

#[tokio::test]
async fn a_header_in_pieces_is_waited_for_and_what_follows_it_is_not_lost() {
    let origin = Origin::start(telling).await;
    let prusik = Prusik::start(required(&origin, "127.0.0.1")).await;
    let whole = [
        &b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\n"[..],
        GET.as_bytes(),
    ]
    .concat();
    for cut in (1..whole.len()).step_by(7) {
        let mut client = Client::connect(prusik.public()).await;
        client.send(&whole[..cut]).await;
        tokio::task::yield_now().await;
        client.send(&whole[cut..]).await;
        let told = client.response().await.text();
        assert!(told.starts_with("192.0.2.1:1 "), "cut at {cut}: {told}");
        assert!(client.get("/").await.text().starts_with("192.0.2.1:1 "));
    }
}

#[tokio::test]
async fn who_sends_none_or_may_not_is_shut_out_and_the_operator_told_how_often() {
    let origin = Origin::start(telling).await;
    let config = required(&origin, "127.0.0.1").listener("limits: { header_timeout: 300ms }");
    let prusik = Prusik::start(config).await;
    let broken = v2(0x31, 0x11, &[0; 12]);
    for bytes in [
        GET.as_bytes(),
        b"PROXY TCP4 a b 1 2\r\n",
        &broken,
        b"PROXY TCP4 ",
    ] {
        let mut client = Client::connect(prusik.public()).await;
        client.send(bytes).await;
        client.expect_end().await;
    }
    // A balancer that looks whether the port is open is none of these.
    drop(Client::connect(prusik.public()).await);
    // Others reset what they have got.
    let probe = std::net::TcpStream::connect(prusik.public()).expect("a listener");
    let no_time = Some(std::time::Duration::ZERO);
    socket2::SockRef::from(&probe)
        .set_linger(no_time)
        .expect("an option of TCP");
    drop(probe);
    // Silence is no header either.
    Client::connect(prusik.public()).await.expect_end().await;
    prusik
        .wait_log("the refusals", |entry| {
            entry["status"] == 400 && entry["error"].as_str().is_some_and(|e| e.contains("PROXY"))
        })
        .await;
    prusik
        .wait_stderr("does not begin with a PROXY header")
        .await;
    assert_eq!(prusik.stderr().matches("is shut out").count(), 1);
    // What is logged after them is there: so are they.
    let last = "GET /last HTTP/1.1\r\nHost: test\r\n\r\n";
    ask(prusik.public(), b"PROXY UNKNOWN\r\n", last).await;
    prusik
        .wait_log("the last", |entry| entry["path"] == "/last")
        .await;
    assert_eq!(prusik.access_log().len(), 4 + 1 + 1);
    // The others are counted, and the count is said every ten seconds, or at the end.
    prusik.signal("INT");
    prusik.wait_stderr("and 3 more like it in").await;
    assert_eq!(prusik.stderr().matches("is shut out").count(), 2);

    let strangers = required(&origin, "192.0.2.0/24");
    let prusik = Prusik::start(strangers).await;
    let mut client = Client::connect(prusik.public()).await;
    client
        .send(b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\n")
        .await;
    client.expect_end().await;
    prusik.wait_stderr("not in trusted_proxies").await;
    assert_eq!(origin.received().len(), 1);
}

#[tokio::test]
async fn it_comes_before_tls_and_sessions_have_the_named_client() {
    let authority = Authority::new();
    let pair = authority.issue("chat", &["chat.test"]);
    let origin = Origin::chat().await;
    let config = required(&origin, "127.0.0.1").tls(certificates(&[&pair]));
    let prusik = Prusik::start(config).await;
    let mut socket = TcpStream::connect(prusik.public()).await.unwrap();
    let header = b"PROXY TCP4 192.0.2.7 198.51.100.2 1 2\r\n";
    socket.write_all(header).await.unwrap();
    let connector = TlsConnector::from(authority.client().config());
    let name = "chat.test".try_into().unwrap();
    let stream = within("a TLS handshake", connector.connect(name, socket))
        .await
        .expect("the handshake is not disturbed");
    let mut session = Session::over(stream, "/chat").await.expect("a session");
    assert_eq!(session.ask("hello").await, "hello");
    session.close(1000).await;
    assert_eq!(prusik.session_close().await["client"], "192.0.2.7");
}

#[tokio::test]
async fn a_unix_socket_may_send_one() {
    let origin = Origin::start(telling).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("web.sock");
    let yaml = format!(
        "listeners: [{{ listen: \"unix:{}\", proxy_protocol: required }}]\nupstreams:\n  backend: \
         {{ servers: [{}] }}\nroutes: [{{ upstream: backend }}]\n",
        path.display(),
        origin.address()
    );
    let _prusik = Prusik::start(yaml).await;
    let mut client = Client::connect_unix(&path).await;
    client
        .send(format!("PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\n{GET}"))
        .await;
    assert_eq!(client.response().await.text(), " | 192.0.2.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_named_client_outlives_an_upgrade() {
    let origin = Origin::chat().await;
    let config = required(&origin, "127.0.0.1").top("admin: { listen: \"127.0.0.1:0\" }");
    let mut prusik = Prusik::start(config).await;
    let header = "PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\n";
    let mut idle = Client::connect(prusik.public()).await;
    idle.send(format!("{header}{GET}")).await;
    assert_eq!(idle.response().await.status(), 200);
    let mut session = Client::connect(prusik.public()).await;
    session.send(header).await;
    let session = RawSession::over(session, handshake("/")).await;
    prusik.upgrade().await;
    assert_eq!(idle.get("/after").await.status(), 200);
    let line = prusik
        .wait_log("the request after the upgrade", |entry| {
            entry["path"] == "/after"
        })
        .await;
    assert_eq!(line["client"], "192.0.2.1");
    drop(session);
    assert_eq!(prusik.session_close().await["client"], "192.0.2.1");
}

#[tokio::test]
async fn a_reload_cannot_change_it() {
    let origin = Origin::start(telling).await;
    let config = Config::to(&[&origin]).top("trusted_proxies: [127.0.0.1]");
    let prusik = Prusik::start(&config).await;
    let changed = config.listener("proxy_protocol: required");
    let Outcome::Refused(said) = prusik.reload_with(changed).await else {
        panic!("it was taken");
    };
    assert!(
        said.contains("proxy_protocol") && said.contains("prusik upgrade"),
        "{said}"
    );
}

/// A server that says what each connection began with.
struct Recorder {
    listener: TcpListener,
}

impl Recorder {
    fn start() -> Self {
        Self { listener: listen() }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("it is bound")
    }

    /// The next connection, and its first bytes up to `end`.
    async fn accept(&self, end: &[u8]) -> (TcpStream, Vec<u8>) {
        let (mut socket, _) = within("a connection", self.listener.accept())
            .await
            .expect("it can be accepted");
        let mut bytes = Vec::new();
        while !bytes.ends_with(end) {
            bytes.push(
                within("the first bytes", socket.read_u8())
                    .await
                    .expect("it is open"),
            );
        }
        (socket, bytes)
    }
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn sends(recorder: &Recorder, version: &str) -> Config {
    Config::to(&[])
        .server(recorder.address())
        .upstream(format!("proxy_protocol: {version}"))
}

#[tokio::test]
async fn servers_are_told_the_client_before_anything_else() {
    let server = Recorder::start();
    for version in ["v1", "v2"] {
        let prusik = Prusik::start(sends(&server, version)).await;
        let (socket, local) = (
            TcpStream::connect(prusik.public()).await.unwrap(),
            prusik.public(),
        );
        let peer = socket.local_addr().unwrap();
        let expected = match version {
            "v1" => format!(
                "PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n",
                peer.port(),
                local.port()
            )
            .into_bytes(),
            _ => {
                let (from, to) = (peer.port().to_be_bytes(), local.port().to_be_bytes());
                v2(
                    0x21,
                    0x11,
                    &[&[127, 0, 0, 1, 127, 0, 0, 1][..], &from, &to].concat(),
                )
            }
        };
        let mut client = Client {
            wire: support::Wire::new(socket),
        };
        for request in [GET.to_owned(), handshake("/")] {
            client.send(request).await;
            let (mut socket, bytes) = server.accept(b"\r\n\r\n").await;
            // A signature ends like a head.
            let bytes = match version {
                "v1" => bytes,
                _ => [bytes, read_head(&mut socket).await].concat(),
            };
            assert!(
                bytes.starts_with(&expected),
                "{}",
                String::from_utf8_lossy(&bytes)
            );
            assert!(bytes[expected.len()..].starts_with(b"GET / HTTP/1.1\r\n"));
            socket.write_all(OK).await.unwrap();
            assert_eq!(client.response().await.status(), 200);
            // The next is a new connection.
            drop(socket);
        }
    }
}

async fn read_head(socket: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(
            within("a head", socket.read_u8())
                .await
                .expect("it is open"),
        );
    }
    bytes
}

#[tokio::test]
async fn a_kept_connection_serves_one_client_only() {
    let server = Recorder::start();
    let prusik = Prusik::start(sends(&server, "v1")).await;
    let mut first = Client::connect(prusik.public()).await;
    first.send(GET).await;
    let (mut kept, _) = server.accept(b"\r\n\r\n").await;
    kept.write_all(OK).await.unwrap();
    assert_eq!(first.response().await.status(), 200);
    // The same client's next request is what the server was told.
    first.send(GET).await;
    let head = read_head(&mut kept).await;
    assert!(
        head.starts_with(b"GET / "),
        "{}",
        String::from_utf8_lossy(&head)
    );
    kept.write_all(OK).await.unwrap();
    assert_eq!(first.response().await.status(), 200);
    // Another client's is not.
    let mut second = Client::connect(prusik.public()).await;
    second.send(GET).await;
    let (mut other, bytes) = server.accept(b"\r\n\r\n").await;
    assert!(bytes.starts_with(b"PROXY TCP4 127.0.0.1 "));
    other.write_all(OK).await.unwrap();
    assert_eq!(second.response().await.status(), 200);
}

#[tokio::test]
async fn health_checks_name_nobody() {
    for (version, header) in [
        ("v1", b"PROXY UNKNOWN\r\n".to_vec()),
        ("v2", v2(0x20, 0, &[])),
    ] {
        let server = Recorder::start();
        let config = sends(&server, version).upstream("health_check: { type: http, path: /up }");
        let _prusik = Prusik::start(config).await;
        let (_, bytes) = server.accept(b"GET /up HTTP/1.1\r\n").await;
        assert!(
            bytes.starts_with(&header),
            "{}",
            String::from_utf8_lossy(&bytes)
        );
        let config = sends(&server, version).upstream("health_check: { type: tcp }");
        let _prusik = Prusik::start(config).await;
        let (_, bytes) = server.accept(&header).await;
        assert_eq!(bytes, header);
    }
}

#[tokio::test]
async fn two_tiers_pass_the_client_on() {
    let origin = Origin::start(telling).await;
    let second = Prusik::start(required(&origin, "127.0.0.1")).await;
    for version in ["v1", "v2"] {
        let first = Config::to(&[])
            .server(second.public())
            .upstream(format!("proxy_protocol: {version}"))
            .upstream("health_check: { type: http, path: / }")
            .upstream("tls: off");
        let first = Prusik::start(first).await;
        let client = TcpStream::connect(first.public()).await.unwrap();
        let peer = client.local_addr().unwrap();
        let mut client = Client {
            wire: support::Wire::new(client),
        };
        let told = client.get("/").await.text();
        let expected = format!("{peer} {} | ", first.public());
        assert!(told.starts_with(&expected), "{told}");
    }
    let health = |entry: &serde_json::Value| {
        entry["user_agent"]
            .as_str()
            .is_some_and(|a| a.contains("health check"))
    };
    second.wait_log("a health check", health).await;
}

#[tokio::test]
async fn before_tls_to_a_server_as_well() {
    let server = Recorder::start();
    let prusik = Prusik::start(sends(&server, "v1").upstream("tls: { verify: false }")).await;
    let mut client = Client::connect(prusik.public()).await;
    client.send(GET).await;
    let (mut socket, header) = server.accept(b"\r\n").await;
    assert!(header.starts_with(b"PROXY TCP4 127.0.0.1 "));
    // A TLS record of the handshake.
    assert_eq!(
        within("a ClientHello", socket.read_u8()).await.unwrap(),
        0x16
    );
}

#[tokio::test]
async fn a_client_that_a_proxy_speaks_for_is_named_without_a_port() {
    let server = Recorder::start();
    let prusik = Prusik::start(sends(&server, "v1").top("trusted_proxies: [127.0.0.1]")).await;
    let mut client = Client::connect(prusik.public()).await;
    client
        .send("GET / HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n")
        .await;
    let (_, header) = server.accept(b"\r\n").await;
    let port = prusik.public().port();
    let expected = format!("PROXY TCP4 203.0.113.9 127.0.0.1 0 {port}\r\n");
    assert_eq!(String::from_utf8_lossy(&header), expected);
}

#[test]
fn a_listener_that_nobody_could_use_is_an_error() {
    let output = check("listeners: [{ listen: 127.0.0.1:0, proxy_protocol: required }]\n");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("nobody can connect") && said.contains("trusted_proxies"),
        "{said}"
    );
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_header() {
    let origin = Origin::start(telling).await;
    let mut prusik = Prusik::start(required(&origin, "127.0.0.1")).await;
    let before = prusik.fds();
    let _silent = Client::connect(prusik.public()).await;
    eventually("the connection is accepted", async || prusik.fds() > before).await;
    prusik.signal("TERM");
    assert_eq!(prusik.exit_code().await, Some(0));
}
