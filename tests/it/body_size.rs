//! How large a request's body may be: the route's word, and else the listener's.

use bytes::Bytes;
use http::Request;

use crate::support::http2::{Http2Site as Site, NAME, whole};
use crate::support::{Answer, Client, Config, Origin, Prusik};

const ROUTES: [(&str, &str); 3] = [
    ("/small", "body_size: 10B"),
    ("/large", "body_size: 10KiB"),
    ("/any", "body_size: 0"),
];

async fn counting() -> Origin {
    Origin::start(|received| Answer::text(&received.body.len().to_string())).await
}

fn with_routes(config: Config) -> Config {
    let routes = ROUTES.iter();
    let config = routes.fold(config, |config, (path, size)| {
        config.first(format!(
            "{{ match: {{ path: {path} }}, upstream: backend, {size} }}"
        ))
    });
    config.listener("limits: { body_size: 100B }")
}

/// Each path with a size that it takes, and one that it doesn't.
const SIZES: [(&str, usize, Option<usize>); 4] = [
    ("/small", 10, Some(11)),
    ("/large", 10 * 1024, Some(10 * 1024 + 1)),
    ("/any", 300_000, None),
    ("/other", 100, Some(101)),
];

fn post(path: &str, framing: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n")
}

/// In chunks, the last one of a byte.
fn chunks(size: usize) -> String {
    let first = "x".repeat(size - 1);
    format!("{:x}\r\n{first}\r\n1\r\nx\r\n0\r\n\r\n", size - 1)
}

#[tokio::test]
async fn the_route_says_how_large_a_body_may_be_instead_of_its_listener() {
    let origin = counting().await;
    let prusik = Prusik::start(with_routes(Config::to(&[&origin]))).await;
    for (path, fits, over) in SIZES {
        let length = |size: usize| post(path, &format!("Content-Length: {size}"));
        let chunked = |size| post(path, "Transfer-Encoding: chunked") + &chunks(size);
        let asked = origin.received().len();
        // On one connection: the limit is that of each request's route.
        let mut client = Client::connect(prusik.public()).await;
        for request in [length(fits) + &"x".repeat(fits), chunked(fits)] {
            let answer = client.ask(request).await;
            assert_eq!(answer.text(), fits.to_string(), "{path}");
        }
        assert_eq!(origin.received().len(), asked + 2);
        let Some(over) = over else { continue };
        // At once: the client has sent nothing of it yet. No server is asked.
        let answer = client.ask(length(over)).await;
        assert_eq!(answer.status(), 413, "{path}");
        client.expect_end().await;
        let mut client = Client::connect(prusik.public()).await;
        assert_eq!(client.ask(chunked(over)).await.status(), 413, "{path}");
        client.expect_end().await;
        assert_eq!(origin.received().len(), asked + 2, "{path}");
    }
    let entry = prusik
        .wait_log("a refusal", |entry| entry["status"] == 413)
        .await;
    assert_eq!(entry["route"], "path = /small");
    assert_eq!(entry["error"], "the body is larger than is taken here");
}

#[tokio::test]
async fn a_client_that_sends_on_can_read_that_its_body_is_too_large() {
    let origin = counting().await;
    let prusik = Prusik::start(with_routes(Config::to(&[&origin]))).await;
    let mut client = Client::connect(prusik.public()).await;
    let expects = post("/small", "Content-Length: 200000\r\nExpect: 100-continue");
    assert_eq!(client.ask(expects).await.status(), 413);
    let mut client = Client::connect(prusik.public()).await;
    let whole = post("/small", "Content-Length: 200000") + &"x".repeat(200_000);
    assert_eq!(client.ask(whole).await.status(), 413);
}

#[tokio::test]
async fn a_listener_without_a_limit_leaves_it_to_its_routes() {
    let origin = counting().await;
    let config = Config::to(&[&origin]).first(
        "{ match: { path: /small }, respond: { status: 200, body: taken }, body_size: 10B }",
    );
    let prusik = Prusik::start(config).await;
    let ask = async |path: &str, size: usize| {
        let request = post(path, &format!("Content-Length: {size}")) + &"x".repeat(size);
        Client::connect(prusik.public()).await.ask(request).await
    };
    assert_eq!(ask("/other", 100_000).await.text(), "100000");
    assert_eq!(ask("/small", 10).await.text(), "taken");
    assert_eq!(ask("/small", 11).await.status(), 413);
}

#[tokio::test]
async fn the_routes_size_holds_by_http_2_with_and_without_a_length() {
    let site = Site::start(counting().await, with_routes).await;
    let mut client = site.client().await;
    for (path, fits, over) in SIZES {
        let sizes = [(Some(fits), 200), (over, 413)];
        for (size, status) in sizes {
            let Some(size) = size else { continue };
            for says_length in [true, false] {
                let mut request = Request::post(format!("https://{NAME}{path}"));
                if says_length {
                    request = request.header("content-length", size);
                }
                let request = request.body(()).expect("a request");
                let (response, mut body) = client.begin(request, false).await;
                let sent = body.send_data(Bytes::from(vec![b'x'; size]), true);
                assert!(sent.is_ok() || status == 413, "{path} {size}");
                let (response, _) = whole(response).await;
                assert_eq!(response.status(), status, "{path} {size} {says_length}");
            }
        }
    }
}
