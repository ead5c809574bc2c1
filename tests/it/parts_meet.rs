//! What lets in, whose a session is, and how it is refused: several of them on one route.

use std::fs;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::refusal::refusal;
use crate::support::keys::{Keys, bearer, now};
use crate::support::{
    Answer, Client, Config, Frame, Head, Origin, Prusik, RawSession, Received, Response, check,
    client_frame, eventually, handshake, handshake_with, metrics_of,
};
use crate::users::listed;

const ADMIN: &str = "admin: { listen: \"127.0.0.1:0\" }";
const CLOSES: &str = "websocket: { refusal: close }";

/// The password: `s3cret`.
const USERS: &str = "ann:$2y$05$abcdefghijklmnopqrstuuLK7U1u6pVRmL7L1BBM2aS35PSZnDXlK\n";

async fn ask(prusik: &Prusik, target: &str, fields: &[&str]) -> Response {
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    let request = format!("GET {target} HTTP/1.1\r\nHost: test\r\n{fields}\r\n");
    Client::connect(prusik.public()).await.ask(request).await
}

/// What the client of a refused handshake is told.
async fn told(prusik: &Prusik, path: &str, fields: &[&str]) -> (Head, u16, String) {
    let handshake = handshake_with(path, fields);
    refusal(RawSession::open(prusik.public(), handshake).await).await
}

fn offer(protocols: &str) -> String {
    format!("Sec-WebSocket-Protocol: {protocols}")
}

fn authorization(password: &str) -> String {
    let encoded = BASE64_STANDARD.encode(format!("ann:{password}"));
    format!("Authorization: Basic {encoded}")
}

/// The method that knows Ann.
fn basic(keys: &Keys) -> String {
    let file = keys.folder.path().join("htpasswd");
    fs::write(&file, USERS).expect("it is ours");
    format!("basic: {{ users: \"{}\", realm: staff }}", file.display())
}

/// The method that asks this server, with more keys.
fn forward(keeper: &Origin, more: &str) -> String {
    let address = keeper.address();
    format!("forward: {{ url: \"http://{address}/verify\"{more} }}")
}

/// An auth server that answers as the last part of the path says, and calls everybody Fred.
async fn keeper() -> Origin {
    Origin::start(|question| {
        let uri = question.field("x-forwarded-uri").unwrap_or_default();
        let last = uri.rsplit('/').next().unwrap_or_default();
        let fields = ["X-User: fred", "Set-Cookie: seen=1", "Location: /login"];
        Answer::status(last.parse().unwrap_or(200), &fields, "")
    })
    .await
}

/// A field, the code and the reason that it is answered by, and the subprotocol of that answer.
type TokenRefusal = (String, u16, &'static str, Option<&'static str>);

/// `user`: a token that lacks a claim. `old`: one that has expired.
fn refusals(user: &str, old: &str) -> [TokenRefusal; 9] {
    [
        (
            "X-Nothing: here".to_owned(),
            4401,
            "a token is needed",
            None,
        ),
        (bearer("x.y.z"), 4401, "the token cannot be read", None),
        (bearer(old), 4401, "the token has expired", None),
        (bearer(user), 4403, "the token does not allow this", None),
        (offer("chat"), 4401, "a token is needed", Some("chat")),
        (
            offer("bearer, x.y.z"),
            4401,
            "the token cannot be read",
            Some("bearer"),
        ),
        (
            offer("bearer, x.y.z, chat"),
            4401,
            "the token cannot be read",
            Some("chat"),
        ),
        (
            offer(&format!("bearer, {user}")),
            4403,
            "the token does not allow this",
            Some("bearer"),
        ),
        (
            offer(&format!("bearer, {old}, v1, v2")),
            4401,
            "the token has expired",
            Some("v1"),
        ),
    ]
}

#[tokio::test]
async fn a_script_can_read_why_its_token_does_not_count() {
    let (keys, origin) = (Keys::new(), Origin::chat().await);
    let jwt = keys.route("from: [bearer, subprotocol], require: { role: agent }");
    let denied = format!(
        "{{ match: {{ path: /denied }}, upstream: backend, deny: [127.0.0.0/8], {jwt}, {CLOSES} }}"
    );
    let config = Config::to(&[&origin])
        .top(ADMIN)
        .first(denied)
        .route("name: chat")
        .route(&jwt)
        .route(CLOSES);
    let prusik = Prusik::start(config).await;
    let [user, agent] = ["user", "agent"].map(|role| keys.token(json!({ "role": role })));
    let old = keys.token(json!({ "role": "agent", "exp": now() - 3600 }));
    for (field, code, words, protocol) in refusals(&user, &old) {
        let (head, told, reason) = told(&prusik, "/", &[&field]).await;
        assert_eq!((told, &*reason), (code, words), "{field}");
        assert_eq!(head.field("sec-websocket-protocol"), protocol, "{field}");
        let is_it = |entry: &Value| entry["close_code"] == code && entry["error"] == words;
        let line = prusik.wait_log(words, is_it).await;
        assert_eq!(line["status"], code - 4000, "{line}");
    }
    // Who may not come in by its address is not asked for a token.
    let (_, code, reason) = told(&prusik, "/denied", &[]).await;
    assert_eq!(code, 4403);
    assert!(!reason.contains("token"), "{reason}");
    assert!(origin.received().is_empty());

    let handshake = handshake_with("/", &[&offer(&format!("bearer, {agent}"))]);
    let mut session = RawSession::open(prusik.public(), handshake).await;
    assert_eq!(session.head.field("sec-websocket-protocol"), Some("bearer"));
    session.send(client_frame(1, b"hello")).await;
    assert_eq!(session.frame().await, Frame::text("hello"));
    let metrics = metrics_of(&prusik).await;
    for (reason, count) in [
        ("missing", 2),
        ("invalid", 3),
        ("expired", 2),
        ("claims", 2),
    ] {
        let line =
            format!("prusik_auth_refused_total{{route=\"chat\",reason=\"{reason}\"}} {count}");
        assert!(metrics.contains(&line), "no {line} in {metrics}");
    }
    let log = format!("{:?}{}", prusik.access_log(), prusik.stderr());
    assert!(
        ![&user, &agent, &old]
            .iter()
            .any(|token| log.contains(*token))
    );
}

#[tokio::test]
async fn a_script_can_read_what_an_auth_server_has_said() {
    let (origin, keeper) = (Origin::chat().await, keeper().await);
    let auth = format!("auth: {{ {} }}", forward(&keeper, ""));
    let config = Config::to(&[&origin]).route(auth).route(CLOSES);
    let prusik = Prusik::start(config).await;
    for (status, code) in [(401, 4401), (302, 4401), (403, 4403)] {
        let path = format!("/{status}");
        let (head, told, reason) = told(&prusik, &path, &[]).await;
        assert_eq!(told, code, "{status}: {reason}");
        assert!(reason.contains(&status.to_string()), "{reason}");
        // A login that goes on elsewhere may need it; of a 101 nobody reads a location.
        assert_eq!(head.field("set-cookie"), Some("seen=1"), "{head}");
        assert_eq!(head.field("location"), None, "{head}");
        let is_it = |entry: &Value| entry["path"] == path.as_str();
        let line = prusik.wait_log(&path, is_it).await;
        assert_eq!(
            (&line["status"], &line["close_code"]),
            (&status.into(), &code.into())
        );
    }
    let mut session = RawSession::open(prusik.public(), handshake("/200")).await;
    session.send(client_frame(1, b"hello")).await;
    assert_eq!(session.frame().await, Frame::text("hello"));
    keeper.kill().await;
    let (_, code, reason) = told(&prusik, "/200", &[]).await;
    assert_eq!((code, &*reason), (1013, "retry in 2 s"));
    let is_it = |entry: &Value| entry["close_code"] == 1013;
    let line = prusik.wait_log("the auth server is gone", is_it).await;
    assert_eq!(line["status"], 503, "{line}");
}

#[tokio::test]
async fn a_script_can_read_how_long_it_has_to_wait() {
    let (keys, origin) = (Keys::new(), Origin::chat().await);
    let rate = |key: &str| format!("requests_per_second: {{ rate: 0.001, burst: 1{key} }}");
    let jwt = keys.route("");
    let guessing = format!(
        "{{ match: {{ path: /guess }}, upstream: backend, {jwt}, {CLOSES}, {} }}",
        rate("")
    );
    let config = Config::to(&[&origin])
        .first(guessing)
        .route(&jwt)
        .route(CLOSES)
        .route(rate(", key: $jwt_sub"));
    let prusik = Prusik::start(config).await;
    let [alice, bob] = ["alice", "bob"].map(|sub| bearer(&keys.token(json!({ "sub": sub }))));
    let waits = |(_, code, reason): (Head, u16, String)| {
        let seconds = reason.strip_prefix("retry in ");
        let seconds = seconds.and_then(|rest| rest.strip_suffix(" s")?.parse().ok());
        assert!(matches!(seconds, Some(900..=1000)), "{code}: {reason}");
        assert_eq!(code, 1013);
    };
    let _first = RawSession::open(prusik.public(), handshake_with("/", &[&alice])).await;
    waits(told(&prusik, "/", &[&alice]).await);
    // Who is not let in is not counted as somebody.
    assert_eq!(told(&prusik, "/", &[&bearer("x.y.z")]).await.1, 4401);
    let mut other = RawSession::open(prusik.public(), handshake_with("/", &[&bob])).await;
    other.send(client_frame(1, b"hello")).await;
    assert_eq!(other.frame().await, Frame::text("hello"));
    // For each client, guesses are counted.
    assert_eq!(told(&prusik, "/guess", &[]).await.1, 4401);
    waits(told(&prusik, "/guess", &[&alice]).await);
}

#[tokio::test]
async fn all_that_a_route_names_must_let_in_one_after_the_other() {
    let (keys, keeper) = (Keys::new(), keeper().await);
    let origin = Origin::start(|request| match request.wants_upgrade() {
        true => Answer::upgrade(request),
        false => Answer::text("hello"),
    })
    .await;
    let auth = format!(
        "auth: {{ {}, {}, {} }}",
        forward(&keeper, ", response_headers: [X-User]"),
        keys.method("from: [\"cookie:token\"]"),
        basic(&keys)
    );
    let who = "{ set: { X-Who: \"$jwt_sub/$auth_x_user/$user\" } }";
    let config = Config::to(&[&origin])
        .route(auth)
        .route(format!("headers: {{ request: {who}, response: {who} }}"));
    let prusik = Prusik::start(config).await;
    let token = keys.token(json!({ "sub": "alice" }));
    let (good, bad) = (format!("Cookie: token={token}"), "Cookie: token=x.y.z");
    let (right, wrong) = (authorization("s3cret"), authorization("guess"));
    for (fields, challenge) in [
        (&[][..], "Basic realm=\"staff\""),
        (&[&good[..]][..], "Basic realm=\"staff\""),
        (&[&wrong, &good], "Basic realm=\"staff\""),
        (&[&right], "Bearer"),
        (&[&right, bad], "Bearer error=\"invalid_token\""),
    ] {
        let answer = ask(&prusik, "/", fields).await;
        assert_eq!(answer.status(), 401, "{fields:?}");
        let said = answer.field("www-authenticate").unwrap_or_default();
        assert!(said.starts_with(challenge), "{fields:?}: {said}");
        assert_eq!(said.starts_with("Basic"), challenge.starts_with("Basic"));
    }
    assert!(keeper.received().is_empty(), "it is asked last");
    let answer = ask(&prusik, "/403", &[&right, &good]).await;
    assert_eq!(answer.status(), 403);
    assert_eq!(keeper.received().len(), 1);
    assert!(origin.received().is_empty());

    let answer = ask(&prusik, "/", &[&right, &good, "X-User: root"]).await;
    assert_eq!((answer.status(), &*answer.text()), (200, "hello"));
    assert_eq!(answer.field("x-who"), Some("alice/fred/alice"));
    assert_eq!(answer.field("set-cookie"), Some("seen=1"));
    let request = origin.only_request();
    assert_eq!(request.field("x-who"), Some("alice/fred/alice"));
    assert_eq!(request.field("x-user"), Some("fred"));
    let handshake = handshake_with("/ws", &[&right, &good]);
    let session = RawSession::open(prusik.public(), handshake).await;
    assert_eq!(session.head.field("x-who"), Some("alice/fred/alice"));
    let request = origin.received().pop().expect("the server was asked");
    assert_eq!(request.field("x-who"), Some("alice/fred/alice"));
}

#[tokio::test]
async fn a_page_says_it_nicely_and_the_challenge_stays() {
    let (keys, keeper, origin) = (Keys::new(), keeper().await, Origin::chat().await);
    let page = keys.folder.path().join("login.html");
    fs::write(&page, "<p>Log in").expect("it is ours");
    let page = page.display();
    let auth = format!("auth: {{ {}, {} }}", keys.method(""), forward(&keeper, ""));
    let config = Config::to(&[&origin])
        .route(auth)
        .route(CLOSES)
        .route(format!("errors: {{ 401: \"{page}\", 503: \"{page}\" }}"));
    let prusik = Prusik::start(config).await;
    let answer = ask(&prusik, "/401", &[]).await;
    assert_eq!((answer.status(), &*answer.text()), (401, "<p>Log in"));
    assert_eq!(answer.field("www-authenticate"), Some("Bearer"));
    // The auth server has said it in its own words.
    let token = bearer(&keys.token(json!({})));
    let answer = ask(&prusik, "/401", &[&token]).await;
    assert_eq!((answer.status(), &*answer.text()), (401, ""));
    assert_eq!(answer.field("set-cookie"), Some("seen=1"));
    keeper.kill().await;
    let answer = ask(&prusik, "/200", &[&token]).await;
    assert_eq!((answer.status(), &*answer.text()), (503, "<p>Log in"));
    let (_, code, reason) = told(&prusik, "/", &[]).await;
    assert_eq!((code, &*reason), (4401, "a token is needed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_it_is_follows_from_what_has_let_it_in() {
    let (keys, keeper, origin) = (Keys::new(), keeper().await, Origin::chat().await);
    let route = |path: &str, method: String, more: &str| {
        format!(
            "{{ match: {{ path_prefix: {path} }}, upstream: backend, auth: {{ {method} }}{more} }}"
        )
    };
    let named = ", user: $auth_x_user";
    let both = format!(
        "{}, {}",
        keys.method("from: [\"cookie:token\"]"),
        basic(&keys)
    );
    let config = Config::to(&[&origin])
        .top(ADMIN)
        .first(route("/jwt", keys.method(""), ""))
        .first(route("/basic", basic(&keys), ""))
        .first(route("/both", both, ""))
        .first(route("/forward", forward(&keeper, ""), ""))
        .first(route("/named", forward(&keeper, ""), named));
    let prusik = Prusik::start(config).await;
    let token = keys.token(json!({ "sub": "alice" }));
    let (bearer, password) = (bearer(&token), authorization("s3cret"));
    let cookie = format!("Cookie: token={token}");
    for (path, fields, user) in [
        ("/jwt", &[&bearer[..]][..], json!("alice")),
        ("/basic", &[&password], json!("ann")),
        ("/both", &[&password, &cookie], json!("alice")),
        ("/forward", &[&password], Value::Null),
        ("/named", &[&bearer], json!("fred")),
    ] {
        assert_eq!(
            ask(&prusik, &format!("{path}/page"), fields).await.status(),
            200
        );
        let handshake = handshake_with(&format!("{path}/ws"), fields);
        let session = RawSession::open(prusik.public(), handshake).await;
        if let Some(user) = user.as_str() {
            eventually("it is listed", async || listed(&prusik, user).await == 1).await;
        }
        drop(session);
        for (kind, last) in [
            ("request", "page"),
            ("session_open", "ws"),
            ("session_close", "ws"),
        ] {
            let path = format!("{path}/{last}");
            let is_it = |entry: &Value| entry["kind"] == kind && entry["path"] == path.as_str();
            let entry = prusik.wait_log(&path, is_it).await;
            assert_eq!(entry["user"], user, "{entry}");
        }
        if let Some(user) = user.as_str() {
            eventually("it is gone", async || listed(&prusik, user).await == 0).await;
        }
    }
}

#[tokio::test]
async fn of_a_subject_with_too_many_sessions_the_oldest_is_told() {
    let (keys, origin) = (Keys::new(), Origin::chat().await);
    let limit = "websocket: { max_sessions_per_user: 1, newest_wins: true }";
    let config = Config::to(&[&origin]).route(keys.route("")).route(limit);
    let prusik = Prusik::start(config).await;
    let open = async |sub: &str, number: u64| {
        let token = keys.token(json!({ "sub": sub, "jti": number }));
        let handshake = handshake_with("/", &[&bearer(&token)]);
        RawSession::open(prusik.public(), handshake).await
    };
    let (oldest, mut of_bob) = (open("alice", 1).await, open("bob", 2).await);
    let mut newest = open("alice", 3).await;
    let (_, code, _) = refusal(oldest).await;
    assert_eq!(code, 4409);
    let close = prusik.session_close().await;
    assert_eq!(
        (&close["user"], &close["closed_by"]),
        (&"alice".into(), &"limit".into())
    );
    for session in [&mut newest, &mut of_bob] {
        session.send(client_frame(1, b"hello")).await;
        assert_eq!(session.frame().await, Frame::text("hello"));
    }
}

#[tokio::test]
async fn a_limit_for_each_user_needs_somebody_who_names_them() {
    let (keys, keeper, origin) = (Keys::new(), keeper().await, Origin::chat().await);
    let checked = |method: String, user: &str| {
        let config = Config::to(&[&origin])
            .route(format!("auth: {{ {method} }}"))
            .route("websocket: { max_sessions_per_user: 1 }")
            .route("stream: { max_sessions_per_user: 1 }")
            .route(user);
        let output = check(&config.to_string());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said)
    };
    let (is_fine, said) = checked(keys.method(""), "");
    assert!(is_fine, "{said}");
    let (is_fine, said) = checked(basic(&keys), "");
    assert!(is_fine, "{said}");
    let (is_fine, said) = checked(forward(&keeper, ""), "user: $auth_x_user");
    assert!(is_fine, "{said}");
    let (is_fine, said) = checked(forward(&keeper, ""), "");
    assert!(
        !is_fine && said.contains("this route knows no users"),
        "{said}"
    );
}

#[tokio::test]
async fn an_auth_server_is_asked_about_the_rewritten_path_and_sees_no_token_of_the_query() {
    let (keys, keeper) = (Keys::new(), keeper().await);
    let origin = Origin::start(|request: &Received| Answer::text(request.target())).await;
    let route = |path: &str, more: &str| {
        let from = format!("from: [\"query:access_token\"]{more}");
        format!(
            "{{ match: {{ path_prefix: /{path} }}, rewrite: {{ regex: \"^/{path}/(.*)$\", to: \
             \"/api/$1\" }}, upstream: backend, auth: {{ {}, {} }} }}",
            keys.method(&from),
            forward(&keeper, "")
        )
    };
    let config = Config::to(&[&origin])
        .first(route("v1", ""))
        .first(route("kept", ", keep_token: true"));
    let prusik = Prusik::start(config).await;
    let token = keys.token(json!({}));
    let argument = format!("access_token={token}");
    for (path, at_server) in [
        ("v1", "/api/a%20b?x=1&y=2".to_owned()),
        ("kept", format!("/api/a%20b?x=1&{argument}&y=2")),
    ] {
        let target = format!("/{path}/./a%20b?x=1&{argument}&y=2");
        let referer = format!("Referer: http://test/?{argument}");
        let answer = ask(&prusik, &target, &[&referer]).await;
        assert_eq!((answer.status(), answer.text()), (200, at_server), "{path}");
        let question = keeper.received().pop().expect("it was asked");
        assert_eq!(
            question.field("x-forwarded-uri"),
            Some("/api/a%20b?x=1&y=2")
        );
        assert!(
            !question.head.to_string().contains(&token),
            "{}",
            question.head
        );
    }
    // Its word is about that path.
    let answer = ask(&prusik, &format!("/v1/403?{argument}"), &[]).await;
    assert_eq!(answer.status(), 403);
}
