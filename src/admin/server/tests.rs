use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

use super::super::fake::Fake;
use super::*;
use crate::net::{Inherited, ListenAddress, ListeningSocket};

struct Running {
    socket: ListeningSocket,
    serving: watch::Sender<Serving>,
    task: JoinHandle<()>,
    control: Arc<Fake>,
}

fn start(listen: &ListenAddress) -> Running {
    let socket = super::super::bind(listen, &mut Inherited::default()).unwrap();
    let control = Arc::new(Fake::default());
    let (serving, served) = watch::channel(Serving::Serves);
    let task = tokio::spawn(serve(
        socket.acceptor().unwrap(),
        Arc::clone(&control) as _,
        Access::new(None),
        served,
        Milestones {
            accepts_no_more: oneshot::channel().0,
            hears_no_more: oneshot::channel().0,
        },
    ));
    Running {
        socket,
        serving,
        task,
        control,
    }
}

fn on_tcp() -> (Running, SocketAddr) {
    let running = start(&ListenAddress::Tcp("127.0.0.1:0".parse().unwrap()));
    let ListenAddress::Tcp(address) = *running.socket.address() else {
        panic!("not by TCP: {:?}", running.socket);
    };
    (running, address)
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, call: &str) -> String {
    stream.write_all(call.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A reset after the answer is as good an end as any.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_call_by_tcp_is_answered_as_json() {
    let (_running, address) = on_tcp();
    let call = "GET /api/v1/status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let answer = exchange(TcpStream::connect(address).await.unwrap(), call).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    for field in [
        "content-type: application/json\r\n",
        "cache-control: no-store\r\n",
        "x-content-type-options: nosniff\r\n",
    ] {
        assert!(answer.contains(field), "{answer}");
    }
    assert!(answer.contains("\"state\":\"serving\""), "{answer}");
}

#[tokio::test]
async fn garbage_and_endless_heads_are_refused() {
    let (_running, address) = on_tcp();
    let mut endless = "GET /healthz HTTP/1.1\r\nx: ".to_owned();
    endless.push_str(&"a".repeat(HEAD_SIZE));
    for (call, status) in [("\x16\x03\x01 what\r\n\r\n", "400"), (&endless, "431")] {
        let answer = exchange(TcpStream::connect(address).await.unwrap(), call).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_dawdles_is_cut_off() {
    let (_running, address) = on_tcp();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /healthz HT").await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed() {
    let (_running, address) = on_tcp();
    let stream = TcpStream::connect(address).await.unwrap();
    let call = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let answer = exchange(stream, call).await;
    assert!(answer.ends_with("ok"), "{answer}");
}

#[tokio::test]
async fn a_stop_waits_for_the_call_in_flight() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let running = start(&ListenAddress::Unix(path.clone()));
    let stream = UnixStream::connect(&path).await.unwrap();
    // It keeps its connection: the stop must not wait until it has idled enough.
    let mut idle = UnixStream::connect(&path).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    idle.readable().await.unwrap();
    let call = "POST /api/v1/reload HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let reload = tokio::spawn(async move { exchange(stream, call).await });
    running.control.reload.began.notified().await;
    running.serving.send_replace(Serving::Ends);
    tokio::task::yield_now().await;
    assert!(!running.task.is_finished());
    running.control.reload.may_end.notify_one();
    let answer = reload.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    running.task.await.unwrap();
}

#[tokio::test]
async fn a_call_goes_on_while_nobody_more_is_accepted() {
    let (running, address) = on_tcp();
    let stream = TcpStream::connect(address).await.unwrap();
    let call = "POST /api/v1/reload HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let reload = tokio::spawn(async move { exchange(stream, call).await });
    running.control.reload.began.notified().await;
    running.serving.send_replace(Serving::AcceptsNoMore);
    let mut late = TcpStream::connect(address).await.unwrap();
    let asked = late.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n");
    asked.await.unwrap();
    let answer = timeout(STOP_GRACE / 10, late.read(&mut [0])).await;
    assert!(answer.is_err(), "it waits for whoever accepts next");
    running.control.reload.may_end.notify_one();
    assert!(reload.await.unwrap().starts_with("HTTP/1.1 200"));
    assert!(!running.task.is_finished());
    running.serving.send_replace(Serving::Ends);
    running.task.await.unwrap();
}

#[tokio::test]
async fn who_has_connected_before_a_stop_may_still_ask() {
    let (running, address) = on_tcp();
    let mut fresh = TcpStream::connect(address).await.unwrap();
    // Connections are accepted in their order: with this one answered, the other is in.
    let call = "GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    exchange(TcpStream::connect(address).await.unwrap(), call).await;
    running.serving.send_replace(Serving::Ends);
    // So much that a server that hangs up has done so.
    let mut byte = [0];
    let hung_up = timeout(FIRST_CALL / 10, fresh.read(&mut byte)).await;
    assert!(hung_up.is_err(), "{hung_up:?}");
    let keeps = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let answer = exchange(fresh, keeps).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    running.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_a_moment_for_who_asks_nothing() {
    let (running, address) = on_tcp();
    let silent = TcpStream::connect(address).await.unwrap();
    let call = "GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    exchange(TcpStream::connect(address).await.unwrap(), call).await;
    let told = tokio::time::Instant::now();
    running.serving.send_replace(Serving::Ends);
    running.task.await.unwrap();
    assert!(told.elapsed() < 2 * FIRST_CALL);
    drop(silent);
}

#[tokio::test]
async fn a_reload_goes_on_when_its_caller_hangs_up() {
    let (running, address) = on_tcp();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let call = b"POST /api/v1/reload HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(call).await.unwrap();
    running.control.reload.began.notified().await;
    drop(stream);
    running.control.reload.may_end.notify_one();
    running.control.reload.ended.notified().await;
}

#[tokio::test]
async fn beyond_the_limit_callers_wait_their_turn() {
    let (running, address) = on_tcp();
    let call = "POST /api/v1/reload HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut holders = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(address).await.unwrap();
        holders.push(tokio::spawn(exchange(stream, call)));
        running.control.reload.began.notified().await;
    }
    let late = TcpStream::connect(address).await.unwrap();
    let call = "GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let late = tokio::spawn(exchange(late, call));
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert!(!late.is_finished());
    running.control.reload.may_end.notify_one();
    let answer = late.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn callers_that_keep_their_connections_shut_nobody_out() {
    let (_running, address) = on_tcp();
    let mut holders = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .await
            .unwrap();
        let mut answer = [0; 15];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        holders.push(stream);
    }
    let asked = tokio::time::Instant::now();
    let call = "GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let answer = exchange(TcpStream::connect(address).await.unwrap(), call).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(asked.elapsed() <= 2 * FIRST_CALL);
}

/// What hyper and the sockets have room for is soon full.
#[tokio::test(start_paused = true)]
async fn callers_that_take_their_answers_slowly_shut_nobody_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let _running = start(&ListenAddress::Unix(path.clone()));
    let calls = "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(1000);
    let mut slow = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(calls.as_bytes()).await.unwrap();
        slow.spawn(async move {
            // So much that it is seen that it takes something.
            let mut part = vec![0; 180 * 1024];
            while stream.read_exact(&mut part).await.is_ok() {
                sleep(BOUNDS.stall / 2).await;
            }
        });
    }
    let asked = tokio::time::Instant::now();
    let call = "GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let answer = exchange(UnixStream::connect(&path).await.unwrap(), call).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let waited = asked.elapsed();
    assert!(waited <= BOUNDS.answer + BOUNDS.stall, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_comes_byte_by_byte_is_cut_off() {
    let (_running, address) = on_tcp();
    let head = "GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: ".to_owned();
    let drain = "POST /api/v1/upstreams/u/servers/127.0.0.1:1/drain HTTP/1.1\r\n\
                 host: localhost\r\ncontent-length: 1000\r\n\r\n"
        .to_owned();
    let unread = "GET /healthz HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n";
    for start in [head, drain, unread.to_owned()] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let begun = tokio::time::Instant::now();
        stream.write_all(start.as_bytes()).await.unwrap();
        while stream.write_all(b" ").await.is_ok() {
            sleep(Duration::from_millis(500)).await;
        }
        let lasted = begun.elapsed();
        assert!(lasted <= 2 * HEAD_DEADLINE, "{start:?}: {lasted:?}");
    }
}
