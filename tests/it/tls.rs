//! TLS with clients: who gets which certificate, who gets in, what a reload takes, how answers end.

use std::fs;
use std::io;

use crate::support;
use crate::support::{
    Answer, Authority, Client, Config, Origin, Outcome, Pattern, PatternCheck, Prusik, SecureChat,
    TlsClient, Wire, certificates, eventually, tls_connect, within,
};
use rcgen::{DistinguishedName, DnType, date_time_ymd};
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, ProtocolVersion, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
    let (chat, prusik) = SecureChat::start().await;
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
    let (chat, prusik) = SecureChat::start().await;
    let mut session = chat.session(&prusik).await;
    let client = chat.authority.client();
    let old = client.certificate(prusik.public(), "chat.test").await;
    chat.authority.issue("chat", &["chat.test"]);
    assert_eq!(prusik.reload().await, Outcome::Done);
    prusik.wait_stderr("listener \"public\": tls changed").await;
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
    let (chat, prusik) = SecureChat::start().await;
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

/// A site that keeps an older kind of key for older clients.
#[tokio::test]
async fn of_two_certificates_for_a_name_a_client_gets_the_one_that_it_can_verify() {
    let authority = Authority::new();
    let usual = authority.issue("usual", &["chat.test"]);
    let ed25519 = authority.issue_ed25519("ed25519", &["chat.test"]);
    let origin = Origin::chat().await;
    let config = Config::to(&[&origin]).tls(certificates(&[&usual, &ed25519]));
    let prusik = Prusik::start(config).await;
    let client = authority.client();
    for (client, expected) in [
        (client.clone(), &usual),
        (client.knowing_only(SignatureScheme::ED25519), &ed25519),
    ] {
        let served = client.certificate(prusik.public(), "chat.test").await;
        assert_eq!(served, expected.chain()[0]);
    }
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
    for why in ["peer sent no certificates", "certificate"] {
        let reason = format!("the TLS handshake failed: {why}");
        prusik
            .wait_log(&reason, |entry| {
                let said = entry["error"].as_str().unwrap_or_default();
                entry["status"] == 400 && said.contains(why)
            })
            .await;
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
    let (chat, prusik) = SecureChat::start().await;
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
async fn port_80_redirects_to_tls() {
    let (chat, _) = SecureChat::start().await;
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
    let (chat, prusik) =
        SecureChat::start_with(|config| config.top("admin: { listen: \"127.0.0.1:0\" }")).await;
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
    let failed = |entry: &serde_json::Value| {
        let said = entry["error"].as_str().unwrap_or_default();
        entry["status"] == 400 && said.starts_with("the TLS handshake failed: ")
    };
    eventually("each of them has a line", async || {
        prusik.access_log().into_iter().filter(failed).count() == 10
    })
    .await;
    let metrics = Client::connect(prusik.admin())
        .await
        .ask("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .text();
    let count = "prusik_requests_total{route=\"none\",status=\"400\"} 10\n";
    assert!(metrics.contains(count), "{metrics}");
    // Who goes without a word is no news.
    drop(silent);
    assert!(session.is_alive().await);
    assert_eq!(prusik.access_log().into_iter().filter(failed).count(), 10);
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
