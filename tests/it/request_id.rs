//! `X-Request-Id`: the same for the client, the servers, and every log on the way; and traces.

use crate::support::{Answer, Client, Config, Origin, Prusik, RawSession, handshake_with};

const ASK: &str = "GET / HTTP/1.1\r\nHost: test\r\n";

async fn ask(prusik: &Prusik, fields: &str) -> String {
    let mut client = Client::connect(prusik.public()).await;
    let answer = client.ask(format!("{ASK}{fields}\r\n")).await;
    let ids = answer.head.fields("x-request-id");
    assert_eq!(ids.len(), 1, "{}", answer.head);
    ids[0].to_owned()
}

fn is_uuid(id: &str) -> bool {
    id.len() == 36 && id.as_bytes()[14] == b'7' && uuid::Uuid::try_parse(id).is_ok()
}

#[tokio::test]
async fn server_client_and_log_know_a_request_by_one_name() {
    let origin = Origin::start(|_| Answer::status(200, &["X-Request-Id: the-servers"], "")).await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let id = ask(
        &prusik,
        "X-Request-Id: the-clients\r\nX_Request_Id: another\r\n",
    )
    .await;
    assert!(is_uuid(&id), "{id}");
    let received = origin.only_request();
    assert_eq!(received.head.fields("x-request-id"), [&id]);
    assert_eq!(received.head.field("x_request_id"), None);
    let line = prusik.wait_log("request", |_| true).await;
    assert_eq!(line["id"], id);
    assert_eq!(line.get("request_id"), None);
}

#[tokio::test]
async fn an_answer_of_prusiks_own_has_one_as_well() {
    let config = Config::default()
        .server("127.0.0.1:9")
        .first("{ match: { path: / }, respond: { status: 410, body: gone } }");
    let prusik = Prusik::start(config).await;
    let id = ask(&prusik, "").await;
    assert_eq!(prusik.wait_log("request", |_| true).await["id"], id);
}

#[tokio::test]
async fn what_a_trusted_proxy_calls_it_is_taken_over_if_it_is_one_plain_word() {
    let origin = Origin::start(|_| Answer::text("fine")).await;
    let config = Config::to(&[&origin]).top("trusted_proxies: [127.0.0.0/8]");
    let prusik = Prusik::start(config).await;
    let theirs = "0190aaaa-0000-7000-8000-000000000001";
    assert_eq!(
        ask(&prusik, &format!("X-Request-Id: {theirs}\r\n")).await,
        theirs
    );
    assert_eq!(
        origin.received()[0].head.field("x-request-id"),
        Some(theirs)
    );
    let line = prusik
        .wait_log("request", |line| line["id"] == theirs)
        .await;
    assert_eq!(line.get("request_id"), None);
    // No UUID: the log has both.
    assert_eq!(ask(&prusik, "X-Request-Id: theirs/7\r\n").await, "theirs/7");
    assert_eq!(
        origin.received()[1].head.field("x-request-id"),
        Some("theirs/7")
    );
    let line = prusik
        .wait_log("request", |line| line["request_id"] == "theirs/7")
        .await;
    assert!(is_uuid(line["id"].as_str().expect("a text")), "{line}");
    for odd in [
        "X-Request-Id: two words\r\n".to_owned(),
        "X-Request-Id: a\"b\r\n".to_owned(),
        "X-Request-Id: a\r\nX-Request-Id: b\r\n".to_owned(),
        format!("X-Request-Id: {}\r\n", "x".repeat(129)),
    ] {
        let id = ask(&prusik, &odd).await;
        assert!(is_uuid(&id), "{odd}: {id}");
    }
}

#[tokio::test]
async fn a_route_may_keep_it_to_itself() {
    let origin = Origin::start(|_| Answer::text("fine")).await;
    let headers = "headers: { request: { remove: [X-Request-Id], set: { X-Tag: $request_id } }, \
                   response: { remove: [X-Request-Id] } }";
    let prusik = Prusik::start(Config::to(&[&origin]).route(headers)).await;
    let mut client = Client::connect(prusik.public()).await;
    let answer = client.get("/").await;
    assert_eq!(answer.field("x-request-id"), None);
    let received = origin.only_request();
    assert_eq!(received.head.field("x-request-id"), None);
    let line = prusik.wait_log("request", |_| true).await;
    assert_eq!(received.head.field("x-tag"), line["id"].as_str());
}

/// One name through both tiers, by which an operator can find and close the session in either.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_has_one_id_through_two_tiers() {
    let origin = Origin::chat().await;
    let admin = "admin: { listen: \"127.0.0.1:0\" }";
    let inner = Config::to(&[&origin])
        .top("trusted_proxies: [127.0.0.0/8]")
        .top(admin);
    let inner = Prusik::start(inner).await;
    let outer = Config::default().server(inner.public()).top(admin);
    let outer = Prusik::start(outer).await;
    let session = RawSession::open(
        outer.public(),
        handshake_with("/", &["X-Request-Id: the-clients"]),
    )
    .await;
    let id = session.head.field("x-request-id").expect("a name");
    assert!(is_uuid(id), "{id}");
    assert_eq!(origin.only_request().head.field("x-request-id"), Some(id));
    for tier in [&outer, &inner] {
        assert_eq!(tier.wait_log("session_open", |_| true).await["id"], id);
        let listed = tier.order(&["sessions", "--json"]).await;
        assert!(listed.contains(id), "{listed}");
    }
    inner.order(&["close", id]).await;
    for tier in [&outer, &inner] {
        let close = tier.session_close().await;
        assert_eq!(close["id"], id);
    }
    assert_eq!(inner.session_close().await["closed_by"], "operator");
    assert_eq!(outer.session_close().await["closed_by"], "server");
}

/// Whoever traces on both sides of prusik sees one trace: nothing of its context is touched.
#[tokio::test]
async fn trace_context_passes_as_it_came() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let context = [
        "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "tracestate: rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
    ];
    RawSession::open(prusik.public(), handshake_with("/", &context)).await;
    ask(&prusik, &format!("{}\r\n{}\r\n", context[0], context[1])).await;
    let received = origin.received();
    assert_eq!(received.len(), 2);
    for received in received {
        for line in context {
            assert!(received.head.has_line(line), "{}", received.head);
        }
    }
}
