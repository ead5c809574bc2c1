//! Event streams are sessions: what passes, and how a stream ends by itself.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::events::{Asked, EventClient, EventServer, STREAM, StreamEnd, chunk, event};
use crate::support::{Authority, Client, Config, Prusik, certificates, eventually, get, within};

/// A server and the proxy in front of it.
async fn start(change: impl FnOnce(Config) -> Config) -> (EventServer, Prusik) {
    let server = EventServer::start();
    let config = change(Config::to_addresses(&[server.address()]));
    let prusik = Prusik::start(config).await;
    (server, prusik)
}

/// A stream that has begun, seen from both sides.
async fn open(server: &mut EventServer, prusik: &Prusik) -> (Asked, EventClient) {
    let opening = EventClient::open(prusik.public(), "/events");
    tokio::join!(server.stream(), opening)
}

async fn metrics_of(prusik: &Prusik) -> String {
    let mut operator = Client::connect(prusik.admin()).await;
    let call = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    operator.ask(call).await.text()
}

fn is(kind: &str) -> impl Fn(&Value) -> bool {
    move |line| line["kind"] == kind
}

#[tokio::test]
async fn each_event_passes_at_once_and_the_stream_is_a_session() {
    let (mut server, prusik) = start(|config| config).await;
    let opening = EventClient::open(prusik.public(), "/events?room=1");
    let (mut asked, mut client) = tokio::join!(server.stream(), opening);
    assert_eq!(client.head.status(), 200);
    assert!(client.head.has_line("Connection: close"), "{}", client.head);
    for number in 1..=20 {
        asked.event(number).await;
        client.expect(number).await;
    }
    let open = prusik.wait_log("the opening", is("session_open")).await;
    assert_eq!(open["status"], 200);
    assert_eq!(open["path"], "/events?room=1");
    asked.end().await;
    assert_eq!(client.ended().await, StreamEnd::InOrder);
    let close = prusik.session_close().await;
    assert_eq!(close["closed_by"], "server");
    assert_eq!(close["events_out"], 20);
    assert_eq!(close["messages_out"], Value::Null);
    assert_eq!(close["close_code"], Value::Null);
    let length: usize = (1..=20).map(|number| event(number).len()).sum();
    assert_eq!(close["bytes_out"], length);
    asked.closed().await;
    assert!(!prusik.access_log().iter().any(is("request")));
}

#[tokio::test]
async fn the_route_changes_the_head_of_a_stream_as_of_any_answer() {
    let headers = "headers: { response: { set: { X-Edge: \"$request_uri\" }, remove: [Server] } }";
    let (mut server, prusik) = start(|config| config.route(headers)).await;
    let opening = EventClient::open(prusik.public(), "/");
    let answering = async {
        let mut asked = server.asked().await;
        let head = STREAM.replace("Content-Type", "Server: x\r\nKeep-Alive: 5\r\nContent-Type");
        asked.send(head).await;
        asked
    };
    let (_asked, client) = tokio::join!(answering, opening);
    assert_eq!(client.head.field("x-edge"), Some("/"));
    assert_eq!(client.head.field("server"), None);
    assert_eq!(client.head.field("keep-alive"), None);
    assert_eq!(client.head.field("content-length"), None);
}

#[tokio::test]
async fn a_stream_is_the_same_wherever_the_servers_bytes_are_cut() {
    let (mut server, prusik) = start(|config| config).await;
    let events = [
        "data: one\n\n",
        ": a comment\n\nid: 2\r\ndata: two\r\n\r\n",
        "data: three\rdata: more\r\r",
    ];
    let mut answer = STREAM.as_bytes().to_vec();
    events.iter().for_each(|event| answer.extend(chunk(event)));
    answer.extend(b"0\r\nX-Trailer: dropped\r\n\r\n");
    for cut in (STREAM.len() - 5)..answer.len() {
        let opening = EventClient::open(prusik.public(), "/events");
        let answering = async {
            let mut asked = server.asked().await;
            asked.send(&answer[..cut]).await;
            // The proxy has it before the rest is there.
            tokio::time::sleep(Duration::from_millis(2)).await;
            asked.send(&answer[cut..]).await;
            asked
        };
        let (_asked, mut client) = tokio::join!(answering, opening);
        let (end, content) = client.rest().await;
        assert_eq!(end, StreamEnd::InOrder, "cut at {cut}");
        assert_eq!(
            String::from_utf8_lossy(&content),
            events.concat(),
            "cut at {cut}"
        );
    }
    // Byte for byte.
    let opening = EventClient::open(prusik.public(), "/drip");
    let answering = async {
        let mut asked = server.asked().await;
        for byte in &answer {
            asked.send([*byte]).await;
            tokio::task::yield_now().await;
        }
        asked
    };
    let (_asked, mut client) = tokio::join!(answering, opening);
    let (end, content) = client.rest().await;
    assert_eq!(end, StreamEnd::InOrder);
    assert_eq!(content, events.concat().as_bytes());
    eventually("every stream has ended with its three events", async || {
        let log = prusik.access_log();
        let closed: Vec<_> = log.into_iter().filter(is("session_close")).collect();
        let count = answer.len() - (STREAM.len() - 5) + 1;
        closed.len() == count && closed.iter().all(|close| close["events_out"] == 3)
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_ends_with_its_connection_ends_in_order_too() {
    let (mut server, prusik) = start(|config| config).await;
    for head in [
        "HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/event-stream\r\n\r\n",
    ] {
        let opening = EventClient::open(prusik.public(), "/events");
        let answering = async {
            let mut asked = server.asked().await;
            asked.send(head).await;
            asked
        };
        let (mut asked, mut client) = tokio::join!(answering, opening);
        for number in 1..=3 {
            asked.send(event(number)).await;
            client.expect(number).await;
        }
        drop(asked);
        assert_eq!(client.ended().await, StreamEnd::InOrder);
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_its_events_without_chunks() {
    let (mut server, prusik) = start(|config| config).await;
    for (ends, expected) in [(true, StreamEnd::InOrder), (false, StreamEnd::Cut)] {
        let mut client = Client::connect(prusik.public()).await;
        client.send("GET / HTTP/1.0\r\nHost: test\r\n\r\n").await;
        let (mut asked, mut client) = tokio::join!(server.stream(), EventClient::of(client));
        assert_eq!(client.head.field("transfer-encoding"), None);
        for number in 1..=3 {
            asked.event(number).await;
            client.expect(number).await;
        }
        if ends {
            asked.end().await;
        }
        // Without its last chunk the stream is not whole, which only a reset can tell this client.
        drop(asked);
        assert_eq!(client.ended().await, expected);
    }
}

#[tokio::test]
async fn a_server_that_breaks_off_is_seen_to_have_broken_off() {
    let (mut server, prusik) = start(|config| config).await;
    let (mut asked, mut client) = open(&mut server, &prusik).await;
    asked.event(1).await;
    client.expect(1).await;
    asked.chunk("data: hal").await;
    assert_eq!(client.content(9).await, b"data: hal");
    drop(asked);
    assert_eq!(client.ended().await, StreamEnd::Cut);
    let close = prusik.session_close().await;
    assert_eq!(close["closed_by"], "server");
    assert_eq!(
        close["error"],
        "the server broke off in the middle of its stream"
    );
    assert_eq!(close["events_out"], 1);
}

#[tokio::test]
async fn chunks_that_cannot_be_read_end_the_stream() {
    let (mut server, prusik) = start(|config| config).await;
    let (mut asked, mut client) = open(&mut server, &prusik).await;
    asked.event(1).await;
    client.expect(1).await;
    asked.send("zz\r\ndata: x\r\n").await;
    assert_eq!(client.ended().await, StreamEnd::Cut);
    assert_eq!(prusik.session_close().await["closed_by"], "error");
    asked.closed().await;
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_servers_connection_with_it() {
    let (mut server, prusik) = start(|config| config).await;
    let (mut asked, mut client) = open(&mut server, &prusik).await;
    asked.event(1).await;
    client.expect(1).await;
    drop(client);
    asked.closed().await;
    let close = prusik.session_close().await;
    assert_eq!(close["closed_by"], "client");
    assert_eq!(close["error"], Value::Null);
}

#[tokio::test]
async fn a_client_that_has_ended_its_side_before_gets_its_stream() {
    let (mut server, prusik) = start(|config| config).await;
    let mut client = Client::connect(prusik.public()).await;
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    client.wire.finish().await.unwrap();
    let mut asked = server.asked().await;
    // The proxy has seen the client's end by then.
    tokio::time::sleep(Duration::from_millis(50)).await;
    asked.send(STREAM).await;
    let mut client = EventClient::of(client).await;
    for number in 1..=3 {
        asked.event(number).await;
        client.expect(number).await;
    }
    drop(client);
    // The first event shows that it is gone, unless it is looked for before.
    asked.event(4).await;
    asked.closed().await;
    assert_eq!(prusik.session_close().await["closed_by"], "client");
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_given_up_after_its_stall() {
    let stall = |config: Config| config.listener("limits: { stall: 1s }");
    let (mut server, prusik) = start(stall).await;
    let (mut asked, client) = open(&mut server, &prusik).await;
    let event = format!("data: {}\n\n", "x".repeat(32 * 1024));
    let flood = chunk(event);
    within("the server is stopped", async {
        while asked.wire.send(&flood).await.is_ok() {}
    })
    .await;
    let close = prusik.session_close().await;
    assert_eq!(close["closed_by"], "error");
    let error = close["error"].as_str().unwrap();
    assert!(
        error.contains("took nothing for as long as its stall"),
        "{error}"
    );
    drop(client);
}

#[tokio::test]
async fn a_slow_client_loses_nothing() {
    let (mut server, prusik) = start(|config| config).await;
    let (mut asked, mut client) = open(&mut server, &prusik).await;
    const COUNT: usize = 400;
    let text = |number: usize| format!("{number} {}", "x".repeat(number * 37 % 20_000));
    let sending = async {
        for number in 0..COUNT {
            asked.chunk(format!("data: {}\n\n", text(number))).await;
        }
        asked.end().await;
    };
    let reading = async {
        for number in 0..COUNT {
            if number % 40 == 0 {
                // A slow client is what is tested.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert_eq!(
                client.next().await,
                Some(format!("data: {}\n\n", text(number)))
            );
        }
        assert_eq!(client.ended().await, StreamEnd::InOrder);
    };
    tokio::join!(sending, reading);
}

#[tokio::test]
async fn the_answer_to_a_post_can_be_a_stream() {
    let (mut server, prusik) = start(|config| config).await;
    let body = "x".repeat(100_000);
    for request in [
        format!("Content-Length: {}\r\n\r\n{body}", body.len()),
        format!(
            "Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        ),
    ] {
        let mut client = Client::connect(prusik.public()).await;
        let request = format!("POST /ask HTTP/1.1\r\nHost: test\r\n{request}");
        client.send(request).await;
        let (mut asked, mut client) = tokio::join!(server.stream(), EventClient::of(client));
        assert_eq!(asked.body, body.as_bytes());
        for number in 1..=3 {
            asked.event(number).await;
            client.expect(number).await;
        }
        asked.end().await;
        assert_eq!(client.ended().await, StreamEnd::InOrder);
    }
    let log = || prusik.access_log().into_iter();
    eventually("both were sessions", async || {
        let close = |line: &Value| line["kind"] == "session_close" && line["bytes_in"] == 100_000;
        log().filter(close).count() == 2
    })
    .await;
}

#[tokio::test]
async fn an_encoded_stream_passes_untouched() {
    let (mut server, prusik) = start(|config| config.route("stream: { ping: 100ms }")).await;
    let opening = EventClient::open_with(prusik.public(), "/", "Accept-Encoding: gzip\r\n");
    let answering = async {
        let mut asked = server.asked().await;
        let head = STREAM.replace("Content-Type", "Content-Encoding: gzip\r\nContent-Type");
        asked.send(head).await;
        asked
    };
    let (mut asked, mut client) = tokio::join!(answering, opening);
    assert_eq!(client.head.field("content-encoding"), Some("gzip"));
    let bytes: Vec<u8> = (0..=255).cycle().take(5000).collect();
    for part in bytes.chunks(1000) {
        asked.chunk(part).await;
        assert_eq!(client.content(1000).await, part);
    }
    // Long enough for pings, of which there must be none.
    tokio::time::sleep(Duration::from_millis(400)).await;
    asked.end().await;
    assert_eq!(client.ended().await, StreamEnd::InOrder);
    let close = prusik.session_close().await;
    assert_eq!(close["events_out"], 0);
    assert_eq!(close["bytes_out"], 5000);
}

#[tokio::test]
async fn other_answers_are_no_sessions() {
    let (mut server, prusik) = start(|config| config).await;
    let length = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9\r\n\r\n\
        data: x\n\n";
    let status = "HTTP/1.1 503 No\r\nContent-Type: text/event-stream\r\nContent-Length: 9\r\n\r\n\
        data: x\n\n";
    for answer in [length, status] {
        let asking = get(prusik.public(), "/");
        let answering = async { server.asked().await.send(answer).await };
        let (answered, ()) = tokio::join!(asking, answering);
        assert_eq!(answered.text(), "data: x\n\n");
    }
    let log = prusik.access_log();
    assert!(!log.iter().any(is("session_open")));
}

#[tokio::test]
async fn a_request_for_the_head_of_a_stream_is_answered_as_any() {
    let (mut server, prusik) = start(|config| config).await;
    let mut client = Client::connect(prusik.public()).await;
    for _ in 0..2 {
        client.send("HEAD / HTTP/1.1\r\nHost: test\r\n\r\n").await;
        let answering = async { server.asked().await.send(STREAM).await };
        let ((), head) = tokio::join!(answering, client.head());
        assert_eq!(head.field("content-type"), Some("text/event-stream"));
    }
    let log = prusik.access_log();
    assert!(!log.iter().any(is("session_open")));
}

#[tokio::test]
async fn with_stream_off_a_stream_is_an_answer_as_any() {
    let (mut server, prusik) = start(|config| config.route("stream: off")).await;
    let (mut asked, mut client) = open(&mut server, &prusik).await;
    for number in 1..=3 {
        asked.event(number).await;
        client.expect(number).await;
    }
    asked.end().await;
    assert_eq!(client.ended().await, StreamEnd::InOrder);
    let request = prusik.wait_log("the request", is("request")).await;
    assert_eq!(request["status"], 200);
    assert!(!prusik.access_log().iter().any(is("session_open")));
}

/// Anonymous memory; a debug build has the same buffers as a release.
#[tokio::test]
async fn an_idle_stream_costs_at_most_3_kib() {
    const STREAMS: u64 = 1000;
    let (mut server, prusik) = start(|config| config).await;
    let mut streams = Vec::new();
    let mut open_one = async || {
        let (mut asked, mut client) = open(&mut server, &prusik).await;
        // Large enough to leave a buffer behind that is not given back.
        let data = "x".repeat(20_000);
        asked.chunk(format!("data: {data}\n\n")).await;
        client.next().await.expect("the event");
        streams.push((asked, client));
    };
    for _ in 0..100 {
        open_one().await;
    }
    let before = prusik.anonymous_kib();
    for _ in 0..STREAMS {
        open_one().await;
    }
    let more = prusik.anonymous_kib() - before;
    assert!(more <= 3 * STREAMS, "{} B a stream", more * 1024 / STREAMS);
}

#[tokio::test]
async fn streams_pass_by_tls() {
    let authority = Authority::new();
    let pair = authority.issue("chat", &["chat.test"]);
    let tls = |config: Config| config.tls(certificates(&[&pair]));
    let (mut server, prusik) = start(tls).await;
    for ends in [true, false] {
        let mut client = authority
            .client()
            .connect(prusik.public(), "chat.test")
            .await;
        client
            .send("GET / HTTP/1.1\r\nHost: chat.test\r\n\r\n")
            .await;
        let (mut asked, mut client) = tokio::join!(server.stream(), EventClient::of(client));
        for number in 1..=3 {
            asked.event(number).await;
            client.expect(number).await;
        }
        if ends {
            asked.end().await;
            assert_eq!(client.ended().await, StreamEnd::InOrder);
        } else {
            drop(asked);
            assert_eq!(client.ended().await, StreamEnd::Cut);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_counted_and_listed_with_their_kind() {
    let (mut server, prusik) =
        start(|config| config.top("admin: { listen: \"127.0.0.1:0\" }")).await;
    let (mut asked, mut client) = open(&mut server, &prusik).await;
    asked.event(1).await;
    client.expect(1).await;
    let list = async |arguments: &[&str]| -> Value {
        let said = prusik
            .order(&[&["sessions", "--json"], arguments].concat())
            .await;
        serde_json::from_str(&said).unwrap()
    };
    let listed = list(&["--kind", "stream"]).await;
    let stream = &listed["sessions"][0];
    assert_eq!(stream["kind"], "stream");
    assert_eq!(
        (&stream["messages_out"], &stream["path"]),
        (&json!(1), &json!("/events"))
    );
    assert_eq!(list(&["--kind", "websocket"]).await["sessions"], json!([]));
    let table = prusik.order(&["sessions"]).await;
    assert!(
        table.contains("KIND") && table.contains("stream"),
        "{table}"
    );
    let status = prusik.status().await;
    assert_eq!(status["sessions"], 1);
    assert_eq!(
        status["upstreams"][0]["servers"][0]["sessions"], 1,
        "{status}"
    );
    let metrics = metrics_of(&prusik).await;
    let active = metrics
        .lines()
        .find(|line| line.starts_with("prusik_sessions_active{"));
    assert!(
        active.is_some_and(|line| line.ends_with(" 1")),
        "{active:?}"
    );
    asked.end().await;
    assert_eq!(client.ended().await, StreamEnd::InOrder);
    eventually("nothing is counted", async || {
        let metrics = metrics_of(&prusik).await;
        let ended = metrics.lines().any(|line| {
            line.starts_with("prusik_sessions_total{")
                && line.contains("closed_by=\"server\"")
                && line.ends_with(" 1")
        });
        ended && prusik.status().await["sessions"] == 0
    })
    .await;
}
