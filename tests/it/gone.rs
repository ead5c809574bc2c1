//! A side of a session that goes without a Close frame: how long the session outlasts it, whatever
//! the other side does, and that nobody who is still there loses anything.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::support::http2::Http2Site;
use crate::support::{
    Answer, Authority, Config, Duplex, Frame, Origin, Prusik, RawSession, certificates,
    client_frame, eventually, handshake, listen, within,
};
use futures_util::future::join_all;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

const ADMIN: &str = "admin: { listen: \"127.0.0.1:0\" }";
const NAME: &str = "chat.test";

/// What a session has left when its client takes nothing more, and what a busy machine may add.
const BOUND: Duration = Duration::from_secs(5 + 2);

/// Servers that end neither by themselves nor because their clients have.
const SERVERS: [&str; 5] = ["/silent", "/often", "/seldom", "/pings", "/floods"];

/// Serves sessions until the test ends: what each server does is the path that its client asks for.
async fn serve(listener: TcpListener) {
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        // How it ends is seen from the other side.
        tokio::spawn(speak(stream));
    }
}

async fn speak(mut stream: TcpStream) -> io::Result<()> {
    let head = take_head(&mut stream).await?;
    let key = head
        .lines()
        .find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "));
    let accept = derive_accept_key(key.unwrap_or_default().as_bytes());
    let switch = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(switch.as_bytes()).await?;
    let target = head.split(' ').nth(1).unwrap_or_default();
    let flood = [&[0x82, 126, 0x40, 0x00][..], &[7; 16 * 1024]].concat();
    let (says, every): (&[u8], u64) = match target.split('?').next().unwrap_or_default() {
        "/often" => (TICK, 100),
        "/seldom" => (TICK, 1000),
        "/pings" => (b"\x89\x00", 100),
        "/floods" => (&flood, 0),
        "/deaf" => return std::future::pending().await,
        _ => {
            // It says that it has seen the end, and nothing else.
            stream.read_to_end(&mut Vec::new()).await?;
            stream.write_all(TICK).await?;
            return std::future::pending().await;
        }
    };
    loop {
        stream.write_all(says).await?;
        // How often a server says something is what the tests choose by the target.
        tokio::time::sleep(Duration::from_millis(every)).await;
    }
}

const TICK: &[u8] = b"\x81\x04tick";

/// Not a byte more.
async fn take_head(stream: &mut (impl Duplex + ?Sized)) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// How a client goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Going {
    Reset,
    Close,
    /// With something in its socket that it has not read.
    CloseUnread,
    FinishAndReset,
    /// It has said that it goes, and does.
    SayGoodbyeAndReset,
}

const GOINGS: [Going; 5] = [
    Going::Reset,
    Going::Close,
    Going::CloseUnread,
    Going::FinishAndReset,
    Going::SayGoodbyeAndReset,
];

impl Going {
    /// Nothing tells a client that has closed from one that has finished and listens, until its
    /// server speaks.
    fn is_seen_by(self, server: &str) -> bool {
        server != "/silent" || !matches!(self, Self::Close | Self::CloseUnread)
    }
}

/// A socket that is reset when it is closed, if that is how its client will go.
async fn connect(prusik: &Prusik, going: Going) -> TcpStream {
    let socket = TcpStream::connect(prusik.public()).await;
    let socket = socket.expect("it listens");
    if !matches!(going, Going::Close | Going::CloseUnread) {
        socket.set_zero_linger().expect("a socket can linger");
    }
    socket
}

/// Opens a session and goes; when that was. `socket` is below the stream.
async fn go(mut stream: impl Duplex, socket: TcpStream, path: &str, going: Going) -> Instant {
    let request = handshake(path);
    stream
        .write_all(request.as_bytes())
        .await
        .expect("it takes it");
    stream.flush().await.expect("it takes it");
    let head = take_head(&mut stream).await.expect("a head");
    assert!(head.starts_with("HTTP/1.1 101"), "{path}: {head}");
    let speaks = !path.starts_with("/silent");
    if speaks && going != Going::CloseUnread {
        stream.read_u8().await.expect("it speaks");
    }
    match going {
        Going::Reset | Going::Close => {}
        Going::CloseUnread => {
            socket.peek(&mut [0]).await.expect("it speaks");
        }
        Going::FinishAndReset => {
            stream.shutdown().await.expect("it is there");
            // More than what was under way. (In Pingora's tunnel the session has ended then.)
            let _ = stream
                .read_exact(&mut [0; 2 * TICK.len()][..if speaks { 12 } else { 1 }])
                .await;
        }
        Going::SayGoodbyeAndReset => {
            let goodbye = client_frame(8, &1001_u16.to_be_bytes());
            stream.write_all(&goodbye).await.expect("it is there");
            stream.flush().await.expect("it is there");
        }
    }
    drop((stream, socket));
    Instant::now()
}

/// When the admin API has answered, all is open that does not belong to a client.
async fn descriptors(prusik: &Prusik) -> usize {
    prusik.status().await;
    prusik.fds()
}

/// `before`: the descriptors when nobody had connected. A listener opens one for its first accept.
async fn all_closed(prusik: &Prusik, before: usize) {
    eventually("both sockets of each session are closed", async || {
        prusik.fds() <= before + 1
    })
    .await;
}

fn is_close_of(entry: &Value, path: &str) -> bool {
    entry["kind"] == "session_close" && entry["path"] == path
}

/// Every kind of server, left by its client in every way; `wrap` puts TLS around a socket.
async fn left_in_every_way<D: Duplex>(prusik: &Prusik, wrap: impl AsyncFn(TcpStream) -> D) {
    let before = descriptors(prusik).await;
    let wrap = &wrap;
    let pairs = SERVERS
        .iter()
        .flat_map(|server| GOINGS.map(|going| (*server, going)));
    let seen = pairs.filter(|(server, going)| going.is_seen_by(server));
    let endings = seen.map(|(server, going)| async move {
        let path = format!("{server}?{going:?}");
        let socket = connect(prusik, going).await;
        let below = socket.as_fd().try_clone_to_owned().expect("a descriptor");
        let below = TcpStream::from_std(below.into()).expect("inside the runtime");
        let stream = wrap(socket).await;
        let gone = within(&path, go(stream, below, &path, going)).await;
        let close = prusik
            .wait_log(&path, |entry| is_close_of(entry, &path))
            .await;
        let lasted = gone.elapsed();
        assert!(lasted < BOUND, "{path}: {lasted:?}");
        assert_eq!(close["closed_by"], "client", "{path}");
    });
    let count = join_all(endings).await.len();
    assert_eq!(count, SERVERS.len() * GOINGS.len() - 2);
    all_closed(prusik, before).await;
}

/// A server of every kind behind a listener; its two tunnels in turn.
async fn start(tunnel: &str, change: impl FnOnce(Config) -> Config) -> Prusik {
    let listener = listen();
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(serve(listener));
    let tunnel = format!("server: {{ tunnel: {tunnel} }}");
    let config = Config::to(&[]).server(address).top(tunnel).top(ADMIN);
    Prusik::start(change(config)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_with_its_client_whatever_its_server_says() {
    for tunnel in ["relay", "pingora"] {
        let prusik = start(tunnel, |config| config).await;
        left_in_every_way(&prusik, async |socket| socket).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_by_tls_ends_with_its_client_whatever_its_server_says() {
    let authority = Authority::new();
    let pair = authority.issue("chat", &[NAME]);
    let tls = authority.client();
    for tunnel in ["relay", "pingora"] {
        let prusik = start(tunnel, |config| config.tls(certificates(&[&pair]))).await;
        left_in_every_way(&prusik, async |socket| tls.over(socket, NAME).await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_on_a_stream_ends_with_the_stream_whatever_its_server_says() {
    for tunnel in ["relay", "pingora"] {
        let origin = Origin::start(|request| {
            let tick = |answer: Answer, _| answer.send(TICK).wait(Duration::from_millis(100));
            match request.target().starts_with("/often") {
                true => (0..1000).fold(Answer::upgrade(request), tick),
                false => Answer::upgrade(request).hang(),
            }
        })
        .await;
        let tunnel = format!("server: {{ tunnel: {tunnel} }}");
        let site = Http2Site::start(origin, |config| config.top(tunnel)).await;
        let mut client = site.client().await;
        for (server, finishes) in [("/silent", false), ("/often", false), ("/often", true)] {
            let path = format!("{server}?{finishes}");
            let (response, mut receive, mut send) = client.connect(&path).await;
            assert_eq!(response.status(), 200);
            if server == "/often" {
                let data = within("a word", receive.data()).await;
                data.expect("it speaks").expect("no reset");
            }
            if finishes {
                send.send_data(Default::default(), true)
                    .expect("it is there");
                // In Pingora's tunnel the session has ended then.
                let _ = within("a word", receive.data()).await;
            }
            send.send_reset(h2::Reason::CANCEL);
            let gone = Instant::now();
            let is_it = |entry: &Value| is_close_of(entry, &path);
            let close = site.prusik.wait_log(&path, is_it).await;
            assert!(gone.elapsed() < BOUND, "{path}: {:?}", gone.elapsed());
            assert_eq!(close["closed_by"], "client", "{path}");
        }
        eventually("no server has a session", async || site.origin.open() == 0).await;
    }
}

/// Nobody reads what it says then: its reset is seen all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_with_its_client_though_its_server_takes_nothing() {
    for tunnel in ["relay", "pingora"] {
        let prusik = start(tunnel, |config| config).await;
        let before = descriptors(&prusik).await;
        let mut client = say_until_stuck(&prusik).await;
        client.set_zero_linger().expect("a socket can linger");
        client.flush().await.expect("it is there");
        drop(client);
        let gone = Instant::now();
        assert_eq!(prusik.session_close().await["closed_by"], "client");
        assert!(gone.elapsed() < BOUND, "{tunnel}: {:?}", gone.elapsed());
        all_closed(&prusik, before).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_whose_server_takes_nothing_hears_an_order() {
    for tunnel in ["relay", "pingora"] {
        let prusik = start(tunnel, |config| config).await;
        let _client = say_until_stuck(&prusik).await;
        let open = prusik.wait_log("session_open", |_| true).await;
        prusik
            .order(&["close", open["id"].as_str().expect("an id")])
            .await;
        assert_eq!(
            prusik.session_close().await["closed_by"],
            "operator",
            "{tunnel}"
        );
    }
}

/// A client whose server takes nothing, so that nobody takes anything from it any more.
async fn say_until_stuck(prusik: &Prusik) -> TcpStream {
    let mut client = connect(prusik, Going::Close).await;
    client
        .write_all(handshake("/deaf").as_bytes())
        .await
        .expect("it takes it");
    take_head(&mut client).await.expect("a head");
    let frame = client_frame(2, &[7; 32 * 1024]);
    let saying = async {
        loop {
            // For as long as somebody takes it.
            let said = client.write_all(&frame);
            if tokio::time::timeout(Duration::from_secs(1), said)
                .await
                .is_err()
            {
                return;
            }
        }
    };
    within("nobody takes more", saying).await;
    client
}

/// Though prusik would ping it: that it does not answer says nothing.
#[tokio::test]
async fn a_client_that_has_finished_hears_all_that_its_server_says() {
    const WORDS: u32 = 80;
    let origin = Origin::start(|request| {
        let say = |answer: Answer, number: u32| {
            let word = Frame::text(&number.to_string()).unmasked();
            answer.send(word).wait(Duration::from_millis(100))
        };
        let goodbye = Frame {
            opcode: 8,
            payload: 1000_u16.to_be_bytes().to_vec(),
        };
        let answer = (0..WORDS).fold(Answer::upgrade(request), say);
        answer.send(goodbye.unmasked()).close()
    })
    .await;
    let config = Config::to(&[&origin]).route("websocket: { ping: 1s }");
    let prusik = Prusik::start(config).await;
    let mut session = RawSession::open(prusik.public(), handshake("/")).await;
    session.client.wire.finish().await.expect("it is there");
    for number in 0..WORDS {
        assert_eq!(session.frame().await, Frame::text(&number.to_string()));
    }
    assert_eq!(session.frame().await.opcode, 8);
    session.client.expect_end().await;
    // It has ended the session, and its server has said the only code.
    let close = prusik.session_close().await;
    assert_eq!(
        (&close["closed_by"], &close["messages_out"]),
        (&"client".into(), &WORDS.into())
    );
    assert_eq!(close["close_code"], 1000, "{close}");
}
