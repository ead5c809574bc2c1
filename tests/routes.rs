//! Which route serves a request, and what a route does that needs no server.

mod support;

use support::{Answer, Client, Config, Origin, Prusik, get, status_of};

async fn body(prusik: &Prusik, request: &str) -> String {
    Client::connect(prusik.public())
        .await
        .ask(request)
        .await
        .text()
}

fn says(name: &str, matching: &str) -> String {
    format!("{{ match: {matching}, respond: {{ status: 200, body: {name} }} }}")
}

#[tokio::test]
async fn the_first_match_serves() {
    let origin = Origin::start(|_| Answer::text("rest")).await;
    let config = Config::to(&[&origin])
        .first(says("exact", "{ path: /a/b }"))
        .first(says("post", "{ path_prefix: /a, methods: [POST] }"))
        .first(says(
            "tagged",
            "{ path_prefix: /a, headers: { X-Tag: blue } }",
        ))
        .first(says("regex", "{ path_regex: \"^/a/[0-9]+$\" }"))
        .first(says("prefix", "{ path_prefix: /a }"))
        .first(says("host", "{ host: chat.test }"))
        .first(says("wildcard", "{ host: \"*.chat.test\" }"))
        .first(says("listener", "{ listener: public, path_prefix: /l }"));
    let prusik = Prusik::start(config).await;
    for (first_line, fields, expected) in [
        ("GET /a/b", "Host: x", "exact"),
        ("GET /a/b?q=1", "Host: x", "exact"),
        ("POST /a/b/c", "Host: x\r\nContent-Length: 0", "post"),
        ("GET /a/c", "Host: x\r\nX-Tag: blue", "tagged"),
        ("GET /a/c", "Host: x\r\nX-Tag: red", "prefix"),
        ("GET /a/17", "Host: x", "regex"),
        ("GET /a", "Host: x", "prefix"),
        ("GET /a/", "Host: chat.test", "prefix"),
        ("GET /ab", "Host: x", "rest"),
        ("GET /", "Host: chat.test", "host"),
        ("GET /", "Host: CHAT.test:8080", "host"),
        ("GET /", "Host: eu.chat.test", "wildcard"),
        ("GET /", "Host: notchat.test", "rest"),
        ("GET /l", "Host: x", "listener"),
        ("GET /", "Host: x", "rest"),
    ] {
        let request = format!("{first_line} HTTP/1.1\r\n{fields}\r\n\r\n");
        assert_eq!(body(&prusik, &request).await, expected, "{request}");
    }
}

#[tokio::test]
async fn redirect_and_respond_need_no_server() {
    let config = "
listeners: [{ listen: 127.0.0.1:0, name: public }]
routes:
  - { match: { path: /old }, redirect: { to: /new } }
  - { match: { path: /secure }, redirect: { to: \"https://$host$request_uri\", status: 301 } }
  - { match: { path: /gone }, respond: { status: 410, body: gone for good } }
";
    let prusik = Prusik::start(config).await;
    let old = get(prusik.public(), "/old").await;
    assert_eq!((old.status(), old.field("location")), (308, Some("/new")));
    let secure = get(prusik.public(), "/secure?a=1").await;
    assert_eq!(secure.status(), 301);
    assert_eq!(secure.field("location"), Some("https://test/secure?a=1"));
    let gone = get(prusik.public(), "/gone").await;
    assert_eq!(
        (gone.status(), gone.text()),
        (410, "gone for good".to_owned())
    );
    assert_eq!(status_of(prusik.public(), "/other").await, 404);
}

#[tokio::test]
async fn a_stripped_prefix_does_not_reach_the_server() {
    let origin = Origin::start(|request| Answer::text(request.target())).await;
    let config = Config::to(&[&origin])
        .first("{ match: { path_prefix: /app }, strip_prefix: /app, upstream: backend }");
    let prusik = Prusik::start(config).await;
    for (asked, received) in [
        ("/app/page?q=/app", "/page?q=/app"),
        ("/app", "/"),
        ("/app?q", "/?q"),
        ("/app/", "/"),
        // As in nginx: what is taken off is a part of the path that matched, in plain spelling.
        ("/app/%2Fx/../y", "/y"),
        ("//%61pp/y%2F?q=%2e", "/y%2F?q=%2e"),
        ("/apple", "/apple"),
    ] {
        assert_eq!(
            get(prusik.public(), asked).await.text(),
            received,
            "{asked}"
        );
    }
}

#[tokio::test]
async fn the_server_gets_the_path_that_was_checked_and_the_query_byte_for_byte() {
    let origin = Origin::start(|request| Answer::text(request.target())).await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    for (asked, received) in [
        (
            "/a%20b%2Fc/%C3%A9?x=%41&y=a+b",
            "/a%20b%2Fc/%C3%A9?x=%41&y=a+b",
        ),
        ("/a|b/{c}?d|e//f/../g", "/a|b/{c}?d|e//f/../g"),
        ("/?", "/?"),
        ("/;jsessionid=1?a[]=1&b={c}", "/;jsessionid=1?a[]=1&b={c}"),
        ("//double//slash?//", "/double/slash?//"),
        ("/a/./b/../c", "/a/c"),
        ("/%7Euser/%c3%a9", "/~user/%C3%A9"),
    ] {
        assert_eq!(
            get(prusik.public(), asked).await.text(),
            received,
            "{asked}"
        );
    }
}
