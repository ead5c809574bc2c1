//! Every path of the API, asked of a fake process.

use std::convert::Infallible;
use std::sync::atomic::Ordering;

use futures_util::stream;
use http::HeaderValue;
use http_body_util::{Full, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};

use super::super::fake::{Fake, SESSION};
use super::*;

struct Answered {
    status: u16,
    allow: Option<String>,
    body: Vec<u8>,
}

impl Answered {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn error(&self) -> String {
        let failure = self.json();
        assert!(
            failure["hint"]
                .as_str()
                .is_some_and(|hint| !hint.is_empty()),
            "{failure}"
        );
        failure["error"].as_str().unwrap().to_owned()
    }
}

struct Process {
    fake: Arc<Fake>,
    api: Api,
}

impl Process {
    fn new() -> Self {
        let fake = Arc::new(Fake::default());
        let control = Arc::clone(&fake) as Arc<dyn Control>;
        Self {
            fake,
            api: Api::new(control, Access::new(None)),
        }
    }

    async fn call(&self, method: &str, uri: &str, body: impl Into<Bytes>) -> Answered {
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header("host", "localhost");
        let request = request.body(Full::new(body.into())).unwrap();
        read(self.api.answer(request).await).await
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.fake.asked.lock())
    }
}

async fn read(answer: Answer) -> Answered {
    let (head, body) = answer.into_parts();
    assert_eq!(head.headers["cache-control"], "no-store");
    assert_eq!(head.headers["x-content-type-options"], "nosniff");
    let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
    Answered {
        status: head.status.as_u16(),
        allow: head.headers.get(ALLOW).map(text),
        body: body.collect().await.unwrap().to_bytes().to_vec(),
    }
}

#[tokio::test]
async fn probes_tell_whether_it_lives_and_whether_it_is_ready() {
    let process = Process::new();
    for (path, status) in [("/healthz", 200), ("/readyz", 200), ("/readyz?a=b", 200)] {
        let answer = process.call("GET", path, "").await;
        assert_eq!(
            (answer.status, &answer.body[..]),
            (status, &b"ok"[..]),
            "{path}"
        );
    }
    process.fake.is_stopping.store(true, Ordering::Relaxed);
    assert_eq!(process.call("GET", "/healthz", "").await.status, 200);
    assert_eq!(process.call("GET", "/readyz", "").await.status, 503);
    assert_eq!(process.call("HEAD", "/readyz", "").await.status, 503);
}

#[tokio::test]
async fn lists_come_as_json() {
    let process = Process::new();
    let status = process.call("GET", "/api/v1/status", "").await;
    assert_eq!(status.status, 200);
    assert_eq!(status.json()["upstreams"][0]["servers"][0]["state"], "up");
    let upstreams = process.call("GET", "/api/v1/upstreams", "").await;
    assert_eq!(upstreams.json()["upstreams"][0]["name"], "chat");
    let sessions = process
        .call("GET", "/api/v1/sessions?upstream=chat&limit=7", "")
        .await;
    assert_eq!(sessions.json()["sessions"][0]["id"], SESSION);
    assert_eq!(sessions.json()["next"], Value::Null);
    let asked = process.asked().remove(0);
    assert!(
        asked.contains("limit: 7") && asked.contains("Some(\"chat\")"),
        "{asked}"
    );
}

/// A caller who had connected before the other process took over.
#[tokio::test]
async fn a_process_that_was_replaced_answers_probes_and_says_who_knows() {
    let process = Process::new();
    *process.fake.successor.lock() = Some(4711);
    for path in ["/api/v1/status", "/api/v1/sessions", "/metrics"] {
        let answer = process.call("GET", path, "").await;
        assert_eq!(answer.status, 503, "{path}");
        assert!(answer.error().contains("4711 has taken over"), "{path}");
    }
    assert_eq!(process.call("GET", "/readyz", "").await.status, 200);
    let path = "/api/v1/upstreams/chat/servers/[::1]:9080/enable";
    assert_eq!(process.call("POST", path, "").await.status, 200);
}

#[tokio::test]
async fn a_wrong_filter_names_the_parameter() {
    let process = Process::new();
    let answer = process
        .call("GET", "/api/v1/sessions?older_than=soon", "")
        .await;
    assert_eq!(answer.status, 400);
    assert!(answer.error().contains("older_than"));
    assert!(process.asked().is_empty());
}

#[tokio::test]
async fn a_reload_tells_what_changed_and_an_upgrade_why_not() {
    let process = Process::new();
    process.fake.reload.may_end.notify_one();
    let reload = process.call("POST", "/api/v1/reload", "").await;
    assert_eq!(reload.status, 200);
    assert_eq!(
        reload.json(),
        json!({ "changes": ["route \"chat\" is new"] })
    );
    let upgrade = process.call("POST", "/api/v1/upgrade", "").await;
    assert_eq!(upgrade.status, 409);
    assert_eq!(
        upgrade.json(),
        json!({ "error": "the new binary does not start", "hint": "see its log" })
    );
}

#[tokio::test]
async fn a_server_is_drained_and_enabled_whichever_way_its_address_is_written() {
    let process = Process::new();
    for address in ["[::1]:9080", "%5B::1%5D:9080", "%5b%3A%3a1%5d%3a9080"] {
        let path = format!("/api/v1/upstreams/ch%61t/servers/{address}");
        let order = r#"{"window": "30s", "code": 1001}"#;
        let drain = process.call("POST", &format!("{path}/drain"), order).await;
        assert_eq!(drain.status, 200);
        assert_eq!(
            drain.json(),
            json!({ "sessions": 1, "window_ms": 30_000, "code": 1001 })
        );
        let enable = process.call("POST", &format!("{path}/enable"), "").await;
        assert_eq!(enable.status, 200);
        let asked = [
            "drain chat/[::1]:9080 DrainOrder { window: Some(30s), code: Some(1001) }",
            "enable chat/[::1]:9080",
        ];
        assert_eq!(process.asked(), asked);
    }
}

#[tokio::test]
async fn a_drain_without_a_body_is_as_the_file_has_it() {
    let process = Process::new();
    let path = "/api/v1/upstreams/chat/servers/[::1]:9080/drain";
    assert_eq!(process.call("POST", path, "").await.status, 200);
    assert_eq!(
        process.asked(),
        ["drain chat/[::1]:9080 DrainOrder { window: None, code: None }"]
    );
}

#[tokio::test]
async fn a_wrong_order_changes_nothing() {
    let process = Process::new();
    for what in ["drain", "enable"] {
        let path = format!("/api/v1/upstreams/chat/servers/[::1]:9080/{what}");
        for body in [
            r#"{"code": 1005}"#,
            r#"{"deadline": "1s"}"#,
            "[]",
            "nonsense",
        ] {
            let answer = process.call("POST", &path, body).await;
            assert_eq!(answer.status, 400, "{body}");
            answer.error();
        }
        let long = " ".repeat(LARGEST_BODY + 1);
        assert_eq!(process.call("POST", &path, long).await.status, 413);
    }
    let not_utf8 = "/api/v1/upstreams/%ff/servers/[::1]:9080/drain";
    assert_eq!(process.call("POST", not_utf8, "").await.status, 400);
    assert!(process.asked().is_empty());
    let unknown = "/api/v1/upstreams/chat/servers/127.0.0.1:1/drain";
    let answer = process.call("POST", unknown, "").await;
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (404, "no server chat/127.0.0.1:1")
    );
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_comes_is_not_waited_for() {
    let process = Process::new();
    let endless = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
    let request = Request::post("/api/v1/upstreams/chat/servers/[::1]:9080/drain")
        .header("host", "localhost");
    let answer = process.api.answer(request.body(endless).unwrap()).await;
    assert_eq!(answer.status(), 408);
    assert_eq!(answer.headers()[CONNECTION], "close");
    assert!(process.asked().is_empty());
}

#[tokio::test]
async fn a_session_is_closed_by_its_id() {
    let process = Process::new();
    let path = format!("/api/v1/sessions/{SESSION}");
    let closed = process
        .call("DELETE", &format!("{path}?code=4001"), "")
        .await;
    assert_eq!(
        (closed.status, closed.json()),
        (200, json!({ "closed": SESSION }))
    );
    assert_eq!(process.call("DELETE", &path, "").await.status, 200);
    let asked = [
        format!("close {SESSION} Some(4001)"),
        format!("close {SESSION} None"),
    ];
    assert_eq!(process.asked(), asked);

    let gone = "/api/v1/sessions/0190aaaa-0000-7000-8000-000000000002";
    assert_eq!(process.call("DELETE", gone, "").await.status, 404);
    process.asked();
    for (uri, word) in [
        ("/api/v1/sessions/12".to_owned(), "id"),
        (format!("{path}?code=1006"), "code"),
        (format!("{path}?cod=1000"), "cod"),
    ] {
        let answer = process.call("DELETE", &uri, "").await;
        assert_eq!(answer.status, 400, "{uri}");
        assert!(answer.error().contains(word), "{uri}");
    }
    assert!(process.asked().is_empty());
}

#[tokio::test]
async fn all_sessions_of_a_user_are_closed_and_of_nobody_none() {
    let process = Process::new();
    let path = "/api/v1/sessions";
    let closed = process
        .call("DELETE", &format!("{path}?user=CN%3Dalice+a&code=4001"), "")
        .await;
    let expected = json!({ "user": "CN=alice a", "closed": 1 });
    assert_eq!((closed.status, closed.json()), (200, expected));
    assert_eq!(process.asked(), ["close user CN=alice a Some(4001)"]);
    for query in [
        "",
        "?",
        "?user=",
        "?user=&code=4001",
        "?code=4001",
        "?user=a&user=b",
    ] {
        let answer = process.call("DELETE", &format!("{path}{query}"), "").await;
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.error().contains("user"), "{query}");
    }
    assert!(process.asked().is_empty());
}

#[tokio::test]
async fn metrics_are_what_the_process_says() {
    let answer = Process::new().call("GET", "/metrics", "").await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.starts_with(b"prusik_build_info{"));
}

#[tokio::test]
async fn paths_that_are_not_there_are_404() {
    let process = Process::new();
    for path in [
        "/page",
        "/metrics/",
        "/healthz/",
        "/api/v1",
        "/api/v1/",
        "/api/v1/status/",
        "//api/v1/status",
        "/api/v2/status",
        "/api/v1/upstreams/chat",
        "/api/v1/upstreams/chat/servers/[::1]:9080",
        "/api/v1/upstreams/chat/servers/[::1]:9080/close",
        "/api/v1/upstreams/chat/servers/[::1]:9080/drain/now",
    ] {
        let answer = process.call("GET", path, "").await;
        assert_eq!(answer.status, 404, "{path}");
        answer.error();
    }
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_one() {
    let process = Process::new();
    let server = "/api/v1/upstreams/chat/servers/[::1]:9080";
    for (method, path, allow) in [
        ("POST", "/healthz", "GET, HEAD"),
        ("POST", "/metrics", "GET, HEAD"),
        ("POST", "/api/v1/status", "GET, HEAD"),
        ("POST", "/api/v1/sessions", "GET, HEAD, DELETE"),
        ("GET", "/api/v1/reload", "POST"),
        ("HEAD", "/api/v1/upgrade", "POST"),
        ("PUT", &format!("{server}/drain"), "POST"),
        ("GET", &format!("{server}/enable"), "POST"),
        ("GET", &format!("/api/v1/sessions/{SESSION}"), "DELETE"),
    ] {
        let answer = process.call(method, path, "").await;
        assert_eq!(answer.status, 405, "{method} {path}");
        assert_eq!(answer.allow.as_deref(), Some(allow), "{method} {path}");
        answer.error();
    }
    assert!(process.asked().is_empty());
}

#[tokio::test]
async fn a_call_that_the_guard_refuses_does_nothing() {
    let process = Process::new();
    let request = Request::post("/api/v1/upstreams/chat/servers/[::1]:9080/drain")
        .header("origin", "https://evil.example")
        .body(Full::new(Bytes::new()))
        .unwrap();
    let answer = read(process.api.answer(request).await).await;
    assert_eq!(answer.status, 403);
    answer.error();
    assert!(process.asked().is_empty());
}
