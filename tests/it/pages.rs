//! Bodies that an operator has written for prusik's own answers.

use std::fs;
use std::path::Path;

use crate::support::http2::Http2Site as Site;
use crate::support::{Answer, Client, Config, Origin, Outcome, Prusik, get, handshake};

const SORRY: &str = "<p>Sorry</p>\n";

/// A folder with some pages, and the key that names them.
fn pages() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let page = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("it can be written");
        path.display().to_string()
    };
    let sorry = page("sorry.html", SORRY);
    let denied = page("denied.JSON", "{}");
    let key = format!("errors: {{ 502: {sorry}, 413: {sorry}, 504: {sorry}, 403: {denied} }}");
    (folder, key)
}

#[tokio::test]
async fn a_page_stands_for_what_prusik_itself_answers() {
    let (_folder, errors) = pages();
    let origin = Origin::start(|request| match request.target() {
        "/broken" => Answer::raw("no HTTP\r\n\r\n"),
        _ => Answer::status(502, &[], "the server's own"),
    })
    .await;
    let config = Config::to(&[&origin])
        .listener("limits: { body_size: 10B }")
        .route(&errors)
        .route("websocket: off")
        .route("headers: { response: { set: { X-Path: $uri }, remove: [Cache-Control] } }");
    let prusik = Prusik::start(config).await;
    let broken = get(prusik.public(), "/broken").await;
    assert_eq!((broken.status(), broken.text()), (502, SORRY.to_owned()));
    let html = Some("text/html; charset=utf-8");
    assert_eq!(broken.field("content-type"), html);
    // The rules for responses hold.
    assert_eq!(broken.field("x-path"), Some("/broken"));
    assert_eq!(broken.field("cache-control"), None);
    // What a server answers passes.
    let page = get(prusik.public(), "/page").await;
    assert_eq!(page.text(), "the server's own");
    let large = "POST /a HTTP/1.1\r\nHost: test\r\nContent-Length: 11\r\n\r\n";
    let large = Client::connect(prusik.public()).await.ask(large).await;
    assert_eq!((large.status(), large.text()), (413, SORRY.to_owned()));
    let refused = Client::connect(prusik.public())
        .await
        .ask(handshake("/chat"))
        .await;
    assert_eq!((refused.status(), refused.text()), (403, "{}".to_owned()));
    assert_eq!(refused.field("content-type"), Some("application/json"));
    // The answer to a HEAD says how long it would be.
    let mut client = Client::connect(prusik.public()).await;
    client
        .send("HEAD /broken HTTP/1.1\r\nHost: test\r\n\r\n")
        .await;
    let head = client.head().await;
    assert_eq!(head.field("content-length"), Some("13"));
    assert_eq!(head.field("content-type"), html);
    client.expect_end().await;
}

#[tokio::test]
async fn a_page_stands_for_a_response_without_a_body_of_its_own() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let gone = folder.path().join("gone.txt");
    fs::write(&gone, "gone\n").expect("it can be written");
    let errors = format!("errors: {{ 410: {} }}", gone.display());
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let config = Config::to(&[&origin]).first(format!(
        "{{ match: {{ path: /gone }}, respond: {{ status: 410 }}, {errors} }}"
    ));
    let prusik = Prusik::start(config).await;
    let answer = get(prusik.public(), "/gone").await;
    assert_eq!((answer.status(), answer.text()), (410, "gone\n".to_owned()));
}

#[tokio::test]
async fn a_page_is_what_http_2_gets_too() {
    let (_folder, errors) = pages();
    let origin = Origin::start(|_| Answer::raw("no HTTP\r\n\r\n")).await;
    let site = Site::start(origin, |config| config.route(errors)).await;
    let mut client = site.client().await;
    let (response, body) = client.get("/broken").await;
    assert_eq!(response.status(), 502);
    assert_eq!(
        response.headers()["content-type"],
        "text/html; charset=utf-8"
    );
    assert_eq!(body, SORRY.as_bytes());
}

#[tokio::test]
async fn a_reload_reads_the_pages_again_and_refuses_what_it_cannot_read() {
    let (folder, errors) = pages();
    let origin = Origin::start(|_| Answer::raw("no HTTP\r\n\r\n")).await;
    let config = Config::to(&[&origin]).route(errors);
    let prusik = Prusik::start(config).await;
    let page = folder.path().join("sorry.html");
    fs::write(&page, "another").expect("it can be written");
    assert_eq!(get(prusik.public(), "/").await.text(), SORRY);
    assert_eq!(prusik.reload().await, Outcome::Done);
    assert_eq!(get(prusik.public(), "/").await.text(), "another");
    large_one(&page);
    match prusik.reload().await {
        Outcome::Refused(why) => assert!(why.contains("more than 1 MiB"), "{why}"),
        Outcome::Done => panic!("a page of 2 MiB"),
    }
    assert_eq!(get(prusik.public(), "/").await.text(), "another");
}

fn large_one(page: &Path) {
    fs::write(page, vec![b' '; 2 << 20]).expect("it can be written");
}
