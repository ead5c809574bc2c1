//! Plain HTTP: what connections carry, and that bodies pass whole without being kept.

use std::time::Duration;

use crate::support::{
    Answer, Client, Config, Origin, Pattern, PatternCheck, Prusik, Response, eventually, get,
    within,
};

const MIB: u64 = 1 << 20;

/// What a body in passing may add to the process: buffers of two connections, not the body.
const ROOM_KIB: u64 = 32 * 1024;

#[tokio::test]
async fn requests_in_a_row_share_a_connection_on_both_sides() {
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let mut client = Client::connect(prusik.public()).await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.text(), "hello");
    }
    assert_eq!(origin.received().len(), 20);
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn keepalive_0_keeps_no_connection_to_a_server() {
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let prusik = Prusik::start(Config::to(&[&origin]).upstream("keepalive: 0")).await;
    let mut client = Client::connect(prusik.public()).await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.text(), "hello");
    }
    assert_eq!(origin.connections(), 3);
    eventually("none is left", async || origin.open() == 0).await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::start(|request| Answer::text(request.target())).await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let mut client = Client::connect(prusik.public()).await;
    let requests: String = (0..10)
        .map(|number| match number % 3 {
            0 => format!("POST /{number} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"),
            _ => format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n"),
        })
        .collect();
    client.send(requests).await;
    for number in 0..10 {
        assert_eq!(client.response().await.text(), format!("/{number}"));
    }
}

#[tokio::test]
async fn head_has_the_fields_and_no_body() {
    let origin = Origin::start(|request| match request.method() {
        "HEAD" => Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nETag: \"1\"\r\n\r\n"),
        _ => Answer::text("next"),
    })
    .await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let mut client = Client::connect(prusik.public()).await;
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let head = client.head().await;
    assert_eq!(head.status(), 200);
    assert_eq!(head.field("content-length"), Some("1000"));
    assert_eq!(head.field("etag"), Some("\"1\""));
    assert_eq!(client.get("/").await.text(), "next");
}

#[tokio::test]
async fn responses_without_a_body_leave_the_connection_usable() {
    for (status, field) in [(304, "ETag: \"1\""), (204, "X-Nothing: here")] {
        let origin = Origin::start(move |request| match request.target() {
            "/" => Answer::raw(format!("HTTP/1.1 {status} Empty\r\n{field}\r\n\r\n")),
            _ => Answer::text("next"),
        })
        .await;
        let prusik = Prusik::start(Config::to(&[&origin])).await;
        let mut client = Client::connect(prusik.public()).await;
        let empty = client.get("/").await;
        assert_eq!(empty.status(), status);
        assert!(empty.has_line(field), "{}", empty.head);
        assert_eq!(empty.field("transfer-encoding"), None, "{}", empty.head);
        assert_eq!(client.get("/next").await.text(), "next");
        assert_eq!(origin.connections(), 1);
    }
}

#[tokio::test]
async fn a_client_that_expects_100_sends_its_body_after_it() {
    let origin =
        Origin::start(|request| Answer::text(&String::from_utf8_lossy(&request.body))).await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let mut client = Client::connect(prusik.public()).await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    client.send(head).await;
    assert_eq!(client.head().await.status(), 100);
    client.send("hello").await;
    let mut answer = client.response().await;
    // Each hop may say 100; one that comes late is still no answer.
    while answer.status() == 100 {
        answer = client.response().await;
    }
    assert_eq!((answer.status(), answer.text()), (200, "hello".to_owned()));
}

#[tokio::test]
async fn a_server_may_refuse_before_the_body_is_sent() {
    let origin = Origin::hasty(|_| Answer::status(413, &["Connection: close"], "no").close()).await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let mut client = Client::connect(prusik.public()).await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    let mut answer = client.ask(head).await;
    if answer.status() == 100 {
        answer = client.response().await;
    }
    assert_eq!((answer.status(), answer.text()), (413, "no".to_owned()));
}

#[tokio::test]
async fn chunked_bodies_pass_both_ways() {
    let origin = Origin::start(|request| {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        let chunks: String = body
            .chars()
            .map(|byte| format!("1\r\n{byte}\r\n"))
            .collect();
        Answer::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .send(chunks)
            .send("0\r\n\r\n")
    })
    .await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let mut client = Client::connect(prusik.public()).await;
    for _ in 0..2 {
        client
            .send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        for chunk in [
            "5\r\nhello\r\n",
            "1;ext=1\r\n \r\n",
            "5\r\nworld\r\n",
            "0\r\n\r\n",
        ] {
            client.send(chunk).await;
        }
        assert_eq!(client.response().await.text(), "hello world");
    }
    assert_eq!(origin.received()[1].body, b"hello world");
}

/// Framing that is longer as it comes than as it goes on: with extensions, as signed uploads have
/// them, and with leading zeros.
#[tokio::test]
async fn bodies_with_long_chunk_headers_pass_without_a_pause() {
    let framed = |kind: &str| {
        let (size, count, zeros, extension) = match kind {
            "/signed" => (8192, 60, "", format!(";chunk-signature={}", "a".repeat(64))),
            "/small" => (1, 1000, "", format!(";{}", "e".repeat(100))),
            _ => (100, 2000, "000000", String::new()),
        };
        let data = "x".repeat(size);
        let chunk = format!("{zeros}{size:x}{extension}\r\n{data}\r\n");
        (size * count, chunk.repeat(count) + "0\r\n\r\n")
    };
    let origin = Origin::start(move |request| {
        Answer::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .send(framed(request.target()).1)
    })
    .await;
    let timeouts = "timeouts: { idle: 1h, response: 1h }";
    let prusik = Prusik::start(Config::to(&[&origin]).route(timeouts)).await;
    for target in ["/signed", "/small", "/zeros"] {
        let (length, body) = framed(target);
        let mut client = Client::connect(prusik.public()).await;
        client
            .send(format!(
                "POST {target} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
            ))
            .await;
        assert_eq!(client.response().await.text().len(), length, "{target}");
        let sent = origin.received().pop().expect("it has come");
        assert_eq!(sent.body.len(), length, "{target}");
    }
}

#[tokio::test]
async fn a_body_that_ends_with_the_connection_passes() {
    let origin =
        Origin::start(|_| Answer::raw("HTTP/1.1 200 OK\r\n\r\nuntil the end").close()).await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    assert_eq!(get(prusik.public(), "/").await.text(), "until the end");
}

#[tokio::test]
async fn trailers_are_dropped_and_the_connections_serve_on() {
    let origin = Origin::start(|_| {
        Answer::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n")
            .send("4\r\nbody\r\n0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n")
    })
    .await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let mut client = Client::connect(prusik.public()).await;
    for _ in 0..3 {
        let request = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                       2\r\nhi\r\n0\r\nX-Evil: 1\r\n\r\n";
        let answer = client.ask(request).await;
        assert_eq!(
            (answer.text().as_str(), answer.trailers.as_str()),
            ("body", "")
        );
    }
    for request in origin.received() {
        assert_eq!(
            (request.body.as_slice(), request.trailers.as_str()),
            (&b"hi"[..], "")
        );
        assert_eq!(request.field("x-evil"), None);
    }
}

#[tokio::test]
async fn an_http_1_0_client_gets_a_body_it_can_read() {
    let origin = Origin::start(|_| {
        Answer::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .send("5\r\nhello\r\n0\r\n\r\n")
    })
    .await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let mut client = Client::connect(prusik.public()).await;
    let answer = client.ask("GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
    assert_eq!(answer.field("transfer-encoding"), None, "{}", answer.head);
    assert_eq!(answer.text(), "hello");
    client.expect_end().await;
}

#[tokio::test]
async fn a_client_that_says_close_gets_its_answer_and_the_end() {
    let origin = Origin::start(|_| Answer::text("bye")).await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let mut client = Client::connect(prusik.public()).await;
    let answer = client.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(answer.await.text(), "bye");
    client.expect_end().await;
}

#[tokio::test]
async fn an_upload_of_256_mib_arrives_whole_and_is_not_kept() {
    let origin = Origin::checking().await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    get(prusik.public(), "/").await;
    let before = prusik.rss_kib();
    let length = 256 * MIB;
    let mut client = Client::connect(prusik.public()).await;
    client
        .send(format!(
            "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"
        ))
        .await;
    let mut body = Pattern::new(length);
    loop {
        let part = body.next(256 * 1024);
        if part.is_empty() {
            break;
        }
        client.send(part).await;
    }
    // The origin has compared every byte and says how many there were.
    assert_eq!(client.response().await.text(), length.to_string());
    let kept = prusik.peak_rss_kib().saturating_sub(before);
    assert!(kept < ROOM_KIB, "{kept} KiB");
}

#[tokio::test]
async fn a_download_of_256_mib_arrives_whole_and_is_not_kept() {
    let length = 256 * MIB;
    let origin = Origin::start(move |_| {
        Answer::raw(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
        ))
        .pattern(length)
    })
    .await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let before = prusik.rss_kib();
    let mut client = Client::connect(prusik.public()).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.head().await;
    let mut check = PatternCheck::default();
    while check.length() < length {
        let part = within("more of the body", client.wire.some())
            .await
            .unwrap();
        assert!(!part.is_empty(), "the body ends at {}", check.length());
        check.feed(&part);
    }
    assert_eq!(check.length(), length);
    let kept = prusik.peak_rss_kib().saturating_sub(before);
    assert!(kept < ROOM_KIB, "{kept} KiB");
}

#[tokio::test]
async fn a_slow_reader_gets_everything_and_nothing_is_hoarded_for_it() {
    let length = 64 * MIB;
    let origin = Origin::start(move |_| {
        Answer::raw(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
        ))
        .pattern(length)
    })
    .await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let before = prusik.rss_kib();
    let mut client = Client::connect(prusik.public()).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.head().await;
    let mut check = PatternCheck::default();
    for _ in 0..20 {
        // Slow is what this client is.
        tokio::time::sleep(Duration::from_millis(50)).await;
        check.feed(&client.wire.exactly(64 * 1024).await.unwrap());
    }
    let kept = prusik.peak_rss_kib().saturating_sub(before);
    assert!(kept < ROOM_KIB, "{kept} KiB");
    while check.length() < length {
        check.feed(&within("more", client.wire.some()).await.unwrap());
    }
}

#[tokio::test]
async fn what_a_server_has_sent_so_far_reaches_the_client_at_once() {
    let origin = Origin::start(|request| match request.target() {
        "/head" => Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n").hang(),
        "/length" => Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nevent").hang(),
        _ => Answer::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .send("5\r\nevent\r\n")
            .hang(),
    })
    .await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    for (target, expected) in [
        ("/head", ""),
        ("/length", "event"),
        ("/chunked", "5\r\nevent\r\n"),
    ] {
        let mut client = Client::connect(prusik.public()).await;
        client
            .send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .await;
        assert_eq!(client.head().await.status(), 200);
        let body = client.wire.exactly(expected.len());
        let body = within(format!("the start of {target}"), body).await;
        assert_eq!(body.unwrap(), expected.as_bytes());
    }
}

#[tokio::test]
async fn a_slow_exchange_outlives_idle_as_long_as_something_moves() {
    let origin = Origin::start(|_| {
        let start = Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n");
        (0..8).fold(start, |answer, _| {
            answer.wait(Duration::from_millis(300)).send("x")
        })
    })
    .await;
    let short = "timeouts: { response: 1s, idle: 1s }";
    let prusik = Prusik::start(Config::to(&[&origin]).route(short)).await;
    assert_eq!(get(prusik.public(), "/").await.text(), "xxxxxxxx");
}

#[tokio::test]
async fn a_client_that_leaves_mid_response_frees_the_server() {
    let origin = Origin::start(|request| match request.target() {
        "/long" => Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            .pattern(50_000)
            .hang(),
        _ => Answer::text("still here"),
    })
    .await;
    // It may have ended its own direction only: the server has the time that the route gives it.
    let config = Config::to(&[&origin]).route("timeouts: { idle: 3s }");
    let prusik = Prusik::start(config).await;
    let mut client = Client::connect(prusik.public()).await;
    client.send("GET /long HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 200);
    drop(client);
    eventually("the server's connection is closed", async || {
        origin.open() == 0
    })
    .await;
    prusik
        .wait_log("the exchange", |entry| entry["path"] == "/long")
        .await;
    let answer: Response = get(prusik.public(), "/").await;
    assert_eq!(answer.text(), "still here");
}
