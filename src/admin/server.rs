//! Serves the API on a socket: HTTP/1.1, one task for each connection, and limits for each
//! connection.
//!
//! No paths: those are in [`super::api`].

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use log::{debug, error, warn};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};

use super::Control;
use super::api::Api;
use super::guard::Access;
use super::stall::{Bounds, StallBound};
use crate::limits::descriptors::Descriptor;
use crate::net::{Accepted, AsyncListener};
use crate::observe::repeated::{self, Kind};

/// Further connections wait in the kernel until one of these has its answer.
const CONNECTIONS: usize = 64;
/// How long a whole head may take. An idle connection is closed after this time.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// A caller that takes nothing of its answer for this long is given up, and one that takes it very
/// slowly too: the largest answer, some megabytes of metrics, takes a minute on a slow line.
const BOUNDS: Bounds = Bounds {
    stall: Duration::from_secs(10),
    answer: Duration::from_secs(60),
};
/// Large enough for the largest head.
const HEAD_SIZE: usize = 32 * 1024;
/// Without descriptors, a new attempt at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long calls that are under way may take at a stop. One of them may be the order to stop.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// How long a caller that has connected just before a stop has for its call. Another process may
/// already serve the same socket, but cannot answer on this connection.
const FIRST_CALL: Duration = Duration::from_secs(1);

/// How far the end of serving has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Serving {
    Serves,
    /// No more connections are accepted. Open connections may still send calls.
    AcceptsNoMore,
    /// Calls that are under way are answered, then serving ends.
    Ends,
}

/// Returns when `serving` says so (or its sender is gone) and all calls under way are answered.
/// `accepts_no_more` is dropped when no more connections are accepted.
pub async fn serve(
    acceptor: AsyncListener,
    control: Arc<dyn Control>,
    access: Access,
    mut serving: watch::Receiver<Serving>,
    accepts_no_more: oneshot::Sender<Infallible>,
) {
    let api = Api::new(control, access);
    let mut connections = JoinSet::new();
    let crowded = watch::Sender::new(false);
    loop {
        // While all slots are taken, no connection is kept between two calls.
        crowded.send_if_modified(|crowded| {
            let is_full = connections.len() >= CONNECTIONS;
            std::mem::replace(crowded, is_full) != is_full
        });
        let slots = Slots {
            serving: serving.clone(),
            crowded: crowded.subscribe(),
        };
        tokio::select! {
            () = has_come_to(&mut serving, Serving::AcceptsNoMore) => break,
            Some(ended) = connections.join_next() => report(ended),
            accepted = acceptor.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok(Accepted::Tcp(stream, ends)) => {
                    let peer = ends.map(|(peer, _)| peer.to_string());
                    let api = api.for_caller(peer.unwrap_or_default());
                    connections.spawn(converse(stream, api, slots));
                }
                Ok(Accepted::Unix(stream)) => {
                    let api = api.for_caller(peer_of(&stream));
                    connections.spawn(converse(stream, api, slots));
                }
                Err(error) => {
                    let what = "admin: cannot accept";
                    repeated::warn(Kind::of(what), format!("{what}: {error}"));
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop((acceptor, accepts_no_more));
    loop {
        tokio::select! {
            () = has_come_to(&mut serving, Serving::Ends) => break,
            Some(ended) = connections.join_next() => report(ended),
        }
    }
    let all_ended = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    if timeout(STOP_GRACE, all_ended).await.is_err() {
        warn!("admin: calls were still in flight after {STOP_GRACE:?}");
    }
    connections.shutdown().await;
}

/// The user and process that have connected to a unix socket, from the kernel.
fn peer_of(stream: &UnixStream) -> String {
    match stream.peer_cred() {
        Ok(peer) => {
            let pid = peer.pid().map(|pid| format!(" (pid {pid})"));
            format!(
                "uid {}{} by unix socket",
                peer.uid(),
                pid.unwrap_or_default()
            )
        }
        Err(_) => "somebody by unix socket".to_owned(),
    }
}

/// What a connection learns of the others.
struct Slots {
    serving: watch::Receiver<Serving>,
    /// Whether every slot is taken.
    crowded: watch::Receiver<bool>,
}

/// Serves the calls of one connection until it closes.
async fn converse<S>(stream: S, api: Api, mut slots: Slots)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let _descriptor = Descriptor::hold();
    let asked = Notify::new();
    let service = service_fn(|request| {
        asked.notify_one();
        let api = &api;
        async move { Ok::<_, Infallible>(api.answer(request).await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_DEADLINE)
            .max_buf_size(HEAD_SIZE)
            .serve_connection(TokioIo::new(StallBound::new(stream, BOUNDS)), service)
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = last_call(&mut slots, &asked) => {
            // hyper closes the connection if no call has begun, and answers one that has.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    // A caller's mistake (a bad head, a reset) ends only its own connection.
    if let Err(error) = ended {
        debug!("admin: a connection broke: {error}");
    }
}

/// Returns when no more connections are accepted or all slots are taken, after the first call or
/// the time for it.
async fn last_call(slots: &mut Slots, asked: &Notify) {
    tokio::select! {
        () = has_come_to(&mut slots.serving, Serving::AcceptsNoMore) => {}
        Ok(_) = slots.crowded.wait_for(|crowded| *crowded) => {}
    }
    let _ = timeout(FIRST_CALL, asked.notified()).await;
}

async fn has_come_to(serving: &mut watch::Receiver<Serving>, wanted: Serving) {
    let _ = serving.wait_for(|serving| *serving >= wanted).await;
}

fn report(ended: Result<(), JoinError>) {
    if let Err(panic) = ended {
        error!("admin: a connection ended badly: {panic}");
    }
}

#[cfg(test)]
mod tests {
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
            oneshot::channel().0,
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
}
