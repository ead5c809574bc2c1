//! `auth.forward`: what an auth server is asked, and that nothing is reached against its word.

use std::time::Duration;

use crate::support::events::{EventClient, EventServer};
use crate::support::http2::{Http2Site as Site, NAME, frame};
use crate::support::{
    Answer, Authority, Client, Config, Frame, Origin, Outcome, Prusik, RawSession, Received,
    Response, Session, client_frame, eventually, get, handshake, handshake_with, listen,
    metrics_of, status_of,
};
use http::Request;
use tokio::io::AsyncWriteExt;

const ADMIN: &str = "admin: { listen: \"127.0.0.1:0\" }";

/// The route's `auth`, with more keys of `forward`.
fn auth(server: &Origin, keys: &str) -> String {
    let address = server.address();
    format!("auth: {{ forward: {{ url: \"http://{address}/verify\"{keys} }} }}")
}

/// Lets in whoever has the cookie `sid`, and calls everybody Alice.
async fn keeper() -> Origin {
    Origin::start(verdict).await
}

fn verdict(question: &Received) -> Answer {
    match question.field("cookie") {
        Some("sid=1") => Answer::status(
            200,
            &[
                "X-User: alice",
                "X-Role: agent",
                "Set-Cookie: sid=2",
                "Set-Cookie: seen=1",
            ],
            "welcome",
        ),
        Some(_) => Answer::status(403, &["X-Why: cookie"], "not you"),
        None => Answer::status(
            401,
            &[
                "WWW-Authenticate: Bearer realm=\"a\"",
                "WWW-Authenticate: Basic realm=\"b\"",
                "Content-Type: text/html",
                "Connection: keep-alive",
                "Keep-Alive: timeout=5",
            ],
            "<p>who?",
        ),
    }
}

fn asking(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: chat.test\r\n{fields}\r\n")
}

async fn ask(prusik: &Prusik, request: String) -> Response {
    Client::connect(prusik.public()).await.ask(request).await
}

#[tokio::test]
async fn an_auth_server_is_asked_by_a_get_about_what_the_server_will_be_asked() {
    let (server, keeper) = (
        Origin::start(|_| Answer::text("hello")).await,
        keeper().await,
    );
    let route = format!(
        "{{ match: {{ path_prefix: /app }}, strip_prefix: /app, upstream: backend, {} }}",
        auth(&keeper, "")
    );
    let prusik = Prusik::start(Config::to(&[&server]).first(route)).await;
    let request = "POST //app/./x%41?a=b HTTP/1.1\r\nHost: chat.test:81\r\nCookie: sid=1\r\n\
                   Content-Type: text/plain\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Uri: /free\r\n\
                   X-Own: 1\r\nX-Original-URI: /free\r\nX_Original_Method: GET\r\n\
                   X-Envoy-Original-Path: /free\r\nContent-Length: 4\r\n\r\nbody";
    let answer = Client::connect(prusik.public()).await.ask(request).await;
    assert_eq!((answer.status(), &*answer.text()), (200, "hello"));
    let question = keeper.only_request();
    assert_eq!(question.first_line(), "GET /verify HTTP/1.1");
    assert_eq!(question.body_length, 0);
    for (name, value) in [
        ("host", keeper.address().to_string().as_str()),
        ("x-forwarded-method", "POST"),
        ("x-forwarded-uri", "/xA?a=b"),
        ("x-forwarded-host", "chat.test:81"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-for", "127.0.0.1"),
        ("cookie", "sid=1"),
        ("x-own", "1"),
    ] {
        assert_eq!(question.field(name), Some(value), "{}", question.head);
    }
    for name in [
        "content-length",
        "content-type",
        "transfer-encoding",
        "connection",
        "x-original-uri",
        "x_original_method",
        "x-envoy-original-path",
    ] {
        assert_eq!(question.field(name), None, "{}", question.head);
    }
    let served = server.only_request();
    assert_eq!(served.target(), "/xA?a=b");
    assert_eq!(served.body, b"body");
    assert_eq!(question.field("x-request-id"), served.field("x-request-id"));
}

#[tokio::test]
async fn an_auth_server_gets_the_listed_fields_only() {
    let (server, keeper) = (
        Origin::start(|_| Answer::text("hello")).await,
        keeper().await,
    );
    let keys = ", request_headers: [Cookie]";
    let config = Config::to(&[&server])
        .top("trusted_proxies: [127.0.0.0/8]")
        .route(auth(&keeper, keys));
    let prusik = Prusik::start(config).await;
    // What a trusted proxy passes may be what its client has sent.
    let fields = "Cookie: sid=1\r\nAuthorization: Bearer t\r\nUser-Agent: x\r\n\
                  X-Original-URI: /free\r\nX-Rewrite-URL: /free\r\n";
    assert_eq!(ask(&prusik, asking("/", fields)).await.status(), 200);
    let question = keeper.only_request();
    assert_eq!(question.field("cookie"), Some("sid=1"));
    assert_eq!(question.field("x-forwarded-uri"), Some("/"));
    for name in [
        "authorization",
        "user-agent",
        "x-original-uri",
        "x-rewrite-url",
    ] {
        assert_eq!(question.field(name), None, "{}", question.head);
    }
}

#[tokio::test]
async fn its_word_replaces_the_clients_and_its_cookies_reach_the_client() {
    let server = Origin::start(|_| Answer::status(200, &["Set-Cookie: own=1"], "hello")).await;
    let keeper = keeper().await;
    let headers = "headers: { request: { set: { X-As: \"$auth_x_user/$auth_x_role\" } }, \
                   response: { set: { X-For: $auth_x_user } } }";
    let keys = ", response_headers: [X-User, X-Team]";
    let config = Config::to(&[&server])
        .route(auth(&keeper, keys))
        .route(headers);
    let prusik = Prusik::start(config).await;
    let forged = "Cookie: sid=1\r\nX-User: root\r\nx_user: root\r\nX-Team: root\r\nX.Team: root\r\n\
                  X-Role: mine\r\nConnection: X-User\r\n";
    let answer = ask(&prusik, asking("/", forged)).await;
    assert_eq!(answer.fields("set-cookie"), ["own=1", "sid=2", "seen=1"]);
    assert_eq!(answer.field("x-for"), Some("alice"));
    let served = server.only_request();
    assert!(served.has_line("X-User: alice"), "{}", served.head);
    assert!(!served.head.to_string().contains("root"), "{}", served.head);
    assert_eq!(served.field("x-team"), None);
    // It is not in the list, so it is the client's.
    assert_eq!(served.field("x-role"), Some("mine"));
    assert_eq!(served.field("x-as"), Some("alice/agent"));
}

#[tokio::test]
async fn any_other_answer_is_the_clients() {
    let server = Origin::start(|_| Answer::text("secret")).await;
    let keeper = keeper().await;
    let config = Config::to(&[&server])
        .route("name: app")
        .route(auth(&keeper, ""))
        .top(ADMIN);
    let prusik = Prusik::start(config).await;
    let mut client = Client::connect(prusik.public()).await;
    let answer = client.get("/").await;
    assert_eq!((answer.status(), &*answer.text()), (401, "<p>who?"));
    let challenges = answer.fields("www-authenticate");
    assert_eq!(challenges, ["Bearer realm=\"a\"", "Basic realm=\"b\""]);
    assert_eq!(answer.field("content-type"), Some("text/html"));
    assert_eq!(answer.field("keep-alive"), None);
    // The connection goes on.
    let answer = client.ask(asking("/", "Cookie: sid=0\r\n")).await;
    assert_eq!((answer.status(), &*answer.text()), (403, "not you"));
    assert_eq!(answer.field("x-why"), Some("cookie"));
    client.send("HEAD / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    let head = client.head().await;
    assert_eq!(
        (head.status(), head.field("content-length")),
        (401, Some("7"))
    );
    let options = "OPTIONS / HTTP/1.1\r\nHost: test\r\nOrigin: https://a.test\r\n\
                   Access-Control-Request-Method: GET\r\n\r\n";
    assert_eq!(client.ask(options).await.status(), 401);
    assert!(server.received().is_empty());
    let entry = prusik
        .wait_log("the 403", |entry| entry["status"] == 403)
        .await;
    let said = entry["error"].as_str().unwrap_or_default();
    assert!(
        said.contains("the auth server has not let it in: 403"),
        "{entry}"
    );
    let metrics = metrics_of(&prusik).await;
    let refused = "prusik_auth_refused_total{route=\"app\",reason=\"denied\"} 4";
    assert!(metrics.contains(refused), "{metrics}");
}

#[tokio::test]
async fn a_handshake_is_answered_by_the_auth_server_and_a_101_has_its_cookies() {
    let server = Origin::chat().await;
    let keeper = Origin::start(|question| match question.field("cookie") {
        Some(_) => verdict(question),
        None => {
            let fields = ["Location: https://id.test/login", "Set-Cookie: back=/ws"];
            Answer::status(302, &fields, "")
        }
    })
    .await;
    let keys = ", response_headers: [X-User]";
    let config = Config::to(&[&server]).route(auth(&keeper, keys)).top(ADMIN);
    let prusik = Prusik::start(config).await;
    let refused = ask(&prusik, handshake("/ws")).await;
    assert_eq!(refused.status(), 302);
    assert_eq!(refused.field("location"), Some("https://id.test/login"));
    assert_eq!(refused.field("set-cookie"), Some("back=/ws"));
    assert!(server.received().is_empty());
    let question = keeper.only_request();
    for name in ["upgrade", "connection", "sec-websocket-key"] {
        assert_eq!(question.field(name), None, "{}", question.head);
    }
    let request = handshake_with("/ws", &["Cookie: sid=1", "X-User: root"]);
    let mut session = RawSession::open(prusik.public(), request).await;
    assert_eq!(session.head.fields("set-cookie"), ["sid=2", "seen=1"]);
    session.send(client_frame(1, b"hello")).await;
    assert_eq!(session.frame().await, Frame::text("hello"));
    assert_eq!(server.only_request().field("x-user"), Some("alice"));
    let metrics = metrics_of(&prusik).await;
    let count = "prusik_handshakes_refused_total{route=\"any\",reason=\"auth\"} 1";
    assert!(metrics.contains(count), "{metrics}");
}

#[tokio::test]
async fn no_kind_of_answer_is_reached_without_it() {
    let server = Origin::chat().await;
    let keeper = keeper().await;
    let auth = auth(&keeper, "");
    let route =
        |path: &str, rest: &str| format!("{{ match: {{ path_prefix: {path} }}, {rest}, {auth} }}");
    let config = Config::to(&[&server])
        .first(route("/moved", "redirect: { to: /new }"))
        .first(route("/own", "respond: { status: 200, body: here }"))
        .first(route("/closed", "upstream: backend, websocket: off"))
        .first(route("/app", "upstream: backend"));
    let prusik = Prusik::start(config).await;
    for target in ["/moved", "/own", "/closed", "/app"] {
        for request in [asking(target, ""), handshake(target)] {
            assert_eq!(ask(&prusik, request).await.status(), 401, "{target}");
        }
    }
    for (target, status) in [("/moved", 308), ("/own", 200), ("/app", 200)] {
        let answer = ask(&prusik, asking(target, "Cookie: sid=1\r\n")).await;
        assert_eq!(answer.status(), status, "{target}");
        assert_eq!(answer.fields("set-cookie"), ["sid=2", "seen=1"], "{target}");
    }
    // Refused by the route itself, for which the cookies are as good.
    let answer = ask(&prusik, handshake_with("/closed", &["Cookie: sid=1"])).await;
    assert_eq!(answer.status(), 403);
    assert_eq!(answer.fields("set-cookie"), ["sid=2", "seen=1"]);
    assert_eq!(server.received().len(), 1);
}

#[tokio::test]
async fn an_event_stream_waits_for_it_too() {
    let keeper = Origin::start(|question| match question.field("x-forwarded-uri") {
        Some("/events?in=1") => Answer::status(200, &["Set-Cookie: sid=2"], ""),
        _ => Answer::status(403, &[], "not you"),
    })
    .await;
    let mut server = EventServer::start();
    let config = Config::to_addresses(&[server.address()]).route(auth(&keeper, ""));
    let prusik = Prusik::start(config).await;
    assert_eq!(status_of(prusik.public(), "/events").await, 403);
    let opening = EventClient::open(prusik.public(), "/events?in=1");
    let (mut asked, mut client) = tokio::join!(server.stream(), opening);
    assert_eq!(client.head.field("set-cookie"), Some("sid=2"));
    asked.event(1).await;
    client.expect(1).await;
}

#[tokio::test]
async fn each_stream_of_http_2_is_asked_about() {
    let keeper = keeper().await;
    let auth = auth(&keeper, "");
    let site = Site::start(Origin::chat().await, |config| config.route(auth)).await;
    let mut client = site.client().await;
    let (answer, body) = client.get("/").await;
    assert_eq!(
        (answer.status().as_u16(), &body[..]),
        (401, &b"<p>who?"[..])
    );
    assert_eq!(
        answer.headers().get_all("www-authenticate").iter().count(),
        2
    );
    let request = Request::get(format!("https://{NAME}/")).header("cookie", "sid=1");
    let (answer, _) = client.ask(request.body(()).expect("a sound request")).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers().get_all("set-cookie").iter().count(), 2);
    let (answer, _, _) = client.connect("/ws").await;
    assert_eq!(answer.status(), 401);
    assert_eq!(site.origin.received().len(), 1);
    let last = keeper.received().pop().expect("it was asked");
    assert_eq!(last.field("x-forwarded-method"), Some("GET"));
    assert_eq!(last.field("x-forwarded-proto"), Some("https"));
    assert_eq!(last.field("x-forwarded-host"), Some(NAME));
}

#[tokio::test]
async fn a_session_by_http_2_opens_after_it() {
    let keeper = Origin::start(|_| Answer::status(200, &["Set-Cookie: sid=2"], "")).await;
    let auth = auth(&keeper, "");
    let site = Site::start(Origin::chat().await, |config| config.route(auth)).await;
    let mut client = site.client().await;
    let (answer, mut receive, mut send) = client.connect("/ws").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["set-cookie"], "sid=2");
    let hello = client_frame(1, b"hello");
    send.send_data(hello.into(), false).expect("it is open");
    let mut seen = Vec::new();
    assert_eq!(frame(&mut receive, &mut seen).await, Frame::text("hello"));
    assert_eq!(keeper.received().len(), 1);
}

#[tokio::test]
async fn one_connection_serves_many_questions() {
    let (server, keeper) = (
        Origin::start(|_| Answer::text("hello")).await,
        keeper().await,
    );
    let with = |extra: &str| {
        let config = Config::to(&[&server]).route(auth(&keeper, ""));
        config.route(extra)
    };
    let prusik = Prusik::start(with("name: app")).await;
    for cookie in ["sid=1", "sid=0", "sid=1"] {
        let fields = format!("Cookie: {cookie}\r\n");
        ask(&prusik, asking("/", &fields)).await;
    }
    assert_eq!((keeper.received().len(), keeper.connections()), (3, 1));
    // A reload that leaves it as it is keeps it.
    let changed = with("name: app\n    timeouts: { response: 5s }");
    assert_eq!(prusik.reload_with(changed).await, Outcome::Done);
    ask(&prusik, asking("/", "Cookie: sid=1\r\n")).await;
    assert_eq!((keeper.received().len(), keeper.connections()), (4, 1));
    // The connection is gone, and the next question goes by another one.
    keeper.kill().await;
    keeper.restart().await;
    let answer = ask(&prusik, asking("/", "Cookie: sid=1\r\n")).await;
    assert_eq!(answer.status(), 200);
    assert_eq!((keeper.received().len(), keeper.connections()), (5, 2));
}

#[tokio::test]
async fn a_question_is_asked_again_if_its_kept_connection_was_dying() {
    let server = Origin::start(|_| Answer::text("hello")).await;
    // Each connection answers one question, and closes when the second has come.
    let listener = listen();
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = vec![0; 4096];
                let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut head).await;
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                let _ = stream.write_all(answer).await;
                let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut head).await;
            });
        }
    });
    let url = format!("auth: {{ forward: {{ url: \"http://{address}/\" }} }}");
    let prusik = Prusik::start(Config::to(&[&server]).route(url)).await;
    for _ in 0..4 {
        assert_eq!(status_of(prusik.public(), "/").await, 200);
    }
}

#[tokio::test]
async fn many_clients_at_once_wait_for_their_turn() {
    let server = Origin::start(|_| Answer::text("hello")).await;
    let slow = Answer::text("in").after(Duration::from_millis(50));
    let keeper = Origin::start(move |_| slow.clone()).await;
    let config = Config::to(&[&server]).route(auth(&keeper, ", timeout: 20s"));
    let prusik = Prusik::start(config).await;
    let address = prusik.public();
    let ask = |_| tokio::spawn(async move { status_of(address, "/").await });
    let clients: Vec<_> = (0..300).map(ask).collect();
    let mut most = 0;
    eventually("all have been answered", async || {
        most = most.max(keeper.open());
        clients.iter().all(|client| client.is_finished())
    })
    .await;
    for client in clients {
        assert_eq!(client.await.expect("it ends"), 200);
    }
    assert_eq!(keeper.received().len(), 300);
    // Those that work on a question, and those that are kept.
    assert!(most <= 128 + 32, "{most}");
}

#[tokio::test]
async fn an_auth_server_by_tls_is_verified() {
    let (authority, strangers) = (Authority::new(), Authority::new());
    let pair = authority.issue("auth", &["localhost"]);
    let server = Origin::start(|_| Answer::text("hello")).await;
    let keeper = Origin::secure_on(
        "127.0.0.1:0".parse().expect("an address"),
        authority.server(&pair, false),
        |_| Answer::text("in"),
    )
    .await;
    let with = |host: &str, authority: &Authority| {
        let (port, ca) = (keeper.address().port(), authority.file());
        let ca = ca.display();
        Config::to(&[&server]).route(format!(
            "auth: {{ forward: {{ url: \"https://{host}:{port}/verify\", ca: \"{ca}\" }} }}"
        ))
    };
    let prusik = Prusik::start(with("localhost", &authority)).await;
    assert_eq!(status_of(prusik.public(), "/").await, 200);
    for (host, authority, remedy) in [
        (
            "localhost",
            &strangers,
            "name its authority's certificate in ca",
        ),
        (
            "127.0.0.1",
            &authority,
            "write a name that it is for in url",
        ),
    ] {
        let config = with(host, authority);
        assert_eq!(prusik.reload_with(config).await, Outcome::Done);
        let before = prusik.stderr().len();
        assert_eq!(status_of(prusik.public(), "/").await, 503, "{remedy}");
        prusik
            .wait_log(remedy, |entry| {
                let reason = entry["error"].as_str().unwrap_or_default();
                reason.contains(remedy)
            })
            .await;
        assert!(prusik.stderr().len() >= before);
    }
}

#[tokio::test]
async fn a_route_without_auth_is_served_while_its_neighbour_waits() {
    let server = Origin::chat().await;
    let keeper = Origin::start(|_| Answer::silence()).await;
    let closed = format!(
        "{{ match: {{ path_prefix: /closed }}, upstream: backend, {} }}",
        auth(&keeper, ", timeout: 30s")
    );
    let prusik = Prusik::start(Config::to(&[&server]).first(closed)).await;
    let mut waiting = Client::connect(prusik.public()).await;
    waiting.send(asking("/closed", "")).await;
    keeper.has_got("/verify").await;
    assert_eq!(get(prusik.public(), "/open").await.status(), 200);
    let mut session = Session::open(prusik.public(), "/open").await;
    assert_eq!(session.ask("hello").await, "hello");
}

#[tokio::test]
async fn an_auth_server_is_waited_for_as_long_as_its_own_key_says() {
    let server = Origin::start(|_| Answer::text("hello")).await;
    let slow = Answer::text("in").after(Duration::from_millis(1500));
    let keeper = Origin::start(move |_| slow.clone()).await;
    // Neither of these ends the wait: the client and the server take what there is.
    let config = Config::to(&[&server])
        .listener("limits: { stall: 1s }")
        .route("timeouts: { idle: 1s, response: 1s }")
        .route(auth(&keeper, ", timeout: 20s"));
    let prusik = Prusik::start(config).await;
    assert_eq!(status_of(prusik.public(), "/").await, 200);
}
