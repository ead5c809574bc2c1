//! HTTP/2 where it is not as it should be: clients that stall, fall silent, flood or smuggle, and
//! streams that end halfway.

use std::future::poll_fn;
use std::time::Duration;

use crate::support::http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, Http2Client, Http2Site as Site, NAME,
    PING, PREFACE, SETTINGS, WINDOW_UPDATE, ended, frame, literal, raw_frame, request_fields,
    whole,
};
use crate::support::{Answer, Config, Frame, Origin, client_frame, eventually, listen, within};
use bytes::Bytes;
use h2::SendStream;
use http::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Sends all of it, as room comes.
async fn send_all(send: &mut SendStream<Bytes>, bytes: impl Into<Bytes>, is_last: bool) {
    let mut bytes = bytes.into();
    while !bytes.is_empty() {
        send.reserve_capacity(bytes.len());
        // What is there already is not told again.
        while send.capacity() == 0 {
            let more = within("room", poll_fn(|cx| send.poll_capacity(cx))).await;
            more.expect("a stream").expect("no reset");
        }
        let part = bytes.split_to(send.capacity().min(bytes.len()));
        let is_end = is_last && bytes.is_empty();
        send.send_data(part, is_end).expect("there is room");
    }
}

async fn post(client: &mut Http2Client, target: &str, body: &'static [u8]) -> Response<()> {
    let request = Request::post(format!("https://{NAME}{target}"));
    let (response, mut send) = client.begin(request.body(()).expect("sound"), false).await;
    send_all(&mut send, body, true).await;
    whole(response).await.0
}

/// To an HTTP/1.1 client it would be the next request. Here every request has its own stream.
#[tokio::test]
async fn what_stands_behind_a_refused_handshake_is_no_request() {
    let origin = Origin::start(|request| match request.target() {
        "/page" => Answer::status(404, &[], "a page").after(Duration::from_millis(300)),
        target => Answer::text(target),
    })
    .await;
    let mut site = Site::start(origin, |config| config).await;
    let mut client = site.client().await;
    let (response, mut send) = client.begin_session("/page").await;
    let hidden = format!("GET /hidden HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
    send_all(&mut send, hidden, false).await;
    let (response, said) = whole(response).await;
    assert_eq!(response.status(), 404);
    assert_eq!(said, b"a page");
    // When the process has ended, all that it would do is done.
    site.prusik.signal("TERM");
    assert_eq!(site.prusik.exit_code().await, Some(0));
    assert_eq!(site.origin.only_request().target(), "/page");
}

#[tokio::test]
async fn the_last_words_of_a_client_reach_a_server_that_has_ended_its_side() {
    let listener = listen();
    let address = listener.local_addr().unwrap();
    let unused = Origin::start(|_| Answer::nothing()).await;
    let site = Site::start(unused, |_| Config::to(&[]).server(address)).await;
    let goodbye = 1000_u16.to_be_bytes();
    let serving = tokio::spawn(async move {
        let (mut server, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(server.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let name = "sec-websocket-key: ";
        let at = head.to_ascii_lowercase().find(name).unwrap() + name.len();
        let accept = derive_accept_key(head[at..].lines().next().unwrap().as_bytes());
        let switch = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        server.write_all(switch.as_bytes()).await.unwrap();
        let close = Frame {
            opcode: 8,
            payload: goodbye.to_vec(),
        };
        server.write_all(&close.unmasked()).await.unwrap();
        server.shutdown().await.unwrap();
        let mut said = Vec::new();
        server.read_to_end(&mut said).await.unwrap();
        said
    });
    let mut client = site.client().await;
    let (_, mut receive, mut send) = client.connect("/").await;
    assert_eq!(frame(&mut receive, &mut Vec::new()).await.opcode, 8);
    ended(&mut receive).await;
    let answer = client_frame(8, &goodbye);
    send.send_data(answer.clone().into(), true).unwrap();
    assert_eq!(within("last words", serving).await.unwrap(), answer);
    let entry = site.prusik.session_close().await;
    assert_eq!(
        (&entry["closed_by"], &entry["close_code"]),
        (&"server".into(), &1000.into())
    );
}

/// Each stream has a window, and the connection room for all of them.
#[tokio::test]
async fn streams_that_nobody_reads_leave_room_for_others() {
    let origin = Origin::start(|request| match request.target() {
        "/silent" => Answer::silence(),
        _ => Answer::text("taken"),
    })
    .await;
    let site = Site::start(origin, |config| config).await;
    let mut client = site.client().await;
    let mut stalled = Vec::new();
    for _ in 0..40 {
        let (response, mut send) = client.begin_session("/silent").await;
        // As much as a handshake holds, and a part of a window: h2 tells of room by halves of one.
        send_all(&mut send, vec![0; 70_000], false).await;
        stalled.push((response, send));
    }
    assert_eq!(post(&mut client, "/other", b"abc").await.status(), 200);
}

#[tokio::test]
async fn a_response_that_is_cut_short_is_reset() {
    let origin = Origin::start(|request| match request.target() {
        "/length" => Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut").close(),
        _ => {
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ncut\r\n";
            Answer::raw(head).close()
        }
    })
    .await;
    let site = Site::start(origin, |config| config).await;
    let mut client = site.client().await;
    for target in ["/length", "/chunks"] {
        let request = Request::get(format!("https://{NAME}{target}"));
        let (response, _) = client.begin(request.body(()).unwrap(), true).await;
        let response = within("a response", response).await.unwrap();
        let mut body = response.into_body();
        let mut said = Vec::new();
        let end = loop {
            match within("the body", body.data()).await {
                Some(Ok(data)) => said.extend_from_slice(&data),
                end => break end,
            }
        };
        assert!(
            matches!(&end, Some(Err(error)) if error.is_reset()),
            "{target}: {end:?}"
        );
        assert!(b"cut".starts_with(&said[..]), "{target}: {said:?}");
    }
}

#[tokio::test]
async fn an_idle_connection_is_sent_away_and_one_with_a_session_stays() {
    let site = Site::start(Origin::chat().await, |config| {
        config.listener("limits: { idle: 1s }")
    })
    .await;
    let mut busy = site.client().await;
    let (_, mut receive, mut send) = busy.connect("/").await;
    let mut idle = site.client().await;
    assert_eq!(idle.get("/").await.0.status(), 200);
    let sent_away = within("it is sent away", idle.connection).await;
    sent_away.unwrap().expect("a GOAWAY, and time to read it");
    send_all(&mut send, client_frame(1, b"still here"), false).await;
    assert_eq!(
        frame(&mut receive, &mut Vec::new()).await,
        Frame::text("still here")
    );
}

#[tokio::test]
async fn a_client_that_answers_nothing_keeps_no_process() {
    let drain = "server: { drain: { window: 0s, deadline: 10m } }";
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let mut site = Site::start(origin, |config| config.top(drain)).await;
    let mut raw = site.tls().await;
    let request = raw_frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        1,
        &request_fields("GET", "/"),
    );
    let opening = [PREFACE, &raw_frame(SETTINGS, 0, 0, &[]), &request].concat();
    raw.write_all(&opening).await.unwrap();
    site.prusik
        .wait_log("it was served", |entry| entry["status"] == 200)
        .await;
    site.prusik.signal("TERM");
    assert_eq!(site.prusik.exit_code().await, Some(0));
}

#[tokio::test]
async fn limits_of_sessions_hold_over_http_2() {
    let site = Site::start(Origin::chat().await, |config| {
        config.route("websocket: { max_sessions_per_client: 1, max_message: 1KiB }")
    })
    .await;
    let mut client = site.client().await;
    let (response, mut receive, mut send) = client.connect("/").await;
    assert_eq!(response.status(), 200);
    let (refused, ..) = client.connect("/").await;
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after"));
    send_all(&mut send, client_frame(2, &[0; 2000]), false).await;
    let goodbye = frame(&mut receive, &mut Vec::new()).await;
    assert_eq!(
        (goodbye.opcode, &goodbye.payload[..2]),
        (8, &1009_u16.to_be_bytes()[..])
    );
    assert_eq!(site.prusik.session_close().await["closed_by"], "limit");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_answered_and_logged() {
    let site = Site::start(Origin::chat().await, |config| {
        config.listener("limits: { header_size: 4KiB, header_count: 20 }")
    })
    .await;
    let mut client = site.client().await;
    let request = || Request::get(format!("https://{NAME}/"));
    let large = request().header("x-large", "x".repeat(5000));
    let many = (0..30).fold(request(), |many, number| {
        many.header(format!("x-{number}"), "x")
    });
    for refused in [large, many] {
        let (response, _) = client.ask(refused.body(()).unwrap()).await;
        assert_eq!(response.status(), 431);
    }
    eventually("both are in the log", async || {
        let log = site.prusik.access_log();
        log.iter().filter(|entry| entry["status"] == 431).count() == 2
    })
    .await;
    // By h2 itself.
    let larger = request().header("x-larger", "x".repeat(12_000));
    let (response, _) = client.ask(larger.body(()).unwrap()).await;
    assert_eq!(response.status(), 431);
    assert_eq!(client.get("/").await.0.status(), 200);
    assert_eq!(site.origin.received().len(), 1);
}

/// Each of its requests needs a descriptor for its server.
#[tokio::test]
async fn one_connection_cannot_use_up_the_descriptors() {
    let origin = Origin::start(|request| match request.target() {
        "/silent" => Answer::silence(),
        _ => Answer::text("hello"),
    })
    .await;
    let site = Site::start_limited(origin, |config| config, "-n 96").await;
    let mut client = site.client().await;
    let mut answers = Vec::new();
    for _ in 0..150 {
        let request = Request::get(format!("https://{NAME}/silent"));
        answers.push(client.begin(request.body(()).unwrap(), true).await.0);
    }
    let last = answers.pop().unwrap();
    let (response, _) = whole(last).await;
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    site.refused(503, "descriptors").await;
    let failed = |entry: &serde_json::Value| entry["status"] == 502;
    assert!(!site.prusik.access_log().iter().any(failed));
    drop((client, answers));
    eventually("its requests are gone", async || site.origin.open() == 0).await;
    assert_eq!(site.client().await.get("/").await.0.status(), 200);
}

/// More than the 256 that it is told (RFC 9113 section 5.1.2): those that are too many are refused,
/// so that they may be repeated (section 8.7), and no server hears of them.
#[tokio::test]
async fn streams_beyond_what_is_allowed_at_once_are_refused_one_by_one() {
    beyond_what_is_allowed(256, |config| config).await;
    beyond_what_is_allowed(10, |config| config.listener("limits: { streams: 10 }")).await;
}

async fn beyond_what_is_allowed(allowed: u32, change: impl FnOnce(Config) -> Config) {
    const RST_STREAM: u8 = 3;
    const GOAWAY: u8 = 7;
    const REFUSED_STREAM: u32 = 7;
    let origin = Origin::start(|request| match request.target() {
        "/silent" => Answer::silence(),
        _ => Answer::text("hello"),
    })
    .await;
    let site = Site::start(origin, change).await;
    let mut raw = site.tls().await;
    let mut opening = [PREFACE, &raw_frame(SETTINGS, 0, 0, &[])].concat();
    for number in 0..allowed + 44 {
        let fields = request_fields("GET", "/silent");
        let flags = END_HEADERS | END_STREAM;
        opening.extend(raw_frame(HEADERS, flags, 2 * number + 1, &fields));
    }
    raw.write_all(&opening).await.expect("it is served");
    let mut refused = Vec::new();
    while refused.len() < 44 {
        let mut head = [0; 9];
        within("a frame", raw.read_exact(&mut head))
            .await
            .expect("it is served");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        raw.read_exact(&mut payload).await.expect("it is served");
        assert_ne!(head[3], GOAWAY, "{payload:?}");
        if head[3] == RST_STREAM {
            assert_eq!(payload, REFUSED_STREAM.to_be_bytes());
            let stream = [head[5], head[6], head[7], head[8]];
            refused.push(u32::from_be_bytes(stream));
        }
    }
    let last = (0..44).map(|number| 2 * (allowed + number) + 1);
    assert_eq!(refused, last.collect::<Vec<u32>>());
    eventually("the others are at the server", async || {
        site.origin.open() == allowed as usize
    })
    .await;
    assert_eq!(site.client().await.get("/").await.0.status(), 200);
    drop(raw);
    eventually("its requests are gone", async || site.origin.open() <= 1).await;
}

/// Frames that cost their sender little.
struct Flood {
    name: &'static str,
    opening: Vec<u8>,
    part: fn(u32) -> Vec<u8>,
    is_cut: bool,
}

fn headers(flags: u8, stream: u32, target: &str) -> Vec<u8> {
    raw_frame(
        HEADERS,
        END_HEADERS | flags,
        stream,
        &request_fields("POST", target),
    )
}

#[tokio::test]
async fn floods_are_cut_and_logged() {
    const MOST: usize = 4 << 20;
    /// PRIORITY (RFC 7540 section 6.3), which RFC 9113 has done away with.
    const PRIORITY: u8 = 2;
    const RST_STREAM: u8 = 3;
    const PADDED: u8 = 8;
    let floods = [
        // CVE-2025-8671: it is the server that is made to reset.
        Flood {
            name: "streams whose window is broken",
            opening: vec![],
            part: |number| {
                let stream = 2 * number + 1;
                let broken = raw_frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes());
                [headers(0, stream, "/silent"), broken].concat()
            },
            is_cut: true,
        },
        // CVE-2019-9518.
        Flood {
            name: "empty DATA",
            opening: headers(0, 1, "/silent"),
            part: |_| raw_frame(DATA, 0, 1, &[]).repeat(100),
            is_cut: true,
        },
        Flood {
            name: "empty CONTINUATION",
            opening: raw_frame(HEADERS, 0, 1, &request_fields("GET", "/")),
            part: |_| raw_frame(CONTINUATION, 0, 1, &[]),
            is_cut: true,
        },
        Flood {
            name: "trailers without end",
            opening: [
                headers(0, 1, "/silent"),
                raw_frame(HEADERS, END_STREAM, 1, &literal("x", "y")),
            ]
            .concat(),
            part: |_| raw_frame(CONTINUATION, 0, 1, &literal("x", "y")),
            is_cut: true,
        },
        // A field of 4000 bytes is remembered, then named by one byte again and again.
        Flood {
            name: "an HPACK bomb",
            opening: {
                let mut fields = request_fields("GET", "/");
                fields.extend([0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
                fields.extend([b'y'; 4000]);
                raw_frame(HEADERS, 0, 1, &fields)
            },
            part: |_| raw_frame(CONTINUATION, 0, 1, &[0xbe; 16_000]),
            is_cut: true,
        },
        // CVE-2019-9512, CVE-2019-9515: each wants an answer.
        Flood {
            name: "PING",
            opening: vec![],
            part: |_| raw_frame(PING, 0, 0, &[0; 8]).repeat(100),
            is_cut: true,
        },
        Flood {
            name: "SETTINGS",
            opening: vec![],
            part: |_| raw_frame(SETTINGS, 0, 0, &[]).repeat(100),
            is_cut: true,
        },
        Flood {
            name: "PRIORITY",
            opening: vec![],
            part: |_| raw_frame(PRIORITY, 0, 1, &[0; 5]).repeat(100),
            is_cut: true,
        },
        Flood {
            name: "WINDOW_UPDATE of the connection",
            opening: vec![],
            part: |_| raw_frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()).repeat(100),
            is_cut: true,
        },
        Flood {
            name: "WINDOW_UPDATE of a stream",
            opening: headers(0, 1, "/silent"),
            part: |_| raw_frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes()).repeat(100),
            is_cut: true,
        },
        // CVE-2019-9511: each wants a byte of the answer in a frame of its own.
        Flood {
            name: "WINDOW_UPDATE for one byte of an answer",
            opening: [
                raw_frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]),
                headers(END_STREAM, 1, "/large"),
            ]
            .concat(),
            part: |_| raw_frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes()).repeat(100),
            is_cut: true,
        },
        Flood {
            name: "DATA of padding alone",
            opening: headers(0, 1, "/silent"),
            part: |_| raw_frame(DATA, PADDED, 1, &[1, 0]).repeat(100),
            is_cut: true,
        },
        Flood {
            name: "fields of no byte",
            opening: vec![],
            part: |number| raw_frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &[]),
            is_cut: true,
        },
        Flood {
            name: "CONTINUATION of one byte",
            opening: raw_frame(HEADERS, 0, 1, &request_fields("GET", "/")),
            part: |number| {
                let field = [literal("x", ""), vec![0, 1]].concat();
                raw_frame(
                    CONTINUATION,
                    0,
                    1,
                    &field[number as usize % field.len()..][..1],
                )
            },
            is_cut: true,
        },
        Flood {
            name: "RST_STREAM of streams that have ended",
            opening: headers(END_STREAM, 1, "/silent"),
            part: |_| raw_frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]).repeat(100),
            is_cut: true,
        },
        Flood {
            name: "RST_STREAM of streams that never were",
            opening: vec![],
            part: |number| raw_frame(RST_STREAM, 0, 2 * number + 1, &[0, 0, 0, 8]),
            is_cut: true,
        },
        Flood {
            name: "frames that nobody knows",
            opening: vec![],
            part: |_| raw_frame(0xfa, 0, 0, &[0; 8]).repeat(100),
            is_cut: true,
        },
    ];
    let origin = Origin::start(|request| match request.target() {
        "/silent" => Answer::silence(),
        "/large" => {
            Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n").pattern(1 << 20)
        }
        _ => Answer::text("hello"),
    })
    .await;
    let site = Site::start(origin, |config| config).await;
    let mut other = site.client().await;
    assert_eq!(other.get("/").await.0.status(), 200);
    let before = site.prusik.anonymous_kib();
    let mut cut = 0;
    for flood in floods {
        let raw = site.tls().await;
        let (mut read, mut write) = tokio::io::split(raw);
        // Nothing that is answered stands in the way.
        let mut reading = tokio::spawn(async move {
            let mut heard = [0; 4096];
            while read.read(&mut heard).await.is_ok_and(|count| count > 0) {}
        });
        let name = flood.name;
        let sending = async {
            let opening = [PREFACE, &raw_frame(SETTINGS, 0, 0, &[]), &flood.opening].concat();
            write.write_all(&opening).await?;
            let mut sent = 0;
            for number in 0.. {
                let part = (flood.part)(number);
                sent += part.len();
                if sent > MOST {
                    break;
                }
                write.write_all(&part).await?;
            }
            write.flush().await
        };
        let sent = within(name, sending).await;
        match flood.is_cut {
            // The kernel's buffers may take all of it. Then the end of the connection shows.
            true if sent.is_ok() => within(name, &mut reading).await.expect("no panic"),
            true => {}
            false => assert!(sent.is_ok(), "{name}: {sent:?}"),
        }
        assert_eq!(other.get("/").await.0.status(), 200, "beside {name}");
        let grown = site.prusik.anonymous_kib().saturating_sub(before);
        assert!(grown < 16 * 1024, "{name} costs {grown} KiB");
        drop(write);
        reading.abort();
        if flood.is_cut {
            cut += 1;
            eventually(format!("a line for {name}"), async || {
                let log = site.prusik.access_log();
                let lines = log.iter().filter(|entry| entry["path"] == "");
                lines.count() == cut
            })
            .await;
        }
    }
}
