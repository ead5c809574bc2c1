//! Sessions end with the credential that has let them in.
//!
//! Here it is the client's certificate or its token, which ends some seconds after a test has
//! begun.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use futures_util::future::join_all;
use rcgen::date_time_ymd;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::sleep;

use crate::support::events::{EventClient, EventServer, StreamEnd};
use crate::support::keys::{Keys, bearer, now};
use crate::support::{
    ACCEPT, Authority, Client, Config, Ended, Frame, Origin, Outcome, Pair, Prusik, RawSession,
    ServiceManager, Session, TlsClient, certificates, client_frame, handshake, handshake_with,
    listen,
};

const TOP: &str = "admin: { listen: \"127.0.0.1:0\" }\n\
                   server: { drain: { window: 0s, deadline: 20s } }";

const ON_EXPIRY: &str = "websocket: { on_expiry: 4401 }";

/// How long before its end a session may be told.
const LAST_MOMENTS: Duration = Duration::from_secs(2);

/// How long a token is good after its `exp`, in seconds.
const LEEWAY: u64 = 2;

/// Clients that show a certificate, and perhaps a token too.
struct Site {
    authority: Authority,
    pair: Pair,
    keys: Option<Keys>,
}

/// A client, and when its certificate or its token ends, whichever is first.
struct Guest {
    client: TlsClient,
    token: Option<String>,
    ends: SystemTime,
}

impl Site {
    fn new() -> Self {
        let authority = Authority::new();
        let pair = authority.issue("chat", &["chat.test"]);
        Self {
            authority,
            pair,
            keys: None,
        }
    }

    /// Tokens end before the certificates.
    fn with_tokens() -> Self {
        Self {
            keys: Some(Keys::new()),
            ..Self::new()
        }
    }

    fn secure(&self, config: Config) -> Config {
        let (pair, ca) = (certificates(&[&self.pair]), self.authority.file());
        let config = config.tls(format!("{pair}, client_ca: \"{}\"", ca.display()));
        match &self.keys {
            Some(keys) => config.route(keys.route(&format!("leeway: {LEEWAY}s"))),
            None => config,
        }
    }

    /// `seconds`: how long its credential is valid, give or take one.
    fn guest(&self, seconds: u64) -> Guest {
        // Certificates and most tokens know no parts of seconds.
        let ends = now() + seconds;
        let not_after = match self.keys {
            Some(_) => ends + 60,
            None => ends,
        };
        let shown = self
            .authority
            .issue_with("client", &["client.test"], |params| {
                params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(not_after);
            });
        let token = |keys: &Keys| keys.token(json!({ "sub": "alice", "exp": ends - LEEWAY }));
        Guest {
            client: self.authority.client().with(&shown),
            token: self.keys.as_ref().map(token),
            ends: UNIX_EPOCH + Duration::from_secs(ends),
        }
    }
}

impl Guest {
    async fn connect(&self, prusik: &Prusik) -> Client {
        self.client.connect(prusik.public(), "chat.test").await
    }

    async fn session(&self, prusik: &Prusik) -> Session {
        let stream = self.client.try_connect(prusik.public(), "chat.test").await;
        let session = Session::over(stream.expect("a handshake"), "/").await;
        session.expect("a session")
    }

    /// The field with its token.
    fn authorization(&self) -> String {
        bearer(self.token.as_deref().expect("it has a token"))
    }

    /// It is told now. A machine with much to do may be late.
    fn assert_told_in_time(&self) {
        let (told, first) = (SystemTime::now(), self.ends - LAST_MOMENTS);
        assert!(told >= first, "{:?} too early", first.duration_since(told));
        let late = told.duration_since(self.ends).unwrap_or_default();
        assert!(late < Duration::from_secs(5), "{late:?} too late");
    }

    /// Waits until the credential has ended.
    async fn is_over(&self) {
        while let Ok(remaining) = self.ends.duration_since(SystemTime::now()) {
            sleep(remaining + Duration::from_millis(1)).await;
        }
    }
}

fn config(origin: &Origin, route: &str) -> Config {
    Config::to(&[origin]).top(TOP).route(route)
}

async fn expect_expiry(prusik: &Prusik, close_code: Value) {
    let close = prusik.session_close().await;
    assert_eq!(close["closed_by"], "expiry", "{close}");
    assert_eq!(close["close_code"], close_code, "{close}");
}

#[tokio::test]
async fn both_sides_are_told_in_the_last_moments_with_a_code_and_a_reason() {
    let (site, origin) = (Site::new(), Origin::chat().await);
    let prusik = Prusik::start(site.secure(config(&origin, ON_EXPIRY))).await;
    let guest = site.guest(5);
    let client = guest.connect(&prusik).await;
    let mut session = RawSession::over(client, handshake("/")).await;
    let close = session.frame().await;
    guest.assert_told_in_time();
    assert_eq!(
        (close.opcode, &close.payload[..2]),
        (8, &4401_u16.to_be_bytes()[..])
    );
    assert_eq!(close.payload[2..], *b"credential expired");
    expect_expiry(&prusik, 4401.into()).await;
    assert_eq!(origin.closes(), [4401]);
}

/// A client that takes no notice of its Close frame.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_passes_of_who_goes_on_talking() {
    let (site, server) = (Site::new(), listen());
    let address = server.local_addr().expect("it is bound");
    let config = Config::to_addresses(&[address]).top(TOP).route(ON_EXPIRY);
    let prusik = Prusik::start(site.secure(config)).await;
    let serving = tokio::spawn(heard_by(server));
    let guest = site.guest(4);
    let stream = guest.client.try_connect(prusik.public(), "chat.test").await;
    let (mut hears, mut talks) = tokio::io::split(stream.expect("a handshake"));
    talks.write_all(handshake("/").as_bytes()).await.unwrap();
    let hearing = tokio::spawn(async move {
        let (mut bytes, mut told) = (Vec::new(), None);
        while let Ok(1..) = hears.read_buf(&mut bytes).await {
            if told.is_none() && bytes.ends_with(b"credential expired") {
                told = Some(Instant::now());
            }
        }
        told
    });
    while talks.write_all(&client_frame(1, b"on")).await.is_ok() {
        sleep(Duration::from_millis(5)).await;
    }
    let told = hearing.await.expect("no panic").expect("it was told");
    let (last, close) = serving.await.expect("no panic");
    let late = last.expect("some came").saturating_duration_since(told);
    assert!(late < Duration::from_millis(1800), "{late:?}");
    assert_eq!(close, Some(4401));
    expect_expiry(&prusik, 4401.into()).await;
}

/// When the last text came to the server, and with which code the session was closed.
async fn heard_by(server: TcpListener) -> (Option<Instant>, Option<u16>) {
    let (mut stream, _) = server.accept().await.expect("a session");
    let (mut bytes, mut last) = (BytesMut::new(), None);
    while !bytes.ends_with(b"\r\n\r\n") {
        stream.read_buf(&mut bytes).await.expect("a head");
    }
    let switch = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    );
    stream.write_all(switch.as_bytes()).await.expect("it reads");
    bytes.clear();
    while let Ok(1..) = stream.read_buf(&mut bytes).await {
        // Two bytes of a header, four of a mask, and the payload.
        while bytes.len() >= 6 && bytes.len() >= 6 + usize::from(bytes[1] & 0x7F) {
            let length = usize::from(bytes[1] & 0x7F);
            let frame = bytes.split_to(6 + length);
            if frame[0] == 0x88 {
                let code = [frame[6] ^ frame[2], frame[7] ^ frame[3]];
                return (last, Some(u16::from_be_bytes(code)));
            }
            last = Some(Instant::now());
        }
    }
    (last, None)
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_have_moved_end_in_time_and_not_all_at_once() {
    let (site, origin) = (Site::new(), Origin::chat().await);
    let mut prusik = Prusik::start(site.secure(config(&origin, ON_EXPIRY))).await;
    let guest = site.guest(15);
    let mut sessions = join_all((0..10).map(|_| guest.session(&prusik))).await;
    for _ in 0..2 {
        let said = prusik.upgrade().await;
        assert!(said.contains("10 sessions moved, 0 told to go"), "{said}");
    }
    let ended = join_all(sessions.iter_mut().map(|session| async {
        let ended = session.ended().await;
        guest.assert_told_in_time();
        (ended, SystemTime::now())
    }))
    .await;
    assert!(
        ended.iter().all(|(ended, _)| *ended == Ended::Close(4401)),
        "{ended:?}"
    );
    let times = || ended.iter().map(|(_, time)| *time);
    let spread = times()
        .max()
        .expect("some")
        .duration_since(times().min().expect("some"));
    assert!(
        spread.expect("it is later") > Duration::from_millis(200),
        "{ended:?}"
    );
    let status = prusik.status().await;
    assert_eq!(status["ended"]["expiry"], 10, "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_puts_no_end_off() {
    let (site, origin, manager) = (Site::new(), Origin::chat().await, ServiceManager::new());
    let top = format!(
        "server: {{ drain: {{ window: 200ms, deadline: 20s }} }}\n\
         admin: {{ listen: \"unix:{}/admin.sock\" }}",
        manager.folder().display()
    );
    let config = site.secure(Config::to(&[&origin]).top(top).route(ON_EXPIRY));
    let mut prusik = manager.start(&config).await;
    let guest = site.guest(8);
    let mut session = guest.session(&prusik).await;
    assert_eq!(manager.begin_restart(&prusik), "");
    assert_eq!(prusik.exit_code().await, Some(0), "{}", prusik.stderr());
    prusik = manager.start(&config).await;
    prusik.wait_stderr("1 sessions moved, 0 told to go").await;
    assert!(session.is_alive().await);
    assert_eq!(session.ended().await, Ended::Close(4401));
    guest.assert_told_in_time();
    expect_expiry(&prusik, 4401.into()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn event_streams_end_between_two_events_and_in_order() {
    let (site, mut server) = (Site::new(), EventServer::start());
    let config = Config::to_addresses(&[server.address()]).top(TOP);
    let mut prusik = Prusik::start(site.secure(config.route(ON_EXPIRY))).await;
    let guest = site.guest(8);
    let mut client = guest.connect(&prusik).await;
    client
        .send("GET /events HTTP/1.1\r\nHost: test\r\n\r\n")
        .await;
    let (mut asked, mut events) = tokio::join!(server.stream(), EventClient::of(client));
    prusik.upgrade().await;
    asked.event(1).await;
    events.expect(1).await;
    assert_eq!(events.ended().await, StreamEnd::InOrder);
    guest.assert_told_in_time();
    expect_expiry(&prusik, Value::Null).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_its_token_and_the_leeway_of_that_wherever_it_is_then() {
    let (site, origin) = (Site::with_tokens(), Origin::chat().await);
    let mut prusik = Prusik::start(site.secure(config(&origin, ON_EXPIRY))).await;
    let guest = site.guest(12);
    let client = guest.connect(&prusik).await;
    let handshake = handshake_with("/", &[&guest.authorization()]);
    let mut session = RawSession::over(client, handshake).await;
    let said = prusik.upgrade().await;
    assert!(said.contains("1 session moved, 0 told to go"), "{said}");
    session.send(client_frame(1, b"hello")).await;
    assert_eq!(session.frame().await, Frame::text("hello"));
    let close = session.frame().await;
    guest.assert_told_in_time();
    assert_eq!(
        (close.opcode, &close.payload[..2]),
        (8, &4401_u16.to_be_bytes()[..])
    );
    assert_eq!(close.payload[2..], *b"credential expired");
    expect_expiry(&prusik, 4401.into()).await;
    let close = prusik.session_close().await;
    assert_eq!(close["user"], "alice", "{close}");
    assert_eq!(origin.closes(), [4401]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_ends_with_its_token_too() {
    let (site, mut server) = (Site::with_tokens(), EventServer::start());
    let config = Config::to_addresses(&[server.address()]).top(TOP);
    let mut prusik = Prusik::start(site.secure(config.route(ON_EXPIRY))).await;
    let guest = site.guest(12);
    let mut client = guest.connect(&prusik).await;
    let field = guest.authorization();
    let request = format!("GET /events HTTP/1.1\r\nHost: test\r\n{field}\r\n\r\n");
    client.send(request).await;
    let (mut asked, mut events) = tokio::join!(server.stream(), EventClient::of(client));
    prusik.upgrade().await;
    asked.event(1).await;
    events.expect(1).await;
    assert_eq!(events.ended().await, StreamEnd::InOrder);
    guest.assert_told_in_time();
    expect_expiry(&prusik, Value::Null).await;
}

#[tokio::test]
async fn in_pingoras_tunnel_a_session_ends_too() {
    let (site, origin) = (Site::new(), Origin::chat().await);
    let config = Config::to(&[&origin]).top("server: { tunnel: pingora }");
    let prusik = Prusik::start(site.secure(config.route(ON_EXPIRY))).await;
    let guest = site.guest(5);
    let (mut quiet, mut busy) = (guest.session(&prusik).await, guest.session(&prusik).await);
    let talking = async {
        while busy.is_alive().await {
            sleep(Duration::from_millis(20)).await;
        }
        guest.assert_told_in_time();
    };
    let waiting = async {
        assert_eq!(quiet.ended().await, Ended::Close(4401));
        guest.assert_told_in_time();
    };
    tokio::join!(talking, waiting);
    expect_expiry(&prusik, 4401.into()).await;
}

#[tokio::test]
async fn a_session_keeps_what_it_was_opened_with() {
    let (site, origin) = (Site::new(), Origin::chat().await);
    let with = site.secure(config(&origin, ON_EXPIRY));
    let without = site.secure(config(&origin, "websocket: { on_expiry: off }"));
    let prusik = Prusik::start(&with).await;
    let guest = site.guest(6);
    let mut ends = guest.session(&prusik).await;
    assert_eq!(prusik.reload_with(without).await, Outcome::Done);
    let mut stays = guest.session(&prusik).await;
    assert_eq!(prusik.reload_with(with).await, Outcome::Done);
    assert_eq!(ends.ended().await, Ended::Close(4401));
    guest.assert_told_in_time();
    guest.is_over().await;
    assert!(stays.is_alive().await);
}

#[tokio::test]
async fn a_credential_in_its_last_moments_gives_what_is_left_of_them() {
    let (site, origin) = (Site::new(), Origin::chat().await);
    let prusik = Prusik::start(site.secure(config(&origin, ON_EXPIRY))).await;
    let guest = site.guest(2);
    let mut kept = guest.connect(&prusik).await;
    let mut session = guest.session(&prusik).await;
    assert_eq!(session.ended().await, Ended::Close(4401));
    guest.assert_told_in_time();
    // A connection that was kept, behind the end.
    guest.is_over().await;
    assert_eq!(kept.get("/").await.status(), 200);
    let mut late = RawSession::over(kept, handshake("/")).await;
    let close = late.frame().await;
    assert_eq!(
        (close.opcode, &close.payload[..2]),
        (8, &4401_u16.to_be_bytes()[..])
    );
}
