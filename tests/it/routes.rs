//! Which route serves a request, and what a route does that needs no server.

use crate::support::{Answer, Client, Config, Origin, Prusik, get, handshake, status_of};

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
async fn one_host_of_a_list_is_enough() {
    let origin = Origin::start(|_| Answer::text("rest")).await;
    let config = Config::to(&[&origin])
        .first(says("one", "{ host: a.test, path: /x }"))
        .first(says("list", "{ host: [a.test, \"*.b.test\", \"[::1]\"] }"));
    let prusik = Prusik::start(config).await;
    for (path, host, expected) in [
        ("/x", "a.test", "one"),
        ("/", "a.test", "list"),
        ("/y", "A.test.:80", "list"),
        ("/x", "eu.west.b.test", "list"),
        ("/", "[::1]:8080", "list"),
        ("/", "b.test", "rest"),
        ("/", "aa.test", "rest"),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(body(&prusik, &request).await, expected, "{request}");
    }
    let entry = prusik
        .wait_log("the list's line", |entry| entry["host"] == "[::1]:8080")
        .await;
    assert_eq!(entry["route"], "a.test|*.b.test|[::1]");
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
async fn a_rewritten_path_reaches_the_server_with_the_query_as_it_came() {
    let origin = Origin::start(|request| Answer::text(request.target())).await;
    let config = Config::to(&[&origin])
        .first(
            "{ match: { path_prefix: /v1 }, rewrite: { regex: \"^/v1/(.*)$\", to: \"/api/$1\" }, \
             upstream: backend }",
        )
        .first(
            "{ match: { path_prefix: /u }, rewrite: { regex: \"^/u/x(?<rest>.*)$\", \
             to: \"/home/${rest}/\" }, upstream: backend, \
             headers: { request: { set: { X-Path: $uri } } } }",
        );
    let prusik = Prusik::start(config).await;
    for (asked, received) in [
        ("/v1/a/b?x=/v1/&y=%41", "/api/a/b?x=/v1/&y=%41"),
        ("//v1/%61/../b%2Fc", "/api/b%2Fc"),
        // What does not match stays.
        ("/v1", "/v1"),
        ("/u/xyz", "/home/yz/"),
        // Nothing of what is encoded becomes a query or a slash.
        ("/u/x%3Fa%23b%2Fc?q", "/home/%3Fa%23b%2Fc/?q"),
        ("/u/x/a//", "/home/a/"),
    ] {
        let answer = get(prusik.public(), asked).await;
        assert_eq!(answer.text(), received, "{asked}");
    }
    for asked in ["/u/x../secret", "/u/x%2e%2e", "/u/x..;/secret"] {
        let answer = get(prusik.public(), asked).await;
        assert_eq!(answer.status(), 400, "{asked}");
    }
    let received = origin.received();
    assert!(
        received
            .iter()
            .all(|request| !request.target().contains(".."))
    );
    let last = received.last().expect("some came");
    assert_eq!(last.field("x-path"), Some("/u/x/a/"));
    // A handshake too.
    let mut client = Client::connect(prusik.public()).await;
    assert_eq!(client.ask(handshake("/v1/chat")).await.text(), "/api/chat");
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

#[tokio::test]
async fn a_redirect_leads_to_no_host_that_a_client_chose() {
    let config = "
listeners: [{ listen: 127.0.0.1:0, name: public }]
routes:
  - { match: { path_prefix: /kept }, merge_slashes: off, strip_prefix: /kept,
      redirect: { to: $uri } }
  - { match: { path_prefix: /raw }, redirect: { to: \"/$arg_to\" } }
  - { match: { path_prefix: /asked, headers: { X-Raw: \"1\" } }, redirect: { to: $request_uri } }
  - { match: {}, redirect: { to: \"$uri/\" } }
";
    let prusik = Prusik::start(config).await;
    for (asked, location) in [
        ("//evil.example", "/evil.example/"),
        ("/x/..//evil.example", "/evil.example/"),
        ("/%2e/%2fevil.example", "/%2Fevil.example/"),
        ("//evil.example/%2e%2e", "//"),
        ("/kept//evil.example", "/evil.example"),
        ("/raw?to=/evil.example", "/evil.example"),
        ("/raw?to=\\evil.example", "/evil.example"),
        ("/raw?to=a<b\"", "/a%3Cb%22"),
        ("/a%20b/%0d%0a", ""),
        ("/a%20b/./%62", "/a%20b/b/"),
    ] {
        let answer = get(prusik.public(), asked).await;
        match location {
            "" => assert_eq!(answer.status(), 400),
            "//" => assert_eq!(answer.field("location"), Some("/")),
            location => assert_eq!(answer.field("location"), Some(location), "{asked}"),
        }
    }
    let request = "GET //evil/../asked HTTP/1.1\r\nHost: a\r\nX-Raw: 1\r\n\r\n";
    let answer = Client::connect(prusik.public()).await.ask(request).await;
    assert_eq!(answer.field("location"), Some("/evil/../asked"));
}

#[tokio::test]
async fn a_redirect_can_keep_the_rest_of_the_path() {
    let config = "
listeners: [{ listen: 127.0.0.1:0, name: public }]
routes:
  - { match: { path_prefix: /old }, strip_prefix: /old,
      redirect: { to: \"/new$uri$is_args$args\" } }
";
    let prusik = Prusik::start(config).await;
    for (asked, location) in [
        ("/old/a/b?x=1&y=%20", "/new/a/b?x=1&y=%20"),
        ("/old/a", "/new/a"),
        ("//old/./%61?", "/new/a"),
        ("/old", "/new/"),
    ] {
        let answer = get(prusik.public(), asked).await;
        assert_eq!(answer.field("location"), Some(location), "{asked}");
    }
}

#[tokio::test]
async fn slashes_stay_where_the_route_says_so() {
    let origin = Origin::start(|request| Answer::text(request.target())).await;
    let config = Config::to(&[&origin])
        .first(says("closed", "{ path_prefix: /closed }"))
        .first(
            "{ match: { path: /a//b }, merge_slashes: false, respond: { status: 200, body: two } }",
        )
        .first(says("one", "{ path: /a/b }"))
        .route("merge_slashes: false");
    let prusik = Prusik::start(config).await;
    for (asked, expected) in [
        ("/a//b", "two"),
        ("/a/b", "one"),
        ("/a///b", "one"),
        ("/x//y/../%7a//?q//", "/x//z//?q//"),
        (
            "/closed//../x",
            "400 bad request: the path leads upwards over an empty segment\n",
        ),
        ("//x", "//x"),
        // Other routes still see what a server could make of it.
        ("//closed", "closed"),
    ] {
        assert_eq!(
            get(prusik.public(), asked).await.text(),
            expected,
            "{asked}"
        );
    }
}

#[tokio::test]
async fn uri_is_the_path_as_routes_see_it() {
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let config = Config::to(&[&origin])
        .route("headers: { request: { set: { X-Path: $uri, X-Sent: $request_uri } } }");
    let prusik = Prusik::start(config).await;
    get(prusik.public(), "/h/..//h/%61/./b?x").await;
    let request = origin.only_request();
    assert_eq!(request.field("x-path"), Some("/h/a/b"));
    assert_eq!(request.field("x-sent"), Some("/h/..//h/%61/./b?x"));
}
