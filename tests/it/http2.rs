//! HTTP/2 with clients, over real TLS: requests, sessions (RFC 8441), and what is thrown at it.

use std::time::Duration;

use crate::support::http2::{
    CONTINUATION, END_HEADERS, END_STREAM, HEADERS, Http2Site as Site, NAME, PREFACE, SETTINGS,
    ended, frame, literal, raw_frame, whole,
};
use crate::support::{
    Answer, Frame, Origin, Pattern, PatternCheck, client_frame, eventually, within,
};
use bytes::Bytes;
use h2::Reason;
use http::{Method, Request, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn requests_reach_servers_by_http_1_and_come_back() {
    let origin = Origin::start(|request| match request.target() {
        "/none" => Answer::status(204, &[], ""),
        "/gone" => Answer::status(404, &["X-Why: gone"], "not here"),
        "/chunks" => Answer::raw(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        ),
        "/close" => Answer::raw("HTTP/1.1 200 OK\r\n\r\nuntil the end").close(),
        target => Answer::text(target),
    })
    .await;
    let site = Site::start(origin, |config| config).await;
    let mut client = site.client().await;
    let request = Request::get(format!("https://{NAME}/first?x=1"))
        .version(Version::HTTP_2)
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("te", "trailers")
        .header("x-own", "kept")
        .body(())
        .unwrap();
    let (response, body) = client.ask(request).await;
    assert_eq!(
        (response.status().as_u16(), &body[..]),
        (200, &b"/first?x=1"[..])
    );
    assert!(!response.headers().contains_key("connection"));
    let request = site.origin.only_request();
    assert!(request.first_line().ends_with("HTTP/1.1"), "{request:?}");
    assert_eq!(request.fields("host"), [NAME]);
    assert_eq!(request.fields("cookie"), ["a=1; b=2"]);
    assert_eq!(request.fields("x-own"), ["kept"]);
    assert_eq!(request.fields("x-forwarded-proto"), ["https"]);
    assert!(request.fields("te").is_empty());

    for (target, status, body) in [
        ("/none", 204, &b""[..]),
        ("/gone", 404, b"not here"),
        ("/chunks", 200, b"abcde"),
        ("/close", 200, b"until the end"),
    ] {
        let (response, got) = client.get(target).await;
        assert_eq!(
            (response.status().as_u16(), &got[..]),
            (status, body),
            "{target}"
        );
    }
    let request = Request::head(format!("https://{NAME}/chunks"))
        .body(())
        .unwrap();
    let (response, body) = client.ask(request).await;
    assert_eq!((response.status().as_u16(), body.len()), (200, 0));

    let mut answers = Vec::new();
    for number in 0..100 {
        let request = Request::get(format!("https://{NAME}/{number}"))
            .body(())
            .unwrap();
        answers.push(client.begin(request, true).await.0);
    }
    for (number, answer) in answers.into_iter().enumerate() {
        assert_eq!(whole(answer).await.1, format!("/{number}").into_bytes());
    }
    let entry = site
        .prusik
        .wait_log("a request", |entry| entry["path"] == "/gone")
        .await;
    assert_eq!(
        (&entry["status"], &entry["method"]),
        (&404.into(), &"GET".into())
    );
}

#[tokio::test]
async fn bodies_pass_both_ways_and_one_that_stalls_stops_no_other() {
    const LENGTH: u64 = 3_000_000;
    let echo = Origin::checking().await;
    let site = Site::start(echo, |config| config).await;
    let mut client = site.client().await;
    for length in [None, Some(LENGTH)] {
        let mut request = Request::post(format!("https://{NAME}/up"));
        if let Some(length) = length {
            request = request.header("content-length", length);
        }
        let (response, mut body) = client.begin(request.body(()).unwrap(), false).await;
        let mut pattern = Pattern::new(LENGTH);
        let mut sent = 0;
        while sent < LENGTH {
            body.reserve_capacity(60_000);
            // What is there already is not told again.
            while body.capacity() == 0 {
                let more = std::future::poll_fn(|cx| body.poll_capacity(cx));
                within("room", more).await.unwrap().unwrap();
            }
            let part = pattern.next(body.capacity());
            sent += part.len() as u64;
            body.send_data(Bytes::from_static(part), sent == LENGTH)
                .unwrap();
        }
        let (response, said) = whole(response).await;
        assert_eq!(response.status(), 200);
        assert_eq!(String::from_utf8(said).unwrap(), LENGTH.to_string());
    }
    drop(site);

    let origin = Origin::start(|request| match request.target() {
        "/big" => Answer::raw(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"
        ))
        .pattern(LENGTH),
        _ => Answer::text("small"),
    })
    .await;
    let site = Site::start(origin, |config| config).await;
    let mut client = site.client().await;
    let request = || {
        Request::get(format!("https://{NAME}/big"))
            .body(())
            .unwrap()
    };
    let (stalled, _) = client.begin(request(), true).await;
    let stalled = within("a response", stalled).await.unwrap();
    assert_eq!(client.get("/small").await.1, b"small");
    let mut check = PatternCheck::default();
    let mut body = stalled.into_body();
    while let Some(data) = within("the body", body.data()).await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        check.feed(&data);
    }
    assert_eq!(check.length(), LENGTH);
}

/// What contradicts itself or is not for a gateway is refused as by HTTP/1.1.
#[tokio::test]
async fn nothing_ambiguous_reaches_a_server() {
    let origin = Origin::start(|request| Answer::text(request.target())).await;
    let site = Site::start(origin, |config| {
        config.first("{ match: { path_prefix: /forbidden }, respond: { status: 403 } }")
    })
    .await;
    let get = |target: &str| Request::get(format!("https://{NAME}{target}"));
    for (request, status) in [
        (get("/").header("host", "other.test"), 400),
        (get("/a%00b"), 400),
        (get("/x/..%2fforbidden"), 400),
        (get("/x/../forbidden"), 403),
        (get("//forbidden"), 403),
        (get("/%66orbidden"), 403),
        (
            get("/")
                .header("content-length", "1")
                .header("content-length", "1"),
            400,
        ),
        (get("/").header("expect", "something"), 417),
        (Request::get(format!("https://user@{NAME}/")), 400),
        (
            Request::builder()
                .method("TRACE")
                .uri(format!("https://{NAME}/")),
            405,
        ),
        (Request::connect(format!("{NAME}:443")), 405),
    ] {
        let mut client = site.client().await;
        let request = request.body(()).unwrap();
        let words = format!("{request:?}");
        let (response, _) = client.begin(request, true).await;
        match within("a response", response).await {
            Ok(response) => assert_eq!(response.status().as_u16(), status, "{words}"),
            // Malformed by RFC 9113 section 8.1.1: h2 has ended the stream.
            Err(error) => assert_eq!(
                (error.reason(), status),
                (Some(Reason::PROTOCOL_ERROR), 400),
                "{words}"
            ),
        }
    }
    assert!(
        site.origin.received().is_empty(),
        "{:?}",
        site.origin.received()
    );
    let (_, body) = site.client().await.get("/a/./b//c").await;
    assert_eq!(body, b"/a/b/c");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_over_http_2_is_like_any_other() {
    let site = Site::start(Origin::chat().await, |config| config).await;
    let mut client = site.client().await;
    let (response, mut receive, mut send) = client.connect("/chat?userId=7").await;
    assert_eq!(response.status(), 200);
    assert!(!response.headers().contains_key("sec-websocket-accept"));
    let handshake = site.origin.only_request();
    assert!(
        handshake
            .first_line()
            .starts_with("GET /chat?userId=7 HTTP/1.1")
    );
    assert_eq!(handshake.fields("upgrade"), ["websocket"]);
    assert_eq!(handshake.fields("sec-websocket-version"), ["13"]);
    assert_eq!(handshake.fields("sec-websocket-key").len(), 1);
    // Devices and hand-made servers look for the RFCs' letters.
    for name in [
        "Host: ",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: ",
    ] {
        let mut lines = handshake.lines();
        let is_there = lines.any(|line| line.starts_with(name));
        assert!(is_there, "no {name} in {}", handshake.head);
    }

    let mut seen = Vec::new();
    for text in ["one", "two"] {
        send.send_data(client_frame(1, text.as_bytes()).into(), false)
            .unwrap();
        assert_eq!(frame(&mut receive, &mut seen).await, Frame::text(text));
    }
    let listed = site.prusik.order(&["sessions", "--json"]).await;
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let session = &listed["sessions"][0];
    assert_eq!(session["messages_in"], 2);
    // Requests go on beside it.
    assert_eq!(client.get("/page").await.0.status(), 200);
    let id = session["id"].as_str().unwrap();
    site.prusik.order(&["close", id, "--code", "4001"]).await;
    let goodbye = frame(&mut receive, &mut seen).await;
    assert_eq!(
        (goodbye.opcode, &goodbye.payload[..2]),
        (8, &4001_u16.to_be_bytes()[..])
    );
    send.send_data(client_frame(8, &goodbye.payload[..2]).into(), true)
        .unwrap();
    ended(&mut receive).await;
    let entry = site.prusik.session_close().await;
    assert_eq!(
        (
            &entry["closed_by"],
            &entry["close_code"],
            &entry["messages_out"]
        ),
        (&"operator".into(), &4001.into(), &2.into())
    );
}

#[tokio::test]
async fn a_handshake_that_the_server_refuses_gives_the_client_just_that() {
    let origin = Origin::start(|request| match request.target() {
        "/page" => Answer::text("a page"),
        "/wrong" => Answer::upgrade_accepting("d3Jvbmc=", &[], b""),
        _ => Answer::status(403, &["X-Why: closed"], "no"),
    })
    .await;
    let site = Site::start(origin, |config| {
        config.first("{ match: { path: /own }, respond: { status: 200, body: page } }")
    })
    .await;
    let mut client = site.client().await;
    for (target, status, said) in [
        // Any 2xx would be an open session to the client (RFC 8441 section 5).
        ("/page", 502, &b"502"[..]),
        ("/own", 403, b"403"),
        ("/closed", 403, b"no"),
        ("/wrong", 502, b""),
    ] {
        let (response, mut body, _send) = client.connect(target).await;
        assert_eq!(response.status().as_u16(), status, "{target}");
        let mut all = Vec::new();
        while let Some(data) = within("the body", body.data()).await {
            all.extend_from_slice(&data.unwrap());
        }
        assert!(all.starts_with(said), "{target}: {all:?}");
    }
}

#[tokio::test]
async fn a_stream_that_ends_or_is_reset_ends_its_session() {
    let site = Site::start(Origin::chat().await, |config| config).await;
    let mut client = site.client().await;
    let (_, mut receive, mut send) = client.connect("/a").await;
    eventually("it lives", async || site.origin.sessions() == 1).await;
    send.send_data(client_frame(8, &1000_u16.to_be_bytes()).into(), true)
        .unwrap();
    let goodbye = frame(&mut receive, &mut Vec::new()).await;
    assert_eq!(goodbye.opcode, 8);
    ended(&mut receive).await;
    let (_, _receive, mut send) = client.connect("/b").await;
    eventually("it lives", async || site.origin.sessions() == 1).await;
    send.send_reset(Reason::CANCEL);
    eventually("it has ended", async || site.origin.sessions() == 0).await;
    let closed = |path: &'static str| {
        move |entry: &serde_json::Value| entry["kind"] == "session_close" && entry["path"] == path
    };
    for path in ["/a", "/b"] {
        let entry = site.prusik.wait_log(path, closed(path)).await;
        assert_eq!(entry["closed_by"], "client", "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_sends_streams_home_and_leaves_no_process_behind() {
    let origin = Origin::start(|request| match request.target() {
        "/chat" => Answer::upgrade(request),
        _ => Answer::text("slow").after(Duration::from_secs(1)),
    })
    .await;
    let drain = "server: { drain: { window: 1s, deadline: 20s } }";
    let mut site = Site::start(origin, |config| config.top(drain)).await;
    let mut idle = site.client().await;
    assert_eq!(idle.get("/warm").await.1, b"slow");
    let mut client = site.client().await;
    let (_, mut receive, mut send) = client.connect("/chat").await;
    let request = Request::get(format!("https://{NAME}/slow"))
        .body(())
        .unwrap();
    let (response, _) = client.begin(request, true).await;
    site.origin.has_got("/slow").await;
    let talking = tokio::spawn(async move {
        let goodbye = frame(&mut receive, &mut Vec::new()).await;
        let answer = client_frame(8, &goodbye.payload[..2]);
        // The other side may have gone already.
        let _ = send.send_data(answer.into(), true);
        goodbye
    });
    let asking = tokio::spawn(whole(response));
    site.prusik.upgrade().await;
    let goodbye = within("the session is told", talking).await.unwrap();
    assert_eq!(
        (goodbye.opcode, &goodbye.payload[..2]),
        (8, &1012_u16.to_be_bytes()[..])
    );
    assert_eq!(within("the answer", asking).await.unwrap().1, b"slow");
    for connection in [client.connection, idle.connection] {
        // By a GOAWAY, or by the end of the socket under what it was just about to say.
        let _ = within("it ends", connection).await.unwrap();
    }
    assert_eq!(site.client().await.get("/after").await.1, b"slow");
}

/// h2 gives us a `:path` that was cut there: nobody could refuse it who looks at that alone.
#[tokio::test]
async fn a_fragment_in_the_path_is_refused_as_by_http_1() {
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let site = Site::start(origin, |config| config).await;
    let request = |stream, path: &[u8]| {
        let before = [literal(":method", "GET"), literal(":scheme", "https")].concat();
        let fields = [&before[..], &literal(":authority", NAME), path].concat();
        raw_frame(HEADERS, END_HEADERS | END_STREAM, stream, &fields)
    };
    let mut raw = site.tls().await;
    let opening = [PREFACE, &raw_frame(SETTINGS, 0, 0, &[])].concat();
    let all = [
        opening,
        request(1, &literal(":path", "/one#two")),
        // Its name from the table, and the field into the table (RFC 7541 section 6.2.1); encoded.
        request(3, &[0x44, 0x83, 0x63, 0xFE, 0xBF]),
        request(5, &literal(":path", "/sound?a=%23")),
        // As it stands in the table.
        request(7, &[0xBE]),
        request(9, &literal(":path", "#")),
        request(11, &literal(":path", "/last")),
    ];
    raw.write_all(&all.concat()).await.unwrap();
    site.origin.has_got("/last").await;
    site.origin.has_got("/sound?a=%23").await;
    for path in ["/one#", "/#", "/#"] {
        site.prusik
            .wait_log(path, |entry| {
                entry["status"] == 400 && entry["path"] == path
            })
            .await;
    }
    let refused = async || {
        let log = site.prusik.access_log();
        log.iter().filter(|entry| entry["status"] == 400).count() == 4
    };
    eventually("four are refused", refused).await;
    assert_eq!(site.origin.received().len(), 2);
}

/// CVE-2023-44487.
#[tokio::test]
async fn who_only_opens_and_resets_streams_is_sent_away() {
    let origin = Origin::start(|_| Answer::silence()).await;
    let site = Site::start(origin, |config| config).await;
    let client = site.client().await;
    let mut opened = 0;
    let ended = loop {
        let send = client.send.clone();
        match within("room for a stream", send.ready()).await {
            Ok(mut send) => {
                let request = Request::get(format!("https://{NAME}/")).body(()).unwrap();
                match send.send_request(request, true) {
                    Ok((_, mut stream)) => stream.send_reset(Reason::CANCEL),
                    Err(error) => break error,
                }
            }
            Err(error) => break error,
        }
        opened += 1;
        assert!(opened < 100_000, "nobody minds");
        tokio::task::yield_now().await;
    };
    assert_eq!(ended.reason(), Some(Reason::ENHANCE_YOUR_CALM), "{ended}");
    // By us, or by h2 for those that it has not shown us.
    site.refused(429, "").await;
    let mut other = site.client().await;
    let request = Request::builder()
        .method(Method::TRACE)
        .uri(format!("https://{NAME}/"));
    assert_eq!(other.ask(request.body(()).unwrap()).await.0.status(), 405);
}

/// What each of a stranger's connections gives cause for must not fill the disk.
#[tokio::test]
async fn clients_that_give_up_what_they_ask_are_counted_in_one_line() {
    let origin = Origin::start(|_| Answer::silence()).await;
    let site = Site::start(origin, |config| config).await;
    let asked = || site.origin.received().len();
    for _ in 0..3 {
        let client = site.client().await;
        while let Ok(mut send) = within("room", client.send.clone().ready()).await {
            let before = asked();
            let request = Request::get(format!("https://{NAME}/")).body(()).unwrap();
            let Ok((_, mut stream)) = send.send_request(request, true) else {
                break;
            };
            // Given up once it is on its way: of those that h2 keeps to itself we know nothing.
            eventually("it is asked", async || {
                asked() > before || client.connection.is_finished()
            })
            .await;
            stream.send_reset(Reason::CANCEL);
        }
        let end = within("the end", client.connection).await;
        let reason = end
            .expect("no panic")
            .err()
            .and_then(|error| error.reason());
        assert_eq!(reason, Some(Reason::ENHANCE_YOUR_CALM));
    }
    let line = "were given up before an answer";
    assert_eq!(site.prusik.stderr().matches(line).count(), 1);
    site.prusik.signal("INT");
    site.prusik.wait_stderr("and 1 more like it in").await;
}

/// CVE-2024-27316 and others: a head without end.
#[tokio::test]
async fn a_flood_of_continuations_is_cut_and_costs_no_memory() {
    let site = Site::start(Origin::chat().await, |config| config).await;
    assert_eq!(site.client().await.get("/").await.0.status(), 200);
    let before = site.prusik.anonymous_kib();
    let mut raw = site.tls().await;
    raw.write_all(PREFACE).await.unwrap();
    raw.write_all(&raw_frame(4, 0, 0, &[])).await.unwrap();
    raw.write_all(&raw_frame(HEADERS, 0, 1, &[0x82]))
        .await
        .unwrap();
    // A literal field that is not to be remembered, 1000 bytes.
    let mut field = vec![0x00, 1, b'x', 0x7f, 0xe9, 0x06];
    field.extend([b'v'; 1000]);
    let continuation = raw_frame(CONTINUATION, 0, 1, &field.repeat(10));
    let mut sent = 0;
    let cut = async {
        while raw.write_all(&continuation).await.is_ok() {
            sent += continuation.len();
            assert!(sent < 64 << 20, "64 MiB of one head were taken");
        }
    };
    within("the connection is cut", cut).await;
    site.refused(429, "").await;
    assert!(site.prusik.anonymous_kib() < before + 8 * 1024);
    assert_eq!(site.client().await.get("/").await.0.status(), 200);
}

#[tokio::test]
async fn a_client_without_http_2_gets_http_1_and_no_preface_no_answer() {
    let site = Site::start(Origin::chat().await, |config| {
        config.listener("limits: { header_timeout: 1s }")
    })
    .await;
    let client = site.authority.client();
    let mut client = client.connect(site.prusik.public(), NAME).await;
    assert_eq!(client.get("/").await.status(), 200);
    let mut raw = site.tls().await;
    raw.write_all(&PREFACE[..10]).await.unwrap();
    let mut rest = Vec::new();
    // However it ends, it does: nobody waits for the rest of a preface.
    let _ = within("it is cut", raw.read_to_end(&mut rest)).await;
    site.refused(408, "the HTTP/2 preface did not arrive").await;
    let mut other = site.tls().await;
    other
        .write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        .await
        .unwrap();
    let _ = within("it is cut", other.read_to_end(&mut rest)).await;
    site.refused(400, "HTTP/2 failed: ").await;
}
