//! How many requests a route takes: `requests_per_second`.

use crate::support::http2::Http2Site as Site;
use crate::support::{
    Answer, Client, Config, Origin, Outcome, Prusik, Response, eventually, get, handshake,
};

/// Two requests, and hours until there is another.
const TWO: &str = "requests_per_second: { rate: 0.001, burst: 2 }";

async fn hello() -> Origin {
    Origin::start(|_| Answer::text("hello")).await
}

async fn ask(prusik: &Prusik, fields: &str) -> Response {
    let request = format!("GET / HTTP/1.1\r\nHost: test\r\n{fields}\r\n");
    Client::connect(prusik.public()).await.ask(request).await
}

async fn statuses(prusik: &Prusik, fields: &str) -> [u16; 3] {
    let mut statuses = [0; 3];
    for status in &mut statuses {
        *status = ask(prusik, fields).await.status();
    }
    statuses
}

#[tokio::test]
async fn each_client_has_its_burst_and_then_429_with_the_time_to_wait() {
    let origin = hello().await;
    let config = Config::to(&[&origin])
        .top("trusted_proxies: [127.0.0.0/8]")
        .first("{ match: { path: /free }, upstream: backend }")
        .route(TWO);
    let prusik = Prusik::start(config).await;
    for client in ["192.0.2.1", "192.0.2.2", "2001:db8:1::1"] {
        let named = format!("X-Forwarded-For: {client}\r\n");
        assert_eq!(statuses(&prusik, &named).await, [200, 200, 429], "{client}");
    }
    // Of the same network as the last.
    let neighbour = ask(&prusik, "X-Forwarded-For: 2001:db8:1::2\r\n").await;
    assert_eq!(neighbour.status(), 429);
    let wait = neighbour.field("retry-after").expect("it is told");
    let wait: u64 = wait.parse().expect("seconds");
    assert!((900..=1000).contains(&wait), "{wait}");
    assert_eq!(get(prusik.public(), "/free").await.status(), 200);
    let entry = prusik
        .wait_log("a refusal", |entry| entry["status"] == 429)
        .await;
    assert_eq!(
        entry["error"],
        "this route takes no more requests of this kind now"
    );
    assert_eq!(origin.received().len(), 7);
}

#[tokio::test]
async fn what_a_request_says_can_be_the_key_and_who_says_nothing_is_not_counted() {
    let origin = hello().await;
    let rate = "requests_per_second: { rate: 0.001, burst: 2, key: $http_x_api_key }";
    let prusik = Prusik::start(Config::to(&[&origin]).route(rate)).await;
    for (fields, last) in [
        ("X-API-Key: one\r\n", 429),
        ("X-API-Key: two\r\n", 429),
        ("", 200),
        ("X-API-Key:\r\n", 200),
    ] {
        assert_eq!(
            statuses(&prusik, fields).await,
            [200, 200, last],
            "{fields}"
        );
    }
}

#[tokio::test]
async fn requests_come_again_with_time() {
    let origin = hello().await;
    let rate = "requests_per_second: { rate: 20, burst: 1, key: all }";
    let prusik = Prusik::start(Config::to(&[&origin]).route(rate)).await;
    eventually("one is too many", async || {
        ask(&prusik, "").await.status() == 429
    })
    .await;
    eventually("there is a token again", async || {
        ask(&prusik, "").await.status() == 200
    })
    .await;
}

#[tokio::test]
async fn handshakes_are_requests_and_are_counted_among_those_refused() {
    let origin = Origin::chat().await;
    let config = Config::to(&[&origin])
        .top("admin: { listen: \"127.0.0.1:0\" }")
        .route("name: chat")
        .route(TWO);
    let prusik = Prusik::start(config).await;
    for status in [101, 101, 429] {
        let mut client = Client::connect(prusik.public()).await;
        client.send(handshake("/")).await;
        assert_eq!(client.head().await.status(), status);
    }
    assert_eq!(ask(&prusik, "").await.status(), 429);
    let series = "prusik_handshakes_refused_total{route=\"chat\",reason=\"limit\"} 1\n";
    eventually("it is counted", async || {
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let metrics = Client::connect(prusik.admin()).await.ask(request).await;
        metrics.text().contains(series)
    })
    .await;
}

#[tokio::test]
async fn who_is_denied_is_denied_and_spends_nothing() {
    let origin = hello().await;
    let config = Config::to(&[&origin])
        .top("trusted_proxies: [127.0.0.0/8]")
        .route("deny: [192.0.2.0/24]")
        .route("requests_per_second: { rate: 0.001, burst: 2, key: all }");
    let prusik = Prusik::start(config).await;
    let denied = "X-Forwarded-For: 192.0.2.1\r\n";
    assert_eq!(statuses(&prusik, denied).await, [403, 403, 403]);
    assert_eq!(statuses(&prusik, "").await, [200, 200, 429]);
    assert_eq!(statuses(&prusik, denied).await, [403, 403, 403]);
}

#[tokio::test]
async fn counts_outlast_a_reload_and_a_new_rate_counts_on() {
    let origin = hello().await;
    let config = |rate: &str| {
        let rate = format!("requests_per_second: {{ {rate}, key: all }}");
        Config::to(&[&origin]).route("name: hello").route(rate)
    };
    let prusik = Prusik::start(config("rate: 0.001, burst: 2")).await;
    assert_eq!(statuses(&prusik, "").await, [200, 200, 429]);
    let reloaded = prusik.reload_with(config("rate: 0.001, burst: 3")).await;
    assert_eq!(reloaded, Outcome::Done);
    assert_eq!(statuses(&prusik, "").await, [200, 429, 429]);
    let off = Config::to(&[&origin]).route("name: hello");
    let off = off.route("requests_per_second: off");
    assert_eq!(prusik.reload_with(off).await, Outcome::Done);
    assert_eq!(statuses(&prusik, "").await, [200, 200, 200]);
}

#[tokio::test]
async fn requests_of_one_http_2_connection_are_counted_too() {
    let site = Site::start(hello().await, |config| config.route(TWO)).await;
    let mut client = site.client().await;
    for status in [200, 200, 429] {
        let (response, _) = client.get("/").await;
        assert_eq!(response.status(), status);
    }
}
