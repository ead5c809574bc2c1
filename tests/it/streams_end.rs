//! Event streams that are told to go: between two events and in order, so that an EventSource comes
//! back by itself. And their limits.

use std::time::Duration;

use http::Request;
use serde_json::Value;

use crate::support::events::{Asked, EventClient, EventServer, STREAM, StreamEnd, event};
use crate::support::http2::{Http2Site, NAME, ended};
use crate::support::{Answer, Authority, Config, Origin, Prusik, eventually, get, within};

const ADMIN: &str = "admin: { listen: \"127.0.0.1:0\" }";
const AT_ONCE: &str = "server: { drain: { window: 0s, deadline: 20s } }";

async fn start(route: &str) -> (EventServer, Prusik) {
    let server = EventServer::start();
    let config = Config::to_addresses(&[server.address()]).top(ADMIN);
    let prusik = Prusik::start(config.top(AT_ONCE).route(route)).await;
    (server, prusik)
}

async fn open(server: &mut EventServer, prusik: &Prusik) -> (Asked, EventClient) {
    let opening = EventClient::open(prusik.public(), "/events");
    tokio::join!(server.stream(), opening)
}

/// Waits until so many sessions were told to go.
async fn told(prusik: &Prusik, words: &str) {
    prusik.wait_stderr(words).await;
}

async fn closed_by(prusik: &Prusik, cause: &str) -> Value {
    let close = prusik.session_close().await;
    assert_eq!(close["closed_by"], cause, "{close}");
    close
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_server_ends_its_streams_between_events_and_they_come_back_elsewhere() {
    let mut servers = [EventServer::start(), EventServer::start()];
    let addresses = [servers[0].address(), servers[1].address()];
    let config = Config::to_addresses(&addresses).top(ADMIN).top(AT_ONCE);
    let prusik = Prusik::start(config).await;
    let opening = EventClient::open(prusik.public(), "/events");
    let (mut client, mut asked, drained) = {
        let [one, other] = &mut servers;
        tokio::select! {
            (client, asked) = async { tokio::join!(opening, one.stream()) } => (client, asked, 0),
            asked = other.stream() => panic!("round robin begins with the first: {}", asked.head),
        }
    };
    asked.event(1).await;
    client.expect(1).await;
    // Within an event nothing ends.
    let second = event(2);
    asked.chunk(&second[..7]).await;
    assert_eq!(client.content(7).await, &second.as_bytes()[..7]);
    let server = format!("backend/{}", addresses[drained]);
    prusik.order(&["drain", &server]).await;
    told(&prusik, "1 sessions are told to go").await;
    asked.chunk(&second[7..]).await;
    asked.event(3).await;
    let (end, rest) = client.rest().await;
    assert_eq!(end, StreamEnd::InOrder);
    assert_eq!(String::from_utf8_lossy(&rest), second[7..]);
    asked.closed().await;
    let close = closed_by(&prusik, "drain").await;
    assert_eq!(close["events_out"], 2);
    // As an EventSource does.
    let last = "Last-Event-ID: 2\r\n";
    let opening = EventClient::open_with(prusik.public(), "/events", last);
    let (mut asked, mut client) = tokio::join!(servers[1].stream(), opening);
    assert_eq!(asked.head.field("last-event-id"), Some("2"));
    asked.event(3).await;
    client.expect(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stream_is_closed_by_its_id() {
    let (mut server, prusik) = start("stream: {}").await;
    let (mut asked, mut client) = open(&mut server, &prusik).await;
    asked.event(1).await;
    client.expect(1).await;
    let open = |line: &Value| line["kind"] == "session_open";
    let id = prusik.wait_log("the opening", open).await["id"].clone();
    prusik.order(&["close", id.as_str().unwrap()]).await;
    assert_eq!(client.ended().await, StreamEnd::InOrder);
    asked.closed().await;
    closed_by(&prusik, "operator").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stays_within_an_event_is_cut() {
    let (mut server, prusik) = start("stream: {}").await;
    let (mut asked, mut client) = open(&mut server, &prusik).await;
    asked.chunk("data: hal").await;
    assert_eq!(client.content(9).await, b"data: hal");
    prusik
        .order(&["drain", &format!("backend/{}", server.address())])
        .await;
    assert_eq!(client.ended().await, StreamEnd::Cut);
    let close = closed_by(&prusik, "drain").await;
    assert_eq!(close["error"], "the server did not end its event in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encoded_stream_ends_with_a_chunk_of_its_server() {
    let (mut server, prusik) = start("stream: {}").await;
    let opening = EventClient::open(prusik.public(), "/");
    let answering = async {
        let mut asked = server.asked().await;
        let head = STREAM.replace("Content-Type", "Content-Encoding: gzip\r\nContent-Type");
        asked.send(head).await;
        asked
    };
    let (mut asked, mut client) = tokio::join!(answering, opening);
    asked.send("a\r\n01234").await;
    assert_eq!(client.content(5).await, b"01234");
    let drained = format!("backend/{}", server.address());
    prusik.order(&["drain", &drained]).await;
    told(&prusik, "1 sessions are told to go").await;
    asked.send("56789\r\n3\r\nabc\r\n").await;
    let (end, rest) = client.rest().await;
    assert_eq!((end, &rest[..]), (StreamEnd::InOrder, &b"56789"[..]));
    closed_by(&prusik, "drain").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_streams_of_a_route_that_is_gone_go() {
    let (mut server, prusik) = start("name: events").await;
    let (mut asked, mut client) = open(&mut server, &prusik).await;
    asked.event(1).await;
    client.expect(1).await;
    let config = Config::to_addresses(&[server.address()]).top(ADMIN);
    prusik
        .reload_with(config.top(AT_ONCE).route("name: others"))
        .await;
    assert_eq!(client.ended().await, StreamEnd::InOrder);
    closed_by(&prusik, "drain").await;
}

#[tokio::test]
async fn a_stop_ends_streams_between_events() {
    let (mut server, mut prusik) = start("stream: {}").await;
    let (mut asked, mut client) = open(&mut server, &prusik).await;
    asked.event(1).await;
    client.expect(1).await;
    prusik.signal("TERM");
    assert_eq!(client.ended().await, StreamEnd::InOrder);
    asked.closed().await;
    assert_eq!(prusik.exit_code().await, Some(0));
    closed_by(&prusik, "drain").await;
}

#[tokio::test]
async fn a_quiet_stream_is_idle_and_ends_in_order() {
    let (mut server, prusik) = start("stream: { idle: 500ms }").await;
    let (mut asked, mut client) = open(&mut server, &prusik).await;
    for number in 1..=4 {
        // Together longer than the limit, one by one not.
        tokio::time::sleep(Duration::from_millis(200)).await;
        asked.event(number).await;
        client.expect(number).await;
    }
    assert_eq!(client.ended().await, StreamEnd::InOrder);
    asked.closed().await;
    closed_by(&prusik, "idle").await;
}

#[tokio::test]
async fn a_stream_has_a_greatest_age() {
    let (mut server, prusik) = start("stream: { max_session: 500ms }").await;
    let (mut asked, mut client) = open(&mut server, &prusik).await;
    let sending = async {
        let mut number = 0;
        loop {
            let chunk = crate::support::events::chunk(event(number));
            if asked.wire.send(chunk).await.is_err() {
                break number;
            }
            number += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let reading = async {
        let mut number = 0;
        while let Some(read) = client.next().await {
            assert_eq!(read, event(number));
            number += 1;
        }
        assert_eq!(client.ended().await, StreamEnd::InOrder);
        number
    };
    let (_, read) = within("the limit", async { tokio::join!(sending, reading) }).await;
    let close = closed_by(&prusik, "max_session").await;
    assert_eq!(close["events_out"], read);
    let lasted = close["duration_ms"].as_f64().unwrap();
    assert!((440.0..30_000.0).contains(&lasted), "{close}");
}

#[tokio::test]
async fn pings_come_between_events_only() {
    let (mut server, prusik) = start("stream: { ping: 150ms }").await;
    let (mut asked, mut client) = open(&mut server, &prusik).await;
    const PING: &str = ": ping\n\n";
    assert_eq!(client.next().await.as_deref(), Some(PING));
    assert_eq!(client.next().await.as_deref(), Some(PING));
    let first = event(1);
    asked.chunk(&first[..9]).await;
    let mut whole = client.content(9).await;
    while whole.starts_with(PING.as_bytes()) {
        whole.drain(..PING.len());
    }
    // Several pings' time within the event.
    tokio::time::sleep(Duration::from_millis(500)).await;
    asked.chunk(&first[9..]).await;
    whole.extend(client.content(first.len() - 9).await);
    assert!(
        String::from_utf8_lossy(&whole).starts_with(&first),
        "{whole:?}"
    );
    assert_eq!(client.next().await.as_deref(), Some(PING));
    asked.end().await;
    let (end, _) = client.rest().await;
    assert_eq!(end, StreamEnd::InOrder);
    let close = closed_by(&prusik, "server").await;
    assert_eq!(close["events_out"], 1);
    assert_eq!(close["bytes_out"], first.len());
}

/// Opens one that is refused. The server's connection is closed.
async fn refused(server: &mut EventServer, prusik: &Prusik, status: u16, reason: &str) {
    let answering = async {
        let mut asked = server.stream().await;
        asked.closed().await;
    };
    let (answer, ()) = tokio::join!(get(prusik.public(), "/events"), answering);
    assert_eq!(answer.status(), status);
    assert!(answer.text().contains(reason), "{}", answer.text());
    assert!(answer.field("retry-after").is_some(), "{}", answer.head);
}

#[tokio::test]
async fn a_route_has_only_so_many_streams() {
    let (mut server, prusik) = start("stream: { max_sessions: 1 }").await;
    let (mut asked, mut client) = open(&mut server, &prusik).await;
    let reason = "this route has as many sessions as it may";
    refused(&mut server, &prusik, 503, reason).await;
    asked.event(1).await;
    client.expect(1).await;
    asked.end().await;
    assert_eq!(client.ended().await, StreamEnd::InOrder);
    closed_by(&prusik, "server").await;
    let (mut asked, mut client) = open(&mut server, &prusik).await;
    asked.event(2).await;
    client.expect(2).await;
    let request = |line: &Value| line["kind"] == "request" && line["status"] == 503;
    let line = prusik.wait_log("the refusal", request).await;
    assert_eq!(
        (&line["error"], &line["attempts"]),
        (&reason.into(), &1.into())
    );
}

#[tokio::test]
async fn a_client_has_only_so_many_streams() {
    let (mut server, prusik) = start("stream: { max_sessions_per_client: 2 }").await;
    let _first = open(&mut server, &prusik).await;
    let _second = open(&mut server, &prusik).await;
    let reason = "this client has as many sessions as it may";
    refused(&mut server, &prusik, 429, reason).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_by_http_2_are_sessions_too() {
    let stream = [STREAM, "d\r\ndata: first\n\n\r\n"].concat();
    let origin = Origin::start(move |request| match request.target() {
        "/whole" => Answer::raw(&stream).send("0\r\n\r\n"),
        // A reset overtakes what was sent just before.
        "/cut" => Answer::raw(&stream)
            .wait(Duration::from_millis(300))
            .close(),
        _ => Answer::raw(&stream).hang(),
    })
    .await;
    let site = Http2Site::start(origin, |config| config.top(AT_ONCE)).await;
    let mut client = site.client().await;
    let (head, body) = client.get("/whole").await;
    assert_eq!(head.headers()["content-type"], "text/event-stream");
    assert_eq!(body, b"data: first\n\n");
    closed_by(&site.prusik, "server").await;
    let begin = async |target: &str| {
        let request = Request::get(format!("https://{NAME}{target}"));
        let mut client = site.client().await;
        let (response, _) = client.begin(request.body(()).unwrap(), true).await;
        let response = within("a response", response).await.unwrap();
        let mut body = response.into_body();
        let first = within("an event", body.data()).await.unwrap().unwrap();
        assert_eq!(&first[..], b"data: first\n\n");
        (client, body)
    };
    // The server breaks off: the stream is reset.
    let (_client, mut body) = begin("/cut").await;
    assert!(within("a reset", body.data()).await.unwrap().is_err());
    // Told to go: the stream ends in order.
    let (_client, mut body) = begin("/told").await;
    let listed = site
        .prusik
        .order(&["sessions", "--kind", "stream", "--json"])
        .await;
    assert!(listed.contains("/told"), "{listed}");
    let server = format!("backend/{}", site.origin.address());
    site.prusik.order(&["drain", &server]).await;
    ended(&mut body).await;
    site.prusik.order(&["enable", &server]).await;
    // The client cancels: the server's connection is closed.
    let (client, body) = begin("/cancelled").await;
    assert_eq!(site.origin.open(), 1);
    drop((client, body));
    eventually("the server's connection is closed", async || {
        site.origin.open() == 0
    })
    .await;
}

/// Without chunks only TLS's own end says that nothing is missing.
#[tokio::test]
async fn a_stream_that_ends_with_its_connection_by_tls_must_end_as_tls_ends() {
    let authority = Authority::new();
    let pair = authority.issue("chat", &["chat.test"]);
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/event-stream\r\n\r\n";
    // It drops its connection without a close_notify.
    let origin = Origin::secure(authority.server(&pair, false), move |_| {
        Answer::raw(head).send(event(1)).close()
    })
    .await;
    let ca = authority.file().display().to_string();
    let keys = format!("tls: {{ sni: chat.test, ca: \"{ca}\" }}");
    let prusik = Prusik::start(Config::to(&[&origin]).upstream(keys)).await;
    let mut client = EventClient::open(prusik.public(), "/events").await;
    client.expect(1).await;
    assert_eq!(client.ended().await, StreamEnd::Cut);
    let close = closed_by(&prusik, "server").await;
    assert_eq!(
        close["error"],
        "the server broke off in the middle of its stream"
    );
}
