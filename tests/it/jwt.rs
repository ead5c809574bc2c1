//! `auth.jwt`: whose token counts comes in, where a token may be, and that nobody else sees it.

use std::fs;

use http::Request;
use serde_json::{Value, json};

use crate::support::http2::{Http2Site, NAME};
use crate::support::issuer::Issuer;
use crate::support::keys::{Keys, bearer, now};
use crate::support::{
    Answer, Client, Config, Frame, Origin, Prusik, RawSession, Received, Response, client_frame,
    handshake_with, within,
};

const ADMIN: &str = "admin: { listen: \"127.0.0.1:0\" }";

async fn ask(prusik: &Prusik, target: &str, fields: &[&str]) -> Response {
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    let request = format!("GET {target} HTTP/1.1\r\nHost: test\r\n{fields}\r\n");
    Client::connect(prusik.public()).await.ask(request).await
}

async fn status(prusik: &Prusik, target: &str, fields: &[&str]) -> u16 {
    ask(prusik, target, fields).await.status()
}

/// Fields that do not let in, with the status, the challenge, and a part of the reason.
type Refusals = [(Vec<String>, u16, Option<&'static str>, &'static str); 8];

/// `with`: a token that differs from a good one in one claim.
fn refusals(with: impl Fn(&str, Value) -> String) -> Refusals {
    let basic = "Authorization: Basic YTpi".to_owned();
    let (early, late) = (Value::from(now() + 60), Value::from(now() - 31));
    let invalid = |field: String, words| (vec![field], 401, Some(INVALID), words);
    [
        (vec![], 401, Some("Bearer"), "a token is needed"),
        (vec![basic], 401, Some("Bearer"), "a token is needed"),
        invalid(bearer("x.y.z"), "the token cannot be read"),
        invalid(with("exp", late), "the token has expired"),
        invalid(with("nbf", early), "not valid yet"),
        invalid(with("aud", "mail".into()), "for somebody else"),
        invalid(with("iss", "https://evil.test".into()), "another issuer"),
        (
            vec![with("role", "user".into())],
            403,
            None,
            "not allow this",
        ),
    ]
}

#[tokio::test]
async fn a_token_lets_in_and_each_refusal_has_its_status_reason_and_count() {
    let (keys, origin) = (Keys::new(), Origin::chat().await);
    let rules = "issuer: \"https://id.test\", audience: [chat, video], leeway: 30s, \
                 require: { role: [agent, admin], sub: true }";
    let config = Config::to(&[&origin]).top(ADMIN).route(keys.route(rules));
    let prusik = Prusik::start(config).await;
    let good = json!({ "iss": "https://id.test", "aud": "chat", "role": ["x", "agent"],
                       "sub": "alice", "exp": now() + 60 });
    let with = |claim: &str, value: Value| {
        let mut claims = good.clone();
        claims[claim] = value;
        bearer(&keys.token(claims))
    };
    for fine in [
        with("exp", (now() + 1).into()),
        with("exp", (now() - 15).into()),
        with("aud", json!(["mail", "video"])),
        with("role", "admin".into()),
    ] {
        assert_eq!(status(&prusik, "/", &[&fine]).await, 200);
    }
    let came = origin.received().len();
    for (fields, status, challenge, words) in refusals(with) {
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        let answer = ask(&prusik, "/", &fields).await;
        assert_eq!(answer.status(), status, "{}", answer.text());
        assert_eq!(answer.field("www-authenticate"), challenge);
        assert!(answer.text().contains(words), "{}", answer.text());
        prusik
            .wait_log(words, |entry| {
                let said = entry["error"].as_str().unwrap_or_default();
                entry["status"] == status && said.contains(words)
            })
            .await;
    }
    assert_eq!(origin.received().len(), came, "the server was not asked");
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let metrics = Client::connect(prusik.admin()).await.ask(request).await;
    for (reason, count) in [
        ("missing", 2),
        ("invalid", 4),
        ("expired", 1),
        ("claims", 1),
    ] {
        let line =
            format!("prusik_auth_refused_total{{route=\"any\",reason=\"{reason}\"}} {count}");
        assert!(
            metrics.text().contains(&line),
            "no {line} in {}",
            metrics.text()
        );
    }
}

const INVALID: &str = "Bearer error=\"invalid_token\"";

#[tokio::test]
async fn keys_may_be_a_pem_file_or_a_certificate() {
    let origin = Origin::chat().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("keys.pem");
    let route = format!("auth: {{ jwt: {{ keys: \"{}\" }} }}", file.display());
    let config = Config::to(&[&origin]).route(route);
    let rsa = Issuer::rsa("whatever");
    fs::write(&file, rsa.pem()).expect("it is ours");
    let prusik = Prusik::start(&config).await;
    let token = bearer(&rsa.sign("PS512", &json!({})));
    assert_eq!(status(&prusik, "/", &[&token]).await, 200);

    // A reload reads it again.
    let authority = crate::support::Authority::new();
    let pair = authority.issue("keys", &["id.test"]);
    fs::copy(&pair.cert, &file).expect("it is ours");
    assert_eq!(prusik.reload().await, crate::support::Outcome::Done);
    assert_eq!(status(&prusik, "/", &[&token]).await, 401);
    let key = fs::read_to_string(&pair.key).expect("it is there");
    let token = bearer(&Issuer::p256_of(&key, "any").sign("ES256", &json!({})));
    assert_eq!(status(&prusik, "/", &[&token]).await, 200);
}

#[tokio::test]
async fn a_token_is_found_where_the_route_says_and_the_first_place_decides() {
    let (keys, origin) = (Keys::new(), Origin::chat().await);
    let from = "from: [\"cookie:session\", bearer, \"query:access_token\"]";
    let set = "headers: { request: { set: { X-Who: $jwt_sub } } }";
    let config = Config::to(&[&origin]).route(keys.route(from)).route(set);
    let prusik = Prusik::start(config).await;
    let of = |who: &str| keys.token(json!({ "sub": who }));
    let (cookie, header) = (
        format!("Cookie: session={}", of("cookie")),
        bearer(&of("header")),
    );
    let target = format!("/?access_token={}", of("query"));
    for (fields, who) in [
        (&[&cookie[..], &header][..], "cookie"),
        (&[&header], "header"),
        (&["Cookie: other=1", "Authorization: Basic YTpi"], "query"),
    ] {
        assert_eq!(status(&prusik, &target, fields).await, 200, "{who}");
        let request = origin.received().pop().expect("the server was asked");
        assert_eq!(request.field("x-who"), Some(who));
        assert_eq!(request.target(), "/");
    }
    // A place that has a bad one decides too.
    let fields = ["Cookie: session=bad", &header];
    assert_eq!(status(&prusik, &target, &fields).await, 401);
    // The header and the cookie go on.
    let request = origin.received().remove(0);
    assert!(request.has_line(&cookie) && request.has_line(&header));
}

/// A server that says what it was asked, and takes sessions.
async fn telling_origin() -> Origin {
    Origin::start(|received| match received.wants_upgrade() {
        true => Answer::upgrade(received),
        false => Answer::text(received.target()),
    })
    .await
}

const SEEN: &str = "headers: { request: { set: { \
                    X-Seen: \"$args|$request_uri|$query_string|$arg_access_token|$is_args\" } } }";

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_the_query_is_seen_by_nobody_else() {
    let (keys, origin) = (Keys::new(), telling_origin().await);
    let from = "from: [bearer, \"query:access_token\"]";
    let config = Config::to(&[&origin])
        .top(ADMIN)
        .first("{ match: { path: /moved }, redirect: { to: \"/new?$args\" } }")
        .first("{ match: { path: /open }, upstream: backend }")
        .route(keys.route(from))
        .route(SEEN);
    let prusik = Prusik::start(&config).await;
    let token = keys.token(json!({}));
    let (good, bad) = (
        format!("access_token={token}"),
        "Access%5FToken=s3cr3t.s3cr3t.s3cr3t",
    );
    assert_eq!(
        ask(&prusik, &format!("/a?x=1&{good}&y=%41"), &[])
            .await
            .text(),
        "/a?x=1&y=%41"
    );
    let request = origin.only_request();
    assert_eq!(
        request.field("x-seen"),
        Some("x=1&y=%41|/a?x=1&y=%41|x=1&y=%41||?")
    );
    // Whoever decides, and whatever comes of it.
    let header = bearer(&token);
    assert_eq!(
        ask(&prusik, &format!("/b?{bad}"), &[&header]).await.text(),
        "/b"
    );
    assert_eq!(origin.received()[1].field("x-seen"), Some("|/b|||"));
    assert_eq!(status(&prusik, &format!("/c?{bad}"), &[]).await, 401);
    let referer = format!("Referer: https://test/page?{good}");
    assert_eq!(
        status(&prusik, &format!("/d?{good}"), &[&referer]).await,
        200
    );
    assert!(origin.received()[2].has_line("Referer: https://test/page"));
    // What a page with a token in its URL loads goes by another route, which looks for none.
    let more = "Referer: https://test/more?q=1&access_token=x";
    assert_eq!(status(&prusik, "/open", &[&referer, more]).await, 200);
    let loaded = origin.received().pop().expect("it has come");
    assert_eq!(
        loaded.fields("referer"),
        ["https://test/page", "https://test/more?q=1"]
    );
    // A request that is refused before its route is known.
    let unsound = format!("/e?{bad}");
    assert_eq!(status(&prusik, &unsound, &["Content-Length: x"]).await, 400);

    let mut session =
        RawSession::open(prusik.public(), handshake_with(&format!("/ws?{good}"), &[])).await;
    session.send(client_frame(1, b"hello")).await;
    assert_eq!(session.frame().await, Frame::text("hello"));
    let listed = prusik.order(&["sessions", "--json"]).await;
    assert!(listed.contains("\"/ws\""), "{listed}");
    drop(session);
    prusik.session_close().await;
    for path in ["/a?x=1&y=%41", "/b", "/c", "/d", "/e"] {
        prusik.wait_log(path, |entry| entry["path"] == path).await;
    }
    let said = format!("{:?}{listed}{}", prusik.access_log(), prusik.stderr());
    assert!(!said.contains("s3cr3t") && !said.contains(&token), "{said}");
}

/// PHP reads the first three as `access_token`, and some read `;` as `&`.
#[tokio::test]
async fn what_another_reader_takes_for_the_token_goes_no_further() {
    let (keys, origin) = (Keys::new(), telling_origin().await);
    let route = keys.route("from: [bearer, \"query:access_token\"]");
    let prusik = Prusik::start(Config::to(&[&origin]).route(route)).await;
    let header = bearer(&keys.token(json!({})));
    for other in [
        "access.token",
        "access+token",
        "access_token[]",
        "a=1;access_token",
    ] {
        let target = format!("/o?{other}=forged&x=1");
        let seen = ask(&prusik, &target, &[&header]).await.text();
        assert!(
            !seen.contains("forged") && seen.ends_with("x=1"),
            "{target}: {seen}"
        );
    }
}

#[tokio::test]
async fn who_may_not_come_in_anyway_has_the_token_logged_no_more() {
    let (keys, origin) = (Keys::new(), telling_origin().await);
    let from = "from: [\"query:access_token\"]";
    let config = Config::to(&[&origin])
        .first("{ match: { host: other.test }, respond: { status: 204 } }")
        .route("match: { path_prefix: /in }")
        .route("deny: [127.0.0.1]")
        .route(keys.route(from));
    let prusik = Prusik::start(config).await;
    assert_eq!(status(&prusik, "/in?access_token=s3cr3t", &[]).await, 403);
    assert_eq!(
        status(&prusik, "/nowhere?access_token=s3cr3t&x", &[]).await,
        404
    );
    for path in ["/in", "/nowhere?x"] {
        prusik.wait_log(path, |entry| entry["path"] == path).await;
    }
    assert!(!format!("{:?}", prusik.access_log()).contains("s3cr3t"));
}

#[tokio::test]
async fn keep_token_gives_the_server_what_was_sent_and_nobody_else() {
    let (keys, origin) = (Keys::new(), telling_origin().await);
    let from = "from: [\"query:access_token\"], keep_token: true";
    let config = Config::to(&[&origin]).route(keys.route(from)).route(SEEN);
    let prusik = Prusik::start(config).await;
    let token = keys.token(json!({}));
    let target = format!("/a?x=1&access_token={token}");
    assert_eq!(ask(&prusik, &target, &[]).await.text(), target);
    let request = origin.only_request();
    assert_eq!(request.field("x-seen"), Some("x=1|/a?x=1|x=1||?"));
    prusik
        .wait_log("/a?x=1", |entry| entry["path"] == "/a?x=1")
        .await;
}

/// A server that answers with the subprotocol that the test wants, if any.
async fn choosing_origin() -> Origin {
    Origin::start(|received: &Received| {
        let chosen = received.target().trim_start_matches('/').to_owned();
        match chosen.is_empty() {
            true => Answer::upgrade(received),
            false => {
                let field = format!("Sec-WebSocket-Protocol: {chosen}");
                Answer::upgrade_with(received, &[&field], b"")
            }
        }
    })
    .await
}

/// What is offered, what the server chooses, what it is offered, and what the client hears.
const OFFERS: [(&str, &str, Option<&str>, &str); 6] = [
    ("bearer, TOKEN", "", None, "bearer"),
    ("Bearer,TOKEN", "", None, "Bearer"),
    ("bearer, TOKEN, chat", "chat", Some("chat"), "chat"),
    ("v1, bearer, TOKEN, v2", "v2", Some("v1, v2"), "v2"),
    // A browser that has offered some wants one.
    ("bearer, TOKEN, chat", "", Some("chat"), "bearer"),
    ("chat, bearer, TOKEN", "", Some("chat"), "bearer"),
];

#[tokio::test]
async fn a_token_among_the_subprotocols_is_not_offered_to_the_server() {
    let (keys, origin) = (Keys::new(), choosing_origin().await);
    let config = Config::to(&[&origin]).route(keys.route("from: [subprotocol]"));
    let prusik = Prusik::start(config).await;
    let token = keys.token(json!({ "sub": "alice" }));
    for (offer, choice, offered, heard) in OFFERS {
        let field = format!("Sec-WebSocket-Protocol: {}", offer.replace("TOKEN", &token));
        let request = handshake_with(&format!("/{choice}"), &[&field]);
        let mut session = RawSession::open(prusik.public(), request).await;
        assert_eq!(
            session.head.field("sec-websocket-protocol"),
            Some(heard),
            "{offer}"
        );
        let request = origin.received().pop().expect("the server was asked");
        assert_eq!(request.field("sec-websocket-protocol"), offered, "{offer}");
        assert!(!request.head.to_string().contains(&token));
        session.send(client_frame(1, b"hello")).await;
        assert_eq!(session.frame().await, Frame::text("hello"));
    }
    for refused in ["chat", "bearer", "bearer, x.y.z", "bearer, x.y.z, chat"] {
        let field = format!("Sec-WebSocket-Protocol: {refused}");
        let mut client = Client::connect(prusik.public()).await;
        let answer = client.ask(handshake_with("/", &[&field])).await;
        assert_eq!(answer.status(), 401, "{refused}");
    }
    assert_eq!(origin.received().len(), OFFERS.len());
}

#[tokio::test]
async fn the_same_by_http_2() {
    let keys = Keys::new();
    let from = "from: [bearer, subprotocol, \"query:access_token\"]";
    let site = Http2Site::start(choosing_origin().await, |config| {
        config.route(keys.route(from))
    })
    .await;
    let mut client = site.client().await;
    let token = keys.token(json!({}));
    let session = |path: &str, offer: Option<String>| {
        let mut request =
            Request::connect(format!("https://{NAME}{path}")).header("sec-websocket-version", "13");
        if let Some(offer) = offer {
            request = request.header("sec-websocket-protocol", offer);
        }
        request.body(()).expect("a sound request")
    };
    for (offer, choice, offered, heard) in OFFERS {
        let offer = offer.replace("TOKEN", &token);
        let response = client
            .open(session(&format!("/{choice}"), Some(offer)))
            .await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["sec-websocket-protocol"], heard);
        let request = site.origin.received().pop().expect("the server was asked");
        assert_eq!(request.field("sec-websocket-protocol"), offered);
    }
    let target = format!("/?access_token={token}");
    let response = client.open(session(&target, None)).await;
    assert_eq!(response.status(), 200);
    assert!(!response.headers().contains_key("sec-websocket-protocol"));
    let request = site.origin.received().pop().expect("the server was asked");
    assert_eq!(request.target(), "/");
    let response = within("an answer", client.open(session("/", None))).await;
    assert_eq!(response.status(), 401);
    assert_eq!(response.headers()["www-authenticate"], "Bearer");
}

#[tokio::test]
async fn other_routes_ask_for_nothing_and_keep_their_arguments() {
    let (keys, origin) = (Keys::new(), telling_origin().await);
    let open = "{ match: { path_prefix: /open }, upstream: backend }";
    let config = Config::to(&[&origin])
        .first(open)
        .route(keys.route("from: [\"query:access_token\"]"));
    let prusik = Prusik::start(config).await;
    let answer = ask(&prusik, "/open?access_token=x", &[]).await;
    assert_eq!(answer.text(), "/open?access_token=x");
}
