//! Sessions and idle connections by TLS move to a new process as plain ones do, with their keys.

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use crate::support::events::{EventClient, EventServer, StreamEnd};
use crate::support::{
    Answer, Authority, Client, Config, Ended, Origin, Prusik, Received, Session, certificates,
    client_frame, eventually, fake_new, free_address, handshake, tls_connect, within,
};
use futures_util::future::join_all;
use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Clients and servers by TLS and in plain text: `/secure` goes to a server by TLS.
struct Site {
    authority: Authority,
    _origins: [Origin; 2],
    prusik: Prusik,
}

fn chat(request: &Received) -> Answer {
    match request.wants_upgrade() {
        true => Answer::upgrade(request),
        false => Answer::text("hello"),
    }
}

impl Site {
    async fn start(server: &str) -> Self {
        let authority = Authority::new();
        let (pair, internal) = (
            authority.issue("chat", &["chat.test"]),
            authority.issue("internal", &["chat.internal"]),
        );
        let tls = authority.server(&internal, false);
        let origins = [Origin::start(chat).await, Origin::secure(tls, chat).await];
        let yaml = format!(
            "server: {{ {server} }}\nadmin: {{ listen: \"127.0.0.1:0\" }}\n\
             listeners:\n  - {{ listen: \"127.0.0.1:0\", name: secure, tls: {{ {} }} }}\n  \
             - {{ listen: \"127.0.0.1:0\", name: plain }}\n\
             upstreams:\n  plain: {{ servers: [\"{}\"] }}\n  secure:\n    servers: [\"{}\"]\n    \
             tls: {{ sni: chat.internal, ca: \"{}\" }}\n\
             routes:\n  - {{ match: {{ path_prefix: /secure }}, upstream: secure }}\n  \
             - {{ match: {{ path_prefix: / }}, upstream: plain }}\n",
            certificates(&[&pair]),
            origins[0].address(),
            origins[1].address(),
            authority.file().display(),
        );
        let prusik = Prusik::start_noting_nonces(yaml).await;
        Self {
            authority,
            _origins: origins,
            prusik,
        }
    }

    /// `version`: `None` for plain text.
    async fn session(
        &self,
        version: Option<&'static SupportedProtocolVersion>,
        path: &str,
    ) -> Session {
        let Some(version) = version else {
            return Session::open(self.prusik.address("plain"), path).await;
        };
        let client = self.authority.client().only(version);
        let address = self.prusik.address("secure");
        let stream = client.try_connect(address, "chat.test").await;
        let session = Session::over(stream.expect("a handshake"), path).await;
        session.expect("a session")
    }

    /// Of every kind.
    async fn sessions(&self) -> Vec<Session> {
        let mut sessions = Vec::new();
        for version in [None, Some(&TLS12), Some(&TLS13)] {
            for path in ["/", "/secure"] {
                sessions.push(self.session(version, path).await);
            }
        }
        sessions
    }

    async fn client(&self) -> Client {
        let client = self.authority.client();
        let address = self.prusik.address("secure");
        client.connect(address, "chat.test").await
    }
}

/// No key has sealed two records with one nonce, in whichever process.
fn judge_nonces(prusik: &Prusik, at_least: usize) {
    let noted = fs::read_to_string(prusik.nonces()).expect("some were noted");
    let mut seen = HashSet::new();
    for line in noted.lines() {
        assert!(seen.insert(line), "{line} was used twice");
    }
    assert!(seen.len() >= at_least, "{} are noted", seen.len());
}

const SERVER: &str = "drain: { window: 500ms, deadline: 20s }";

#[tokio::test(flavor = "multi_thread")]
async fn everything_by_tls_moves_while_it_talks() {
    let mut site = Site::start(SERVER).await;
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.extend(site.sessions().await);
    }
    let count = sessions.len();
    let is_over = Arc::new(AtomicBool::new(false));
    let talking = sessions.into_iter().map(|mut session| {
        let is_over = is_over.clone();
        tokio::spawn(async move {
            let mut number = 0;
            while !is_over.load(SeqCst) {
                let text = format!("{number} {}", "x".repeat(number % 40 * 1000));
                assert_eq!(session.ask(&text).await, text);
                number += 1;
            }
            session
        })
    });
    let talking: Vec<_> = talking.collect();
    let mut clients = join_all((0..4).map(|_| site.client())).await;
    for round in 0..4 {
        for client in &mut clients {
            let answer = client.get("/").await;
            assert_eq!(answer.text(), "hello", "round {round}");
            assert_eq!(answer.field("connection"), Some("keep-alive"));
        }
        let said = site.prusik.upgrade().await;
        let moved = format!("{count} sessions moved, 0 told to go");
        assert!(said.contains(&moved), "{said}");
    }
    is_over.store(true, SeqCst);
    for session in talking {
        let mut session = session.await.expect("it has lost nothing");
        assert!(session.is_alive().await);
        assert_eq!(session.close(1000).await, Ended::Close(1000));
    }
    judge_nonces(&site.prusik, 24);
}

/// A connection with a request in flight moves behind its answer, one with half a request with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_by_tls_moves_between_two_requests() {
    let authority = Authority::new();
    let pair = authority.issue("chat", &["chat.test"]);
    let origin = Origin::start(|request| match request.target() {
        "/slow" => Answer::text("slow").after(std::time::Duration::from_millis(1500)),
        _ => Answer::text("quick"),
    })
    .await;
    let config = Config::to(&[&origin])
        .tls(certificates(&[&pair]))
        .top("admin: { listen: \"127.0.0.1:0\" }")
        .top(format!("server: {{ {SERVER} }}"));
    let mut prusik = Prusik::start_own(config).await;
    let client = authority.client();
    let connect = async || client.connect(prusik.public(), "chat.test").await;
    let (mut idle, mut half, mut fresh) = (connect().await, connect().await, connect().await);
    let mut busy = connect().await;
    assert_eq!(idle.get("/").await.text(), "quick");
    half.send("GET /half HTTP/1.1\r\nHo").await;
    busy.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n").await;
    origin.has_got("/slow").await;
    let old = prusik.pid();
    let said = prusik.order(&["upgrade"]).await;
    assert!(said.contains("0 told to go"), "{said}");
    assert_eq!(busy.response().await.text(), "slow");
    half.send("st: test\r\n\r\n").await;
    assert_eq!(half.response().await.text(), "quick");
    for client in [&mut idle, &mut half, &mut fresh, &mut busy] {
        let answer = client.get("/").await;
        assert_eq!(answer.text(), "quick");
        assert_eq!(answer.field("connection"), Some("keep-alive"));
    }
    eventually("the old process is gone", async || {
        prusik.reap();
        !prusik.pids().contains(&old)
    })
    .await;
    for client in [&mut idle, &mut half, &mut fresh, &mut busy] {
        assert_eq!(client.get("/").await.text(), "quick");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tell_no_key_leaves_the_process() {
    let site = Site::start("tls_sessions: tell, drain: { window: 300ms, code: 4012 }").await;
    let mut idle = site.client().await;
    assert_eq!(idle.get("/").await.text(), "hello");
    let mut sessions = site.sessions().await;
    let said = site.prusik.order(&["upgrade"]).await;
    // In plain text on both sides there is one of six.
    assert!(said.contains("1 session moved, 5 told to go"), "{said}");
    let rest = within("the end", idle.wire.some()).await.unwrap();
    assert!(rest.is_empty());
    let mut plain = sessions.remove(0);
    for mut session in sessions {
        assert_eq!(session.ended().await, Ended::Close(4012));
    }
    assert!(plain.is_alive().await);
}

/// It would take the sockets for plain text.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_binary_gets_no_session_by_tls() {
    let mut site = Site::start("drain: { window: 300ms, code: 4012 }").await;
    let mut sessions = site.sessions().await;
    let script = fake_new::script("hand_over::new_process", "is_of_the_second_version");
    site.prusik.replace_program(Some(&script));
    let said = site.prusik.order(&["upgrade"]).await;
    assert!(said.contains("1 session moved, 5 told to go"), "{said}");
    for mut session in sessions.drain(1..) {
        assert_eq!(session.ended().await, Ended::Close(4012));
    }
    site.prusik.signal_all("INT");
    site.prusik.ended().await;
}

/// Whether it refuses or hangs: what it has not adopted is sealed on here, with no nonce twice.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_new_process_does_not_take_goes_on_in_the_old_one() {
    for (role, is_done) in [("refuses_all", true), ("takes_nothing", false)] {
        let mut site = Site::start("drain: { window: 3650d }").await;
        let mut sessions = site.sessions().await;
        let mut client = site.client().await;
        assert_eq!(client.get("/").await.text(), "hello");
        let script = fake_new::script("hand_over::new_process", role);
        site.prusik.replace_program(Some(&script));
        let output = tokio::task::block_in_place(|| site.prusik.operate(&["upgrade"]));
        assert_eq!(output.status.success(), is_done, "{role}: {output:?}");
        for session in &mut sessions {
            assert!(session.is_alive().await, "{role}");
        }
        if !is_done {
            assert_eq!(client.get("/").await.text(), "hello");
        }
        judge_nonces(&site.prusik, 6);
        site.prusik.signal_all("INT");
        site.prusik.ended().await;
    }
}

/// A session as rustls has it, which can change its keys.
struct Keyed(tokio_rustls::client::TlsStream<TcpStream>);

impl Keyed {
    async fn open(site: &Site, path: &str) -> Self {
        let config = site.authority.client().only(&TLS13).config();
        let stream = tls_connect(&config, site.prusik.address("secure"), "chat.test").await;
        let mut keyed = Self(stream.expect("a handshake"));
        keyed.send(handshake(path).as_bytes()).await;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(
                within("a head", keyed.0.read_u8())
                    .await
                    .expect("it is open"),
            );
        }
        assert!(head.starts_with(b"HTTP/1.1 101"));
        keyed
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.expect("it is open");
        self.0.flush().await.expect("it is open");
    }

    async fn asks(&mut self, text: &str) {
        self.send(&client_frame(1, text.as_bytes())).await;
        let mut answer = vec![0; text.len() + 2];
        within("an echo", self.0.read_exact(&mut answer))
            .await
            .expect("it is open");
        assert_eq!(&answer[2..], text.as_bytes());
    }

    /// A KeyUpdate that asks for one.
    fn updates_key(&mut self) {
        self.0
            .get_mut()
            .1
            .refresh_traffic_keys()
            .expect("it is open");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_change_before_and_after_a_move() {
    let mut site = Site::start(SERVER).await;
    let mut sessions = [
        Keyed::open(&site, "/").await,
        Keyed::open(&site, "/secure").await,
    ];
    for round in 0..3 {
        for session in &mut sessions {
            session.updates_key();
            session.asks("with the next key").await;
            // The answer of the proxy comes with its next record.
            session.asks("both").await;
            session.updates_key();
            session.send(&[]).await;
        }
        let said = site.prusik.upgrade().await;
        assert!(
            said.contains("2 sessions moved, 0 told to go"),
            "{round}: {said}"
        );
        for session in &mut sessions {
            session.asks("moved").await;
        }
    }
    judge_nonces(&site.prusik, 24);
}

/// What a client has shown is known after a move, and counts only for who asks the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_still_known_and_other_authorities_count_anew() {
    let (authority, others) = (Authority::new(), Authority::new());
    let pair = authority.issue("chat", &["chat.test"]);
    let identity = authority.issue("app", &["app.test"]);
    let origin = Origin::start(chat).await;
    let route =
        "headers: { request: { set: { X-Seen: \"$ssl_client_verify $ssl_client_s_dn|\" } } }";
    let config = |clients: &Authority| {
        let ca = format!("client_ca: \"{}\"", clients.file().display());
        Config::to(&[&origin])
            .tls(format!("{}, {ca}", certificates(&[&pair])))
            .top("admin: { listen: \"127.0.0.1:0\" }")
            .top(format!("server: {{ {SERVER} }}"))
            .route(route)
    };
    let mut prusik = Prusik::start_own(config(&authority)).await;
    let client = authority.client().with(&identity);
    let mut kept = client.connect(prusik.public(), "chat.test").await;
    assert_eq!(kept.get("/").await.text(), "hello");
    prusik.upgrade().await;
    assert_eq!(kept.get("/").await.text(), "hello");
    let seen = origin
        .received()
        .into_iter()
        .map(|request| request.field("x-seen").map(str::to_owned));
    let seen: Vec<_> = seen.collect();
    assert_eq!(seen[0], seen[1]);
    assert!(
        seen[0]
            .as_ref()
            .is_some_and(|seen| seen.starts_with("SUCCESS ")),
        "{seen:?}"
    );
    prusik.write_config(config(&others));
    prusik.upgrade().await;
    let rest = within("the end", kept.wire.some()).await.unwrap();
    assert!(rest.is_empty());
}

/// Through two listeners by TLS of one process: four sides by TLS, of two sessions.
#[tokio::test(flavor = "multi_thread")]
async fn event_streams_by_tls_move_too() {
    let mut server = EventServer::start();
    let authority = Authority::new();
    let pair = authority.issue("chat", &["chat.test"]);
    let inner = free_address();
    let tls = certificates(&[&pair]);
    let yaml = format!(
        "server: {{ {SERVER} }}\nadmin: {{ listen: \"127.0.0.1:0\" }}\n\
         listeners:\n  - {{ listen: \"127.0.0.1:0\", name: outer, tls: {{ {tls} }} }}\n  \
         - {{ listen: \"{inner}\", name: inner, tls: {{ {tls} }} }}\n\
         upstreams:\n  server: {{ servers: [\"{}\"] }}\n  \
         inner: {{ servers: [\"{inner}\"], tls: {{ sni: chat.test, ca: \"{}\" }} }}\n\
         routes:\n  - {{ match: {{ listener: outer, path_prefix: / }}, upstream: inner }}\n  \
         - {{ match: {{ listener: inner, path_prefix: / }}, upstream: server }}\n",
        server.address(),
        authority.file().display(),
    );
    let mut prusik = Prusik::start_noting_nonces(yaml).await;
    let client = authority.client();
    let mut client = client.connect(prusik.address("outer"), "chat.test").await;
    client
        .send("GET /events HTTP/1.1\r\nHost: chat.test\r\n\r\n")
        .await;
    let (mut asked, mut client) = tokio::join!(server.stream(), EventClient::of(client));
    for number in 0..9 {
        asked.event(number).await;
        client.expect(number).await;
        if number % 3 == 2 {
            let said = prusik.upgrade().await;
            assert!(said.contains("2 sessions moved, 0 told to go"), "{said}");
        }
    }
    asked.end().await;
    assert_eq!(client.ended().await, StreamEnd::InOrder);
    judge_nonces(&prusik, 12);
}
