//! What an exchange costs that stands still: at most 96 KiB of memory, by HTTP/1.1 and by a stream
//! of HTTP/2, in both directions, from its beginning or in the middle of a fast transfer.

use crate::support;
use crate::support::http2::{Http2Site, NAME, PREFACE, SETTINGS, raw_frame, request_fields};
use crate::support::{Answer, Config, Origin, Prusik, eventually, listen, within};
use bytes::Bytes;
use http::Request;
use socket2::SockRef;
use std::sync::LazyLock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// At the same time.
const EXCHANGES: u64 = 200;

/// Each of them.
const MOST_KIB: u64 = 96;

const GET: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";

async fn large_answers() -> Origin {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n";
    Origin::start(move |_| Answer::raw(head).pattern(1 << 30)).await
}

/// Accepts, and reads not even the head to its end.
fn takes_nothing(listener: TcpListener) {
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket.read(&mut [0; 10]).await;
            held.push(socket);
        }
    });
}

/// Waits until each has cost no more than it may for a while: what was freed on the way there is
/// given back a moment later.
async fn bounded(what: &str, prusik: &Prusik, before: u64) {
    let each = || prusik.anonymous_kib().saturating_sub(before) / EXCHANGES;
    let mut steady = 0;
    let mut looks = 0;
    eventually(format!("{what}: at most {MOST_KIB} KiB each"), async || {
        looks += 1;
        if looks % 100 == 0 {
            println!("{what}: {} KiB each now", each());
        }
        steady = if each() <= MOST_KIB { steady + 1 } else { 0 };
        steady > 200
    })
    .await;
    println!("{what}: {} KiB each", each());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_read_nothing_of_a_large_answer_cost_little() {
    let origin = large_answers().await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let before = prusik.anonymous_kib();
    let mut held = Vec::new();
    for _ in 0..EXCHANGES {
        let mut stream = TcpStream::connect(prusik.public())
            .await
            .expect("it listens");
        stream.write_all(GET.as_bytes()).await.expect("it is taken");
        held.push(stream);
    }
    eventually("all have asked", async || origin.open() >= held.len()).await;
    bounded("down, HTTP/1.1", &prusik, before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_to_servers_that_read_nothing_cost_little() {
    let listener = listen();
    let server = listener.local_addr().expect("it is bound");
    takes_nothing(listener);
    for (what, framing) in [
        ("up, HTTP/1.1, with a length", "Content-Length: 1073741824"),
        ("up, HTTP/1.1, in chunks", "Transfer-Encoding: chunked"),
    ] {
        let prusik = Prusik::start(Config::to(&[]).server(server)).await;
        let before = prusik.anonymous_kib();
        let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
        let mut sending = tokio::task::JoinSet::new();
        for _ in 0..EXCHANGES {
            let mut stream = TcpStream::connect(prusik.public())
                .await
                .expect("it listens");
            let head = format!("POST / HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n");
            stream
                .write_all(head.as_bytes())
                .await
                .expect("it is taken");
            let chunk = chunk.clone();
            sending.spawn(async move { while stream.write_all(&chunk).await.is_ok() {} });
        }
        eventually("all are accepted", async || {
            prusik.fds() as u64 >= 2 * EXCHANGES
        })
        .await;
        bounded(what, &prusik, before).await;
        sending.shutdown().await;
    }
}

/// What is taken before nothing more is: bodies are read by large windows by then.
const TAKEN: usize = 1536 * 1024;

/// Less for the kernel to hold: what comes before it stands still has to go through.
const KERNEL_HOLDS: usize = 64 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_stop_in_the_middle_of_a_large_answer_cost_little() {
    for (what, framing) in [
        ("down, with a length", "Content-Length: 1073741824"),
        ("down, in chunks", "Transfer-Encoding: chunked"),
    ] {
        let origin = listen();
        let server = origin.local_addr().expect("it is bound");
        sends_without_end(origin, framing);
        let prusik = Prusik::start(Config::to(&[]).server(server)).await;
        let before = prusik.anonymous_kib();
        let mut taking = tokio::task::JoinSet::new();
        for _ in 0..EXCHANGES {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket
                .set_recv_buffer_size(KERNEL_HOLDS as u32)
                .expect("it is set");
            let mut stream = socket.connect(prusik.public()).await.expect("it listens");
            taking.spawn(async move {
                stream.write_all(GET.as_bytes()).await.expect("it is taken");
                take(&mut stream, TAKEN).await;
                stream
            });
        }
        let held = taking.join_all().await;
        bounded(&format!("{what}, in the middle"), &prusik, before).await;
        drop(held);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_whose_server_stops_in_the_middle_cost_little() {
    for (what, framing) in [
        ("up, with a length", "Content-Length: 1073741824"),
        ("up, in chunks", "Transfer-Encoding: chunked"),
    ] {
        let listener = listen();
        let server = listener.local_addr().expect("it is bound");
        SockRef::from(&listener)
            .set_recv_buffer_size(KERNEL_HOLDS)
            .expect("it is set");
        let (stopped, mut stops) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let stopped = stopped.clone();
                tokio::spawn(async move {
                    take(&mut socket, TAKEN).await;
                    let _ = stopped.send(socket);
                });
            }
        });
        let prusik = Prusik::start(Config::to(&[]).server(server)).await;
        let before = prusik.anonymous_kib();
        let mut sending = tokio::task::JoinSet::new();
        for _ in 0..EXCHANGES {
            let mut stream = TcpStream::connect(prusik.public())
                .await
                .expect("it listens");
            let head = format!("POST / HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n");
            sending.spawn(async move {
                stream
                    .write_all(head.as_bytes())
                    .await
                    .expect("it is taken");
                while stream.write_all(&CHUNK).await.is_ok() {}
            });
        }
        let mut held = Vec::new();
        for _ in 0..EXCHANGES {
            held.push(stops.recv().await);
        }
        bounded(&format!("{what}, in the middle"), &prusik, before).await;
        sending.shutdown().await;
    }
}

async fn take(stream: &mut TcpStream, bytes: usize) {
    let mut part = vec![0; 64 * 1024];
    let mut left = bytes;
    while left > 0 {
        let most = left.min(part.len());
        let taken = within("more", stream.read(&mut part[..most])).await;
        left -= taken.expect("it goes on");
    }
}

/// Answers each with a body of chunks, whatever the framing says.
fn sends_without_end(listener: TcpListener, framing: &'static str) {
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = socket.read(&mut [0; 1000]).await;
                let head = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n");
                let _ = socket.write_all(head.as_bytes()).await;
                while socket.write_all(&CHUNK).await.is_ok() {}
            });
        }
    });
}

/// Of 64 KiB.
static CHUNK: LazyLock<Vec<u8>> =
    LazyLock::new(|| [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat());

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_take_nothing_of_a_large_answer_cost_little() {
    for (what, window) in [
        ("down, HTTP/2, without a window", 0_u32),
        ("down, HTTP/2, with a large window", 1 << 30),
    ] {
        let site = Http2Site::start(large_answers().await, |config| config).await;
        let mut stream = site.tls().await;
        let before = site.prusik.anonymous_kib();
        let mut settings = vec![0, 4];
        settings.extend(window.to_be_bytes());
        let more = ((1_u32 << 31) - 1 - 65_535).to_be_bytes();
        stream.write_all(PREFACE).await.expect("it is taken");
        for frame in [
            raw_frame(SETTINGS, 0, 0, &settings),
            raw_frame(support::http2::WINDOW_UPDATE, 0, 0, &more),
        ] {
            stream.write_all(&frame).await.expect("it is taken");
        }
        for number in 0..EXCHANGES as u32 {
            let fields = request_fields("GET", "/");
            let request = raw_frame(1, 5, 1 + 2 * number, &fields);
            stream.write_all(&request).await.expect("it is taken");
        }
        stream.flush().await.expect("it is taken");
        eventually("all have asked", async || {
            site.origin.open() as u64 >= EXCHANGES
        })
        .await;
        bounded(what, &site.prusik, before).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_upload_to_servers_that_read_nothing_cost_little() {
    let listener = listen();
    let server = listener.local_addr().expect("it is bound");
    takes_nothing(listener);
    let origin = Origin::start(|_| Answer::text("unused")).await;
    let site = Http2Site::start(origin, |config| {
        config
            .first("{ match: { path_prefix: /up }, upstream: deaf }")
            .upstream(format!("on_down: keep\n  deaf:\n    servers: ['{server}']"))
    })
    .await;
    let before = site.prusik.anonymous_kib();
    let mut client = site.client().await;
    let mut held = Vec::new();
    for _ in 0..EXCHANGES {
        let request = Request::post(format!("https://{NAME}/up"));
        let request = request.body(()).expect("a sound request");
        let (response, mut send) = client.begin(request, false).await;
        held.push(tokio::spawn(async move {
            let chunk = Bytes::from_static(&[b'x'; 0x10000]);
            loop {
                send.reserve_capacity(chunk.len());
                let room = std::future::poll_fn(|cx| send.poll_capacity(cx)).await;
                let Some(Ok(room)) = room else { break };
                if send
                    .send_data(chunk.slice(..room.min(chunk.len())), false)
                    .is_err()
                {
                    break;
                }
            }
            drop(response);
        }));
    }
    eventually("all are there", async || {
        site.prusik.fds() as u64 >= EXCHANGES
    })
    .await;
    bounded("up, HTTP/2", &site.prusik, before).await;
}
