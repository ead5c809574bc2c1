//! Every exchange has a deadline at every moment, whatever is awaited in it: a server that stops
//! taking a body, a client that takes nothing of an answer, prusik's own answers included. And no
//! body that is being written stops the response from being read.

use crate::support;
use crate::support::http2::{Http2Site, PREFACE, SETTINGS, raw_frame, request_fields};
use crate::support::{Client, Config, Origin, Prusik, eventually, listen, within};
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt, split};
use tokio::net::{TcpListener, TcpStream, UnixStream};

/// Reads `taken` bytes of each connection and then nothing more, without closing it.
fn stops_taking(listener: TcpListener, taken: usize) {
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut left = taken;
            let mut bytes = vec![0; 64 * 1024];
            while left > 0 {
                match socket.read(&mut bytes).await {
                    Ok(read) if read > 0 => left = left.saturating_sub(read),
                    _ => break,
                }
            }
            held.push(socket);
        }
    });
}

/// Sends until nothing more is taken; what has come back when the connection has ended.
async fn upload(prusik: &Prusik, framing: &str) -> String {
    let mut stream = TcpStream::connect(prusik.public())
        .await
        .expect("it listens");
    let head = format!("POST /up HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n");
    stream
        .write_all(head.as_bytes())
        .await
        .expect("it is taken");
    let (mut read, mut write) = split(stream);
    let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
    let sending = tokio::spawn(async move { while write.write_all(&chunk).await.is_ok() {} });
    let mut answer = Vec::new();
    // A reset after the answer is as good an end as any.
    let _ = within("the end", read.read_to_end(&mut answer)).await;
    sending.abort();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_server_that_stops_taking_an_upload_is_504_after_idle_and_logged() {
    for taken in [1, 1_000_000] {
        let listener = listen();
        let server = listener.local_addr().expect("it is bound");
        stops_taking(listener, taken);
        let config = Config::to(&[]).server(server);
        let prusik = Prusik::start(config.route("timeouts: { idle: 1s, response: 20s }")).await;
        for framing in ["Content-Length: 1000000000", "Transfer-Encoding: chunked"] {
            let answer = upload(&prusik, framing).await;
            assert!(answer.starts_with("HTTP/1.1 504 "), "{framing}: {answer}");
        }
        let told = |entry: &serde_json::Value| {
            let error = entry["error"].as_str().unwrap_or_default();
            entry["status"] == 504 && error.contains("the server took nothing of the request")
        };
        eventually("each has its line", async || {
            prusik
                .access_log()
                .iter()
                .filter(|entry| told(entry))
                .count()
                == 2
        })
        .await;
    }
}

#[tokio::test]
async fn a_server_that_takes_nothing_for_its_upstreams_stall_is_504() {
    let listener = listen();
    let server = listener.local_addr().expect("it is bound");
    stops_taking(listener, 1);
    let config = Config::to(&[]).server(server).upstream("stall: 1s");
    let prusik = Prusik::start(config.route("timeouts: { idle: 1h, response: 1h }")).await;
    let answer = upload(&prusik, "Content-Length: 1000000000").await;
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
}

/// Reads a piece and sends it back before it reads the next, as simple servers do.
fn echoes(listener: TcpListener) {
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut seen = Vec::new();
                let mut bytes = vec![0; 64 * 1024];
                let end = loop {
                    let read = socket.read(&mut bytes).await.unwrap_or(0);
                    if read == 0 {
                        return;
                    }
                    seen.extend_from_slice(&bytes[..read]);
                    let end = seen.windows(4).position(|window| window == b"\r\n\r\n");
                    if let Some(end) = end {
                        break end + 4;
                    }
                };
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {ECHOED}\r\nConnection: close\r\n\r\n"
                );
                let mut back = [head.as_bytes(), &seen[end..]].concat();
                while socket.write_all(&back).await.is_ok() {
                    let read = socket.read(&mut bytes).await.unwrap_or(0);
                    if read == 0 {
                        return;
                    }
                    back = bytes[..read].to_vec();
                }
            });
        }
    });
}

const ECHOED: usize = 8 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_duplex_exchanges_never_stand_still() {
    let listener = listen();
    let server = listener.local_addr().expect("it is bound");
    echoes(listener);
    let config = Config::to(&[]).server(server);
    let prusik = Prusik::start(config.route("timeouts: { idle: 20s }")).await;
    let exchange = async || {
        let stream = TcpStream::connect(prusik.public())
            .await
            .expect("it listens");
        let (mut read, mut write) = split(stream);
        let head = format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {ECHOED}\r\n\r\n");
        let sending = tokio::spawn(async move {
            write.write_all(head.as_bytes()).await?;
            let piece: Vec<u8> = (0..64 * 1024).map(|number| (number % 251) as u8).collect();
            for _ in 0..ECHOED / piece.len() {
                write.write_all(&piece).await?;
            }
            std::io::Result::Ok(write)
        });
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(within("the head", read.read_u8()).await.expect("a byte"));
        }
        assert!(head.starts_with(b"HTTP/1.1 200"), "{head:?}");
        let mut back = vec![0; ECHOED];
        within("what was sent", read.read_exact(&mut back))
            .await
            .expect("all of it");
        let intact = |(number, byte): (usize, &u8)| *byte == (number % (64 * 1024) % 251) as u8;
        assert!(back.iter().enumerate().all(intact));
        sending.await.expect("no panic").expect("all was taken");
    };
    for _ in 0..5 {
        join_all((0..4).map(|_| exchange())).await;
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_of_prusiks_own_answers_is_cut() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("web.sock");
    let prusik = Prusik::start(format!(
        "listeners: [{{ listen: 'unix:{}', limits: {{ stall: 1s, idle: 1h }} }}]\n\
         upstreams: {{ u: {{ servers: ['127.0.0.1:1'] }} }}\n\
         routes:\n  - {{ match: {{ path_prefix: /old }}, redirect: {{ to: /new }} }}\n",
        path.display()
    ))
    .await;
    for target in ["/none", "/old"] {
        let mut stream = UnixStream::connect(&path).await.expect("it listens");
        let requests = format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n").repeat(100);
        // Until its end: a stream that nobody ends would take no more at some time.
        let sending = async { while stream.write_all(requests.as_bytes()).await.is_ok() {} };
        within("the end of the connection", sending).await;
        let said = "the client took nothing of its answer for as long as it may";
        prusik
            .wait_log(said, |entry| {
                entry["error"] == said && entry["path"] == target
            })
            .await;
    }
}

#[tokio::test]
async fn streams_that_take_nothing_of_prusiks_own_answers_are_ended() {
    let origin = Origin::start(|_| support::Answer::text("hello")).await;
    let site = Http2Site::start(origin, |config| {
        config
            .first("{ match: { path_prefix: /old }, respond: { status: 410, body: gone } }")
            .listener("limits: { stall: 1s }")
    })
    .await;
    let mut stream = site.tls().await;
    let no_window = raw_frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    stream.write_all(PREFACE).await.expect("it is taken");
    stream.write_all(&no_window).await.expect("it is taken");
    for number in 0..100 {
        let fields = request_fields("GET", "/old");
        let request = raw_frame(1, 5, 1 + 2 * number, &fields);
        stream.write_all(&request).await.expect("it is taken");
    }
    eventually("each has its line", async || {
        let log = site.prusik.access_log();
        let ended = |entry: &&serde_json::Value| {
            let error = entry["error"].as_str().unwrap_or_default();
            error.contains("the client took nothing")
        };
        log.iter().filter(ended).count() == 100
    })
    .await;
    // The connection is there for others.
    let (answer, _) = site.client().await.get("/").await;
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_a_servers_answer_is_cut_after_stall_or_idle() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n";
    let origin = Origin::start(move |_| support::Answer::raw(head).pattern(1 << 30)).await;
    for (limits, timeouts) in [("stall: 1s", "idle: 1h"), ("stall: 1h", "idle: 1s")] {
        let config = Config::to(&[&origin]).listener(format!("limits: {{ {limits} }}"));
        let prusik = Prusik::start(config.route(format!("timeouts: {{ {timeouts} }}"))).await;
        let mut client = Client::connect(prusik.public()).await;
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
        let said = "the client took nothing of its answer for as long as it may";
        prusik.wait_log(said, |entry| entry["error"] == said).await;
    }
    eventually("the server has none", async || origin.open() == 0).await;
}

#[tokio::test]
async fn callers_that_read_nothing_or_byte_by_byte_do_not_shut_the_admin_api() {
    let origin = Origin::start(|_| support::Answer::text("hello")).await;
    let admin = "admin: { listen: '127.0.0.1:0' }";
    let prusik = Prusik::start(Config::to(&[&origin]).top(admin)).await;
    let calls = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".repeat(500);
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..64 {
        let stream = TcpStream::connect(prusik.admin())
            .await
            .expect("it listens");
        let (mut read, mut write) = stream.into_split();
        write
            .write_all(calls.as_bytes())
            .await
            .expect("it is taken");
        let calls = calls.clone();
        callers.spawn(async move {
            let calling = async { while write.write_all(calls.as_bytes()).await.is_ok() {} };
            let reading = async {
                // The pace is what is tested.
                let mut pace = tokio::time::interval(std::time::Duration::from_millis(100));
                while number % 2 == 0 && read.read(&mut [0]).await.is_ok_and(|read| read > 0) {
                    pace.tick().await;
                }
            };
            tokio::join!(calling, reading);
        });
    }
    eventually("others are answered", async || {
        let mut stream = TcpStream::connect(prusik.admin())
            .await
            .expect("it listens");
        let call = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
        stream.write_all(call).await.expect("it is taken");
        let mut answer = Vec::new();
        let reading = stream.read_to_end(&mut answer);
        let read = tokio::time::timeout(std::time::Duration::from_secs(1), reading).await;
        read.is_ok_and(|read| read.is_ok()) && answer.starts_with(b"HTTP/1.1 200")
    })
    .await;
}
