//! A client's connection, as Pingora reads and writes it.
//!
//! Pingora reads as much as there is, whenever it can; what it has read too early is lost or
//! kills the request. So this stream gives it no more than it can use:
//!
//! - a read of a request head ends at the head's blank line: what follows is kept for later;
//! - while a request without a body is being served, or a handshake awaits its answer, reading is
//!   [held](Reading::Held): bytes wait here (bounded), and only the client's going is noticed.
//!
//! It also carries the deadline of the exchange: Pingora polls its client all the time it waits
//! for a server, so one lazily moved timer here replaces a timer for each read and write there.
//! (Pingora keeps each of its timers until the time it was set for, used or not: with timeouts of
//! 3000 s that was 4 KiB a second of memory, for 50 minutes.)

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, Sleep};
use tokio_util::either::Either;

use super::head::HeadEnd;

pub type Socket = Either<TcpStream, UnixStream>;

/// Holds a response's head and a small body together in one packet.
const WRITE_BUFFER: usize = 1460;

/// What a client may send ahead while it is held.
const HELD_MAX: usize = 64 * 1024;

/// How Pingora's next reads are to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reading {
    /// A request head is awaited: no byte past its blank line.
    Head = 0,
    /// Nothing is awaited: bytes wait, only the end of the connection is told.
    Held = 1,
    /// A body or an upgraded session: everything as it comes.
    Open = 2,
}

/// What the proxy's phases know of a connection, and how they steer its stream.
#[derive(Debug)]
pub struct Connection {
    /// Which of the bound listeners it came in on.
    pub listener: usize,
    /// `None` on a unix socket.
    pub peer: Option<SocketAddr>,
    pub local: Option<SocketAddr>,
    born: Instant,
    reading: AtomicU8,
    /// Milliseconds since `born`; 0: none.
    deadline: AtomicU64,
    /// How far each byte that moves puts the deadline off, in milliseconds.
    within: AtomicU64,
    /// As `deadline`, but nothing puts it off.
    end: AtomicU64,
    timed_out: AtomicBool,
}

impl Connection {
    fn new(listener: usize, socket: &Socket) -> Self {
        let (peer, local) = match socket {
            Either::Left(tcp) => (tcp.peer_addr().ok(), tcp.local_addr().ok()),
            Either::Right(_) => (None, None),
        };
        Self {
            listener,
            peer,
            local,
            born: Instant::now(),
            reading: AtomicU8::new(Reading::Head as u8),
            deadline: AtomicU64::new(0),
            within: AtomicU64::new(0),
            end: AtomicU64::new(0),
            timed_out: AtomicBool::new(false),
        }
    }

    pub fn set_reading(&self, reading: Reading) {
        self.reading.store(reading as u8, Relaxed);
    }

    /// From now on the exchange fails when for this long nothing moves between us and the client,
    /// and nobody sets another deadline.
    pub fn set_deadline(&self, within: Duration) {
        self.within
            .store((within.as_millis() as u64).max(1), Relaxed);
        self.put_off();
    }

    /// From now on the exchange fails after this time, whatever moves.
    pub fn set_end(&self, after: Duration) {
        self.end
            .store(self.millis_now() + after.as_millis() as u64, Relaxed);
    }

    pub fn clear_deadline(&self) {
        self.within.store(0, Relaxed);
        self.deadline.store(0, Relaxed);
        self.end.store(0, Relaxed);
    }

    /// A byte has moved.
    fn put_off(&self) {
        let within = self.within.load(Relaxed);
        if within > 0 {
            self.deadline.store(self.millis_now() + within, Relaxed);
        }
    }

    fn millis_now(&self) -> u64 {
        self.born.elapsed().as_millis() as u64
    }

    /// Whether the deadline has struck.
    pub fn timed_out(&self) -> bool {
        self.timed_out.load(Relaxed)
    }

    fn reading(&self) -> Reading {
        match self.reading.load(Relaxed) {
            0 => Reading::Head,
            1 => Reading::Held,
            _ => Reading::Open,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let set = [&self.deadline, &self.end].map(|at| at.load(Relaxed));
        let first = set.into_iter().filter(|&millis| millis > 0).min()?;
        Some(self.born + Duration::from_millis(first))
    }
}

#[derive(Debug)]
pub struct ClientStream {
    io: BufWriter<Socket>,
    connection: Arc<Connection>,
    head: HeadEnd,
    /// Read from the socket, not yet given to Pingora.
    ahead: BytesMut,
    ended: bool,
    timer: Option<Pin<Box<Sleep>>>,
}

impl ClientStream {
    pub fn new(listener: usize, socket: Socket) -> Self {
        Self {
            connection: Arc::new(Connection::new(listener, &socket)),
            io: BufWriter::with_capacity(WRITE_BUFFER, socket),
            head: HeadEnd::default(),
            ahead: BytesMut::new(),
            ended: false,
            timer: None,
        }
    }

    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Fills `ahead` while nothing may be given out; ready only when the client is gone.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.ahead.len() < HELD_MAX && !self.ended {
            let mut chunk = [0; 4096];
            let mut buf = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf))?;
            self.ended = buf.filled().is_empty();
            self.ahead.extend_from_slice(buf.filled());
        }
        // Bytes that wait are to be read before the end is told.
        if self.ended && self.ahead.is_empty() {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    fn poll_ahead_or_socket(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let part = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead[..part]);
            self.ahead.advance(part);
            if self.ahead.is_empty() {
                self.ahead = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }

    /// Ready when the deadline has struck.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(deadline) = self.connection.deadline() else {
                return Poll::Pending;
            };
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            // Moved only when it fires or must fire earlier: most exchanges end long before.
            if timer.is_elapsed() || deadline < timer.deadline() {
                timer.as_mut().reset(deadline);
            }
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
        }
    }
}

impl ClientStream {
    /// What was polled, unless it is pending and the exchange's time is up.
    fn or_deadline<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() || self.poll_deadline(cx).is_pending() {
            return polled;
        }
        self.connection.clear_deadline();
        self.connection.timed_out.store(true, Relaxed);
        let message = "the exchange made no progress in the time it had";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)))
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        let polled = match stream.connection.reading() {
            Reading::Held => stream.poll_held(cx),
            Reading::Open => stream.poll_ahead_or_socket(cx, buf),
            Reading::Head => {
                let before = buf.filled().len();
                let polled = stream.poll_ahead_or_socket(cx, buf);
                if let Some(end) = stream.head.feed(&buf.filled()[before..]) {
                    let mut behind = BytesMut::from(&buf.filled()[before + end..]);
                    buf.set_filled(before + end);
                    behind.unsplit(stream.ahead.split());
                    stream.ahead = behind;
                }
                polled
            }
        };
        if polled.is_ready() {
            stream.connection.put_off();
            return polled;
        }
        // Pingora is about to wait. It flushes at a response's end only: what is written so far
        // must not wait with it, or a slow answer would come late and an event stream never.
        if !stream.io.buffer().is_empty()
            && let Poll::Ready(Err(error)) = Pin::new(&mut stream.io).poll_flush(cx)
        {
            return Poll::Ready(Err(error));
        }
        stream.or_deadline(cx, Poll::Pending)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        if polled.is_ready() {
            self.connection.put_off();
        }
        self.get_mut().or_deadline(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        self.get_mut().or_deadline(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for ClientStream {
    async fn shutdown(&mut self) {
        if let Err(error) = self.io.shutdown().await {
            log::debug!("closing a client's connection: {error}");
        }
    }
}

impl UniqueID for ClientStream {
    fn id(&self) -> UniqueIDType {
        match self.io.get_ref() {
            Either::Left(tcp) => tcp.as_raw_fd(),
            Either::Right(unix) => unix.as_raw_fd(),
        }
    }
}

impl Ssl for ClientStream {}

impl Peek for ClientStream {}

impl GetTimingDigest for ClientStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for ClientStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for ClientStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}
