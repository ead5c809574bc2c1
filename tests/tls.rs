//! TLS before prusik and behind it: who gets which certificate, what is verified, and that
//! sessions are the same as in plain text.

mod support;

use std::fs;
use std::io;

use rcgen::{DistinguishedName, DnType, date_time_ymd};
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, ProtocolVersion};
use support::{
    Answer, Authority, Client, Config, Ended, Frame, Origin, Outcome, Pair, Pattern, PatternCheck,
    Prusik, RawSession, Session, TlsClient, Wire, client_frame, eventually, handshake, status_of,
    tls_connect, within,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn certificates(pairs: &[&Pair]) -> String {
    let entries: Vec<String> = pairs.iter().map(|pair| pair.yaml()).collect();
    format!("certificates: [{}]", entries.join(", "))
}

/// A chat server behind a listener with a certificate for `chat.test`.
struct Chat {
    authority: Authority,
    pair: Pair,
    origin: Origin,
}

impl Chat {
    async fn start() -> (Self, Prusik) {
        Self::start_with(|config| config).await
    }

    async fn start_with(change: impl FnOnce(Config) -> Config) -> (Self, Prusik) {
        let authority = Authority::new();
        let pair = authority.issue("chat", &["chat.test"]);
        let origin = Origin::chat().await;
        let chat = Self {
            authority,
            pair,
            origin,
        };
        let prusik = Prusik::start(change(chat.config())).await;
        (chat, prusik)
    }

    fn config(&self) -> Config {
        Config::to(&[&self.origin]).tls(certificates(&[&self.pair]))
    }

    async fn session(&self, prusik: &Prusik) -> Session {
        let client = self.authority.client();
        let stream = client.try_connect(prusik.public(), "chat.test").await;
        Session::over(stream.expect("a handshake"), "/")
            .await
            .expect("a session")
    }
}

#[tokio::test]
async fn each_name_gets_its_certificate_and_others_the_first() {
    let authority = Authority::new();
    let names = [
        ("first", vec!["first.test", "other.test"]),
        ("wild", vec!["*.chat.test", "chat.test"]),
        ("exact", vec!["a.chat.test"]),
    ];
    let pairs = names.map(|(file, names)| authority.issue(file, &names));
    let [first, wild, exact] = &pairs;
    let origin = Origin::chat().await;
    let config = Config::to(&[&origin]).tls(certificates(&[first, wild, exact]));
    let prusik = Prusik::start(config).await;
    let client = authority.client();
    for (name, expected) in [
        ("first.test", first),
        ("other.test", first),
        ("chat.test", wild),
        ("b.chat.test", wild),
        ("A.CHAT.test", exact),
    ] {
        let served = client.certificate(prusik.public(), name).await;
        assert_eq!(served, expected.chain()[0], "{name}");
    }
    // What nobody is certified for gets the default, and the client says what it thinks of it; a
    // wildcard stands for one label.
    for name in ["unknown.test", "a.b.chat.test", "127.0.0.1"] {
        let error = client.try_connect(prusik.public(), name).await.unwrap_err();
        assert!(error.to_string().contains("first.test"), "{error}");
    }
}

#[tokio::test]
async fn both_versions_are_spoken_and_requests_know_that_it_is_tls() {
    let authority = Authority::new();
    let pair = authority.issue("chat", &["chat.test"]);
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let route = "headers: { request: { set: { X-Seen: \"$scheme $ssl_client_verify $ssl_client_s_dn|\" } } }";
    let config = Config::to(&[&origin])
        .tls(certificates(&[&pair]))
        .route(route);
    let prusik = Prusik::start(config).await;
    for (version, expected) in [
        (&TLS12, ProtocolVersion::TLSv1_2),
        (&TLS13, ProtocolVersion::TLSv1_3),
    ] {
        let client = authority.client().only(version);
        let stream = client
            .try_connect(prusik.public(), "chat.test")
            .await
            .unwrap();
        let (_, session) = stream.get_ref();
        assert_eq!(session.protocol_version(), Some(expected));
        let mut client = Client {
            wire: Wire::new(stream),
        };
        // And the connection is kept.
        for _ in 0..3 {
            assert_eq!(client.get("/").await.text(), "hello");
        }
    }
    let port = prusik.public().port().to_string();
    for request in origin.received() {
        assert_eq!(request.field("x-forwarded-proto"), Some("https"));
        assert_eq!(request.field("x-forwarded-port"), Some(port.as_str()));
        assert_eq!(request.field("x-seen"), Some("https NONE |"));
    }
}

#[tokio::test]
async fn sessions_are_resumed_also_after_a_reload() {
    let (chat, prusik) = Chat::start().await;
    for version in [&TLS12, &TLS13] {
        let config = chat.authority.client().only(version).config();
        let kind = async || {
            let stream = tls_connect(&config, prusik.public(), "chat.test").await;
            let stream = stream.expect("a handshake");
            let kind = stream.get_ref().1.handshake_kind();
            let mut client = Client {
                wire: Wire::new(stream),
            };
            // The tickets of TLS 1.3 come with what is read.
            assert_eq!(client.get("/").await.status(), 200);
            kind
        };
        assert_eq!(kind().await, Some(HandshakeKind::Full));
        assert_eq!(kind().await, Some(HandshakeKind::Resumed));
        assert_eq!(prusik.reload().await, Outcome::Done);
        assert_eq!(kind().await, Some(HandshakeKind::Resumed));
    }
}

#[tokio::test]
async fn a_reload_takes_new_certificates_and_leaves_sessions_alone() {
    let (chat, prusik) = Chat::start().await;
    let mut session = chat.session(&prusik).await;
    let client = chat.authority.client();
    let old = client.certificate(prusik.public(), "chat.test").await;
    chat.authority.issue("chat", &["chat.test"]);
    assert_eq!(prusik.reload().await, Outcome::Done);
    assert!(prusik.stderr().contains("listeners changed"));
    let new = client.certificate(prusik.public(), "chat.test").await;
    assert_ne!(new, old);
    assert_eq!(new, chat.pair.chain()[0]);
    assert!(session.is_alive().await);
    // Nothing has changed since.
    prusik.reload().await;
    prusik.wait_stderr("nothing changed").await;
}

#[tokio::test]
async fn a_bad_pair_is_refused_by_name_and_the_old_one_stays() {
    let (chat, prusik) = Chat::start().await;
    let mut session = chat.session(&prusik).await;
    let good = fs::read(&chat.pair.cert).unwrap();
    let key = fs::read(&chat.pair.key).unwrap();
    let other = chat.authority.issue("other", &["chat.test"]);
    let client = chat.authority.client();
    let cases: [(&dyn Fn(), &str, &str); 5] = [
        (
            &|| fs::remove_file(&chat.pair.cert).unwrap(),
            "chat.pem: No such file",
            "relative to",
        ),
        (
            &|| fs::write(&chat.pair.cert, "no certificate").unwrap(),
            "chat.pem holds no PEM certificate",
            "BEGIN CERTIFICATE",
        ),
        (
            &|| fs::write(&chat.pair.cert, &key).unwrap(),
            "chat.pem holds no PEM certificate",
            "swapped",
        ),
        (
            &|| fs::write(&chat.pair.key, &good).unwrap(),
            "chat.key holds no PEM private key",
            "swapped",
        ),
        (
            &|| assert!(fs::copy(&other.key, &chat.pair.key).is_ok()),
            "the key does not match the certificate in",
            "name the key",
        ),
    ];
    for (spoil, error, hint) in cases {
        spoil();
        let Outcome::Refused(said) = prusik.reload().await else {
            panic!("{error}: taken");
        };
        for part in ["listener \"public\"", "prusik.yaml:1:", error, hint] {
            assert!(said.contains(part), "no {part:?} in {said}");
        }
        // `check` says the same.
        let file = prusik.folder().join("prusik.yaml");
        let checked = support::prusik(&["check", "--config", file.to_str().unwrap()]);
        assert_eq!(checked.status.code(), Some(78));
        let checked = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(checked.contains(error), "{checked}");
        client.certificate(prusik.public(), "chat.test").await;
        fs::write(&chat.pair.cert, &good).unwrap();
        fs::write(&chat.pair.key, &key).unwrap();
    }
    assert_eq!(prusik.reload().await, Outcome::Done);
    assert!(session.is_alive().await);
}

#[tokio::test]
async fn a_certificate_that_expires_soon_is_served_and_warned_of() {
    let authority = Authority::new();
    let expired = authority.issue_with("old", &["chat.test"], |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let origin = Origin::chat().await;
    let config = Config::to(&[&origin]).tls(certificates(&[&expired]));
    let prusik = Prusik::start(config).await;
    let warning = "listener \"public\": the certificate in";
    assert!(prusik.stderr().contains(warning), "{}", prusik.stderr());
    assert!(prusik.stderr().contains("has expired"));
    let client = authority.client();
    let refused = client.try_connect(prusik.public(), "chat.test").await;
    assert!(refused.unwrap_err().to_string().contains("expired"));
    let file = prusik.folder().join("prusik.yaml");
    let checked = support::prusik(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!(checked.status.code(), Some(0));
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(said.contains("warning: listener \"public\""), "{said}");
}

/// Whether this client gets an answer. By TLS 1.3 it learns that it was refused after its
/// handshake.
async fn is_served(client: &TlsClient, prusik: &Prusik) -> io::Result<bool> {
    let mut stream = client.try_connect(prusik.public(), "chat.test").await?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await?;
    let mut answer = [0; 12];
    within("an answer", stream.read_exact(&mut answer)).await?;
    Ok(answer == *b"HTTP/1.1 200")
}

#[tokio::test]
async fn with_client_ca_only_certified_clients_get_in_and_servers_hear_who() {
    let authority = Authority::new();
    let pair = authority.issue("chat", &["chat.test"]);
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let route = "headers: { request: { set: { X-Client: $ssl_client_s_dn, \
                 X-Verify: $ssl_client_verify } } }";
    let clients = Authority::new();
    let keys = format!(
        "{}, client_ca: \"{}\"",
        certificates(&[&pair]),
        clients.file().display()
    );
    let config = Config::to(&[&origin]).tls(keys).route(route);
    let prusik = Prusik::start(config).await;
    let certified = clients.issue_with("client", &[], |params| {
        params.distinguished_name = DistinguishedName::new();
        let name = &mut params.distinguished_name;
        name.push(DnType::CountryName, "DE");
        name.push(DnType::OrganizationName, "Müller, Söhne");
        name.push(DnType::CommonName, "app 1");
    });
    let stranger = authority.issue("stranger", &["client.test"]);
    for version in [&TLS12, &TLS13] {
        let client = authority.client().only(version);
        assert!(is_served(&client, &prusik).await.is_err());
        assert!(
            is_served(&client.clone().with(&stranger), &prusik)
                .await
                .is_err()
        );
        assert!(is_served(&client.with(&certified), &prusik).await.unwrap());
    }
    assert_eq!(origin.received().len(), 2);
    for request in origin.received() {
        let subject = r"CN=app 1,O=M\C3\BCller\, S\C3\B6hne,C=DE";
        assert_eq!(request.field("x-client"), Some(subject));
        assert_eq!(request.field("x-verify"), Some("SUCCESS"));
    }
}

/// rustls resumes without a look at the certificate: tickets must not lead from one listener, or
/// one set of authorities, into another.
#[tokio::test]
async fn a_ticket_opens_no_listener_that_wants_a_certificate() {
    let (chat, prusik) = Chat::start().await;
    let config = chat.authority.client().config();
    let first = async || {
        let stream = tls_connect(&config, prusik.public(), "chat.test").await?;
        let kind = stream.get_ref().1.handshake_kind();
        let mut client = Wire::new(stream);
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await?;
        match within("an answer", client.head()).await? {
            Some(_) => Ok::<_, io::Error>(kind),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    };
    assert_eq!(first().await.unwrap(), Some(HandshakeKind::Full));
    let keys = format!(
        "{}, client_ca: \"{}\"",
        certificates(&[&chat.pair]),
        chat.authority.file().display()
    );
    assert_eq!(
        prusik.reload_with(chat.config().tls(keys)).await,
        Outcome::Done
    );
    assert!(first().await.is_err());
}

#[tokio::test]
async fn a_session_carries_large_messages_both_ways_past_a_stalled_reader() {
    let (chat, prusik) = Chat::start().await;
    let client = chat.authority.client();
    let raw = client.connect(prusik.public(), "chat.test").await;
    let mut session = RawSession::over(raw, handshake("/")).await;
    // Far more than every buffer on the way holds, and nothing is read meanwhile.
    let sizes = [0, 1, 125, 126, 65535, 65536, 300_000];
    let send = async {
        let (stream, early) = {
            let wire = std::mem::replace(&mut session.client.wire, Wire::new(tokio::io::empty()));
            wire.into_parts()
        };
        assert!(early.is_empty());
        tokio::io::split(stream)
    };
    let (read, mut write) = send.await;
    let sending = tokio::spawn(async move {
        for round in 0..20_u8 {
            for size in sizes {
                let payload: Vec<u8> = (0..size).map(|i| (i as u8) ^ round).collect();
                write.write_all(&client_frame(2, &payload)).await?;
                write.flush().await?;
            }
        }
        Ok::<_, io::Error>(write)
    });
    eventually("the sender is held up", async || {
        !sending.is_finished() && prusik.rss_kib() > 0
    })
    .await;
    let mut session = RawSession {
        head: session.head,
        client: Client {
            wire: Wire::new(tokio::io::join(read, tokio::io::sink())),
        },
    };
    for round in 0..20_u8 {
        for size in sizes {
            let frame = session.frame().await;
            assert_eq!(frame.payload.len(), size);
            let expected = (0..size).map(|i| (i as u8) ^ round);
            assert!(frame.payload.into_iter().eq(expected), "{size} in {round}");
        }
    }
    let mut write = sending.await.unwrap().unwrap();
    write
        .write_all(&client_frame(8, &1000_u16.to_be_bytes()))
        .await
        .unwrap();
    assert_eq!(session.frame().await.opcode, 8);
    let close = prusik.session_close().await;
    assert_eq!(close["messages_in"], 140);
    assert_eq!(close["close_code"], 1000);
}

#[tokio::test]
async fn bodies_pass_whole_both_ways() {
    const LENGTH: u64 = 8 << 20;
    let authority = Authority::new();
    let pair = authority.issue("chat", &["chat.test"]);
    let tls = authority.server(&pair, false);
    let origin = Origin::secure(tls, |request| match request.method() {
        "GET" => Answer::raw(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"
        ))
        .pattern(LENGTH),
        _ => {
            let mut check = PatternCheck::default();
            check.feed(&request.body);
            Answer::text(&request.body.len().to_string())
        }
    })
    .await;
    let upstream = format!(
        "tls: {{ sni: chat.test, ca: \"{}\" }}",
        authority.file().display()
    );
    let config = Config::to(&[&origin])
        .tls(certificates(&[&pair]))
        .upstream(upstream);
    let prusik = Prusik::start(config).await;
    let mut client = authority
        .client()
        .connect(prusik.public(), "chat.test")
        .await;
    let response = client.get("/").await;
    assert_eq!(response.body.len() as u64, LENGTH);
    PatternCheck::default().feed(&response.body);
    let body = Pattern::new(LENGTH).next(LENGTH as usize).to_vec();
    let head = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let request = [head.as_bytes(), &body].concat();
    assert_eq!(client.ask(request).await.text(), body.len().to_string());
}

#[tokio::test]
async fn a_server_is_verified_and_a_wrong_one_is_named_with_a_remedy() {
    let (authority, strangers) = (Authority::new(), Authority::new());
    let pair = authority.issue("chat", &["chat.internal"]);
    let tls = authority.server(&pair, false);
    let origin = Origin::secure(tls, |_| Answer::text("hello")).await;
    let with = |keys: String| Config::to(&[&origin]).upstream(format!("tls: {{ {keys} }}"));
    let ca = format!("ca: \"{}\"", authority.file().display());
    let others = format!("ca: \"{}\"", strangers.file().display());
    let prusik = Prusik::start(with(format!("sni: chat.internal, {ca}"))).await;
    assert_eq!(status_of(prusik.public(), "/").await, 200);
    let cases = [
        (
            format!("sni: chat.internal, {others}"),
            "name its authority's certificate in tls.ca",
        ),
        (
            format!("sni: other.internal, {ca}"),
            "write a name that it is for in tls.sni",
        ),
        // By its address, which its certificate does not know.
        (ca.clone(), "write a name that it is for in tls.sni"),
    ];
    for (keys, remedy) in cases {
        assert_eq!(prusik.reload_with(with(keys)).await, Outcome::Done);
        let before = prusik.stderr().len();
        assert_eq!(status_of(prusik.public(), "/").await, 502, "{remedy}");
        let address = origin.address().to_string();
        eventually(format!("{remedy:?} is said of {address}"), async || {
            let said = prusik.stderr();
            said[before..].contains(remedy) && said[before..].contains(&address)
        })
        .await;
        // A handshake is refused as well.
        let mut client = Client::connect(prusik.public()).await;
        assert_eq!(client.ask(handshake("/")).await.status(), 502);
    }
    for keys in ["verify: false", "sni: anything.internal, verify: off"] {
        let config = with(keys.to_owned());
        assert_eq!(prusik.reload_with(config).await, Outcome::Done);
        assert_eq!(status_of(prusik.public(), "/").await, 200);
    }
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_a_502_that_says_so() {
    let plain = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = plain.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = plain.accept().await {
            let answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
            socket.write_all(answer).await.unwrap();
        }
    });
    let config = Config::default()
        .server(address)
        .upstream("tls: { verify: false }");
    let prusik = Prusik::start(config).await;
    assert_eq!(status_of(prusik.public(), "/").await, 502);
    prusik.wait_stderr("does it speak TLS on this port?").await;
}

#[tokio::test]
async fn servers_see_the_client_certificate_and_sessions_pass() {
    let authority = Authority::new();
    let pair = authority.issue("chat", &["chat.internal"]);
    let tls = authority.server(&pair, true);
    let origin = Origin::secure(tls, |request| match request.field("upgrade") {
        Some(_) => Answer::upgrade(request),
        None => Answer::text("hello"),
    })
    .await;
    let ca = authority.file().display().to_string();
    let with = |more: &str| {
        let keys = format!("tls: {{ sni: chat.internal, ca: \"{ca}\"{more} }}");
        Config::to(&[&origin]).upstream(keys)
    };
    let own = authority.issue("own", &["prusik.internal"]);
    let (cert, key) = (own.cert.display(), own.key.display());
    let prusik = Prusik::start(with(&format!(
        ", client_cert: \"{cert}\", client_key: \"{key}\""
    )))
    .await;
    assert_eq!(status_of(prusik.public(), "/").await, 200);
    let mut session = Session::open(prusik.public(), "/").await;
    for size in [1, 70_000, 1_000_000] {
        let text = "x".repeat(size);
        assert_eq!(session.ask(&text).await, text);
    }
    assert_eq!(session.close(4000).await, Ended::Close(4000));
    eventually("the server knows", async || origin.closes() == [4000]).await;
    assert_eq!(prusik.reload_with(with("")).await, Outcome::Done);
    assert_eq!(status_of(prusik.public(), "/").await, 502);
    prusik.wait_stderr("it may want a client certificate").await;
}

#[tokio::test]
async fn the_tunnel_of_pingora_takes_tls_too() {
    let authority = Authority::new();
    let pair = authority.issue("chat", &["chat.test"]);
    let tls = authority.server(&pair, false);
    let origin = Origin::secure(tls, |request| Answer::upgrade(request)).await;
    let upstream = format!(
        "tls: {{ sni: chat.test, ca: \"{}\" }}",
        authority.file().display()
    );
    let config = Config::to(&[&origin])
        .top("server: { tunnel: pingora, drain: { window: 0s, code: 1001 } }")
        .tls(certificates(&[&pair]))
        .upstream(upstream);
    let prusik = Prusik::start(config).await;
    let stream = authority
        .client()
        .try_connect(prusik.public(), "chat.test")
        .await;
    let mut session = Session::over(stream.unwrap(), "/").await.unwrap();
    let text = "x".repeat(1_000_000);
    assert_eq!(session.ask(&text).await, text);
    prusik.signal("TERM");
    assert_eq!(session.ended().await, Ended::Close(1001));
    eventually("the server knows", async || origin.closes() == [1001]).await;
}

#[tokio::test]
async fn checks_go_by_tls() {
    let authority = Authority::new();
    let pair = authority.issue("chat", &["chat.test"]);
    let answering = |request: &support::Received| match request.field("upgrade") {
        Some(_) => Answer::upgrade(request),
        None => Answer::text("hello"),
    };
    let good = Origin::secure(authority.server(&pair, false), answering).await;
    let other = authority.issue("other", &["other.test"]);
    let wrong = Origin::secure(authority.server(&other, false), answering).await;
    for kind in ["tcp", "http", "websocket"] {
        let config = Config::to(&[&good, &wrong])
            .upstream(format!(
                "tls: {{ sni: chat.test, ca: \"{}\" }}",
                authority.file().display()
            ))
            .upstream(format!(
                "health_check: {{ type: {kind}, interval: 100ms, timeout: 5s, fall: 1 }}"
            ));
        let prusik = Prusik::start(config).await;
        prusik
            .wait_stderr(&format!("{} is down", wrong.address()))
            .await;
        let said = prusik.stderr();
        assert!(said.contains("tls.sni"), "{said}");
        assert!(
            !said.contains(&format!("{} is down", good.address())),
            "{kind}: {said}"
        );
        for _ in 0..4 {
            assert_eq!(status_of(prusik.public(), "/").await, 200);
        }
    }
}

/// A response that lasts until the connection ends, which somebody on the way can end.
#[tokio::test]
async fn a_response_that_was_cut_short_does_not_pass_for_a_whole_one() {
    let authority = Authority::new();
    let pair = authority.issue("chat", &["chat.test"]);
    let tls = tokio_rustls::TlsAcceptor::from(authority.server(&pair, false));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let mut stream = tls.accept(socket).await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            let is_cut = request[..length].starts_with(b"GET /cut");
            stream
                .write_all(b"HTTP/1.1 200 OK\r\n\r\nbody")
                .await
                .unwrap();
            stream.flush().await.unwrap();
            match is_cut {
                true => drop(stream.into_inner().0.shutdown().await),
                false => drop(stream.shutdown().await),
            }
        }
    });
    let config = Config::default().server(address).upstream(format!(
        "tls: {{ sni: chat.test, ca: \"{}\" }}",
        authority.file().display()
    ));
    let prusik = Prusik::start(config).await;
    assert_eq!(support::get(prusik.public(), "/whole").await.text(), "body");
    let mut client = Client::connect(prusik.public()).await;
    client.send("GET /cut HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let head = client.head().await;
    assert_eq!(head.field("transfer-encoding"), Some("chunked"));
    let mut body = Vec::new();
    while let Ok(part) = within("the body", client.wire.some()).await
        && !part.is_empty()
    {
        body.extend(part);
    }
    let body = String::from_utf8_lossy(&body).into_owned();
    assert!(
        body.contains("body") && !body.ends_with("0\r\n\r\n"),
        "{body:?}"
    );
}

#[tokio::test]
async fn a_stop_tells_sessions_and_ends_with_close_notify() {
    let (chat, mut prusik) =
        Chat::start_with(|config| config.top("server: { drain: { window: 0s } }")).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn over_an_upgrade_tls_sessions_are_told_to_go_and_plain_ones_move() {
    let authority = Authority::new();
    let pair = authority.issue("chat", &["chat.test"]);
    let origin = Origin::start(|request| match request.target() {
        "/slow" => Answer::text("slow").after(std::time::Duration::from_millis(1500)),
        _ if request.field("upgrade").is_some() => Answer::upgrade(request),
        _ => Answer::text("quick"),
    })
    .await;
    let config = Config::to(&[&origin])
        .tls(certificates(&[&pair]))
        .top("admin: { listen: \"127.0.0.1:0\" }")
        .top("server: { drain: { window: 300ms, code: 4012 } }");
    let config = config.to_string().replace(
        "listeners: [",
        "listeners: [{ listen: \"127.0.0.2:0\", name: plain }, ",
    );
    let mut prusik = Prusik::start(config).await;
    let client = authority.client();
    let connect = async || client.connect(prusik.public(), "chat.test").await;
    let mut plain = Session::open(prusik.address("plain"), "/").await;
    let stream = client.try_connect(prusik.public(), "chat.test").await;
    let mut secure = Session::over(stream.unwrap(), "/").await.unwrap();
    let (mut idle, mut busy, mut fresh) = (connect().await, connect().await, connect().await);
    assert_eq!(idle.get("/").await.text(), "quick");
    busy.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n").await;
    eventually("the server works on it", async || {
        origin
            .received()
            .iter()
            .any(|request| request.target() == "/slow")
    })
    .await;
    let said = prusik.order(&["upgrade"]).await;
    assert!(said.contains("1 session"), "{said}");
    // Nobody is cut: the answer comes, then the end; who is idle hears the end at once.
    let rest = within("the end", idle.wire.some()).await.unwrap();
    assert!(rest.is_empty());
    let answer = fresh.get("/").await;
    assert_eq!(
        (answer.text().as_str(), answer.field("connection")),
        ("quick", Some("close"))
    );
    assert_eq!(secure.ended().await, Ended::Close(4012));
    assert_eq!(busy.response().await.text(), "slow");
    assert!(
        within("the end", busy.wire.some())
            .await
            .unwrap()
            .is_empty()
    );
    assert!(plain.is_alive().await);
    eventually("one process is left", async || {
        prusik.reap();
        prusik.pids().len() == 1
    })
    .await;
    assert!(plain.is_alive().await);
    let mut again = client.connect(prusik.public(), "chat.test").await;
    assert_eq!(again.get("/").await.text(), "quick");
}

#[tokio::test]
async fn port_80_redirects_to_tls() {
    let (chat, _) = Chat::start().await;
    let yaml = chat
        .config()
        .first("{ match: { listener: plain }, redirect: { to: \"https://$host$request_uri\", status: 301 } }")
        .to_string()
        .replace("listeners: [", "listeners: [{ listen: \"127.0.0.1:0\", name: plain }, ");
    let prusik = Prusik::start(yaml).await;
    let mut client = Client::connect(prusik.address("plain")).await;
    let answer = client
        .ask("GET /a/b?c=d HTTP/1.1\r\nHost: chat.test:8080\r\n\r\n")
        .await;
    assert_eq!(answer.status(), 301);
    assert_eq!(answer.field("location"), Some("https://chat.test/a/b?c=d"));
    let mut client = chat
        .authority
        .client()
        .connect(prusik.public(), "chat.test")
        .await;
    assert_eq!(client.get("/").await.status(), 200);
}

#[tokio::test]
async fn what_speaks_no_tls_is_dropped_and_costs_nobody_else() {
    let (chat, prusik) = Chat::start().await;
    let before = prusik.fds();
    let mut silent = Vec::new();
    for number in 0..20 {
        let mut client = Client::connect(prusik.public()).await;
        if number % 2 == 0 {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        }
        silent.push(client);
    }
    let mut session = chat.session(&prusik).await;
    assert!(session.is_alive().await);
    eventually("who has sent plain text is gone", async || {
        prusik.fds() <= before + 10 + 2
    })
    .await;
    drop(silent);
}

/// Anonymous memory; a debug build has the same buffers as a release.
#[tokio::test]
async fn an_idle_wss_session_costs_at_most_12_kib() {
    const SESSIONS: u64 = 400;
    let (chat, prusik) = Chat::start().await;
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
        more <= 12 * SESSIONS,
        "{} B a session",
        more * 1024 / SESSIONS
    );
}

/// An HTTP/1.0 client's answer ends with its connection: only close_notify makes it a whole one.
#[tokio::test]
async fn an_answer_that_the_server_cut_short_ends_without_close_notify() {
    let authority = Authority::new();
    let pair = authority.issue("chat", &["chat.test"]);
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n";
    let origin = Origin::start(move |request| match request.target() {
        "/cut" => Answer::raw(chunks).close(),
        _ => Answer::raw(format!("{chunks}0\r\n\r\n")),
    })
    .await;
    let config = Config::to(&[&origin]).tls(certificates(&[&pair]));
    let prusik = Prusik::start(config).await;
    for (target, is_whole) in [("/whole", true), ("/cut", false)] {
        let client = authority.client();
        let mut client = client.connect(prusik.public(), "chat.test").await;
        client
            .send(format!("GET {target} HTTP/1.0\r\nHost: a\r\n\r\n"))
            .await;
        let head = client.head().await;
        assert_eq!(head.status(), 200);
        assert_eq!(head.field("transfer-encoding"), None);
        let mut body = Vec::new();
        let end = loop {
            match within("the body", client.wire.some()).await {
                Ok(part) if part.is_empty() => break Ok(()),
                Ok(part) => body.extend(part),
                Err(error) => break Err(error.kind()),
            }
        };
        assert_eq!(body, b"body");
        match is_whole {
            true => assert_eq!(end, Ok(())),
            false => assert_eq!(end, Err(io::ErrorKind::UnexpectedEof)),
        }
    }
}
