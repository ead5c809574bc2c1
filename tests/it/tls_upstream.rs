//! TLS with servers: what they must prove, what they are shown, and how their answers end.

use crate::support;
use crate::support::{
    Answer, Authority, Client, Config, Ended, Origin, Outcome, Prusik, Session, certificates,
    eventually, handshake, status_of, within,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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

/// Without `sni`, it is the name that the file has for it.
#[tokio::test]
async fn a_server_with_a_name_in_the_file_must_prove_that_name() {
    let authority = Authority::new();
    let localhost = support::free_port_on(std::net::Ipv4Addr::LOCALHOST);
    let with = |file: &str, name: &str| authority.server(&authority.issue(file, &[name]), false);
    let upstream = format!("tls: {{ ca: \"{}\" }}", authority.file().display());
    for (name, status) in [("localhost", 200), ("elsewhere", 502)] {
        let origin =
            Origin::secure_on(localhost, with(name, name), |_| Answer::text("hello")).await;
        let config = Config::default()
            .server(format!("localhost:{}", localhost.port()))
            .upstream(&upstream);
        let prusik = Prusik::start(config).await;
        prusik.wait_stderr("localhost").await;
        assert_eq!(status_of(prusik.public(), "/").await, status, "{name}");
        origin.kill().await;
    }
}

#[tokio::test]
async fn connections_are_kept_and_none_outlives_what_it_was_verified_by() {
    let authority = Authority::new();
    let pair = authority.issue("chat", &["a.internal", "b.internal"]);
    let tls = authority.server(&pair, false);
    let origin = Origin::secure(tls, |_| Answer::text("hello")).await;
    let ca = authority.file().display().to_string();
    let with = |sni: &str| {
        let keys = format!("tls: {{ sni: {sni}, ca: \"{ca}\" }}");
        Config::to(&[&origin]).upstream(keys)
    };
    let prusik = Prusik::start(with("a.internal")).await;
    // On one connection a request comes only when the one before is done with its server.
    let mut client = Client::connect(prusik.public()).await;
    for _ in 0..5 {
        assert_eq!(client.get("/").await.status(), 200);
    }
    assert_eq!(origin.connections(), 1);
    assert_eq!(prusik.reload_with(with("b.internal")).await, Outcome::Done);
    for _ in 0..5 {
        assert_eq!(client.get("/").await.status(), 200);
    }
    assert_eq!(origin.connections(), 2);
    eventually("the old one is closed", async || origin.open() == 1).await;
}
