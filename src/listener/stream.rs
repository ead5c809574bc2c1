//! A client's connection, as Pingora reads and writes it.
//!
//! Pingora reads as much as there is, whenever it can; what it has read too early is lost or
//! kills the request. So this stream gives it no more than it can use:
//!
//! - a read of a request head ends at the head's blank line: what follows is kept for later;
//! - while a request without a body is being served, or a handshake awaits its answer, reading is
//!   [held](Reading::Held): bytes wait here (bounded), and only the client's going is noticed.
//!
//! - once a handshake's 101 is out, or when an idle connection is to move to another process, the
//!   socket [leaves](ClientEnd): to Pingora the client has gone then.
//!
//! It also carries the deadline of the exchange: Pingora polls its client all the time it waits
//! for a server, so one lazily moved timer here replaces a timer for each read and write there.
//! (Pingora keeps each of its timers until the time it was set for, used or not: with timeouts of
//! 3000 s that was 4 KiB a second of memory, for 50 minutes.)

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
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
use tokio::time::{Instant, Sleep};

use super::head::HeadEnd;
use crate::session::Upgraded;
use crate::session::transport::{Security, Transport};

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
    /// A 101 is being written: behind it the socket leaves.
    Leave = 3,
}

/// A client's socket that has left Pingora.
#[derive(Debug)]
pub struct ClientEnd {
    pub transport: Transport,
    /// Read from it, and not used yet.
    pub early: BytesMut,
    /// The client sends nothing more.
    pub ended: bool,
}

/// What the proxy's phases know of a connection, and how they steer its stream.
#[derive(Debug)]
pub struct Connection {
    /// Which of the bound listeners it came in on.
    pub listener: usize,
    /// `None` on a unix socket.
    pub peer: Option<SocketAddr>,
    pub local: Option<SocketAddr>,
    pub security: Security,
    can_move: bool,
    born: Instant,
    reading: AtomicU8,
    /// Milliseconds since `born`; 0: none.
    deadline: AtomicU64,
    /// How far each byte that moves puts the deadline off, in milliseconds.
    within: AtomicU64,
    /// As `deadline`, but nothing puts it off.
    end: AtomicU64,
    timed_out: AtomicBool,
    leaves_when_idle: AtomicBool,
    /// A request has come.
    has_asked: AtomicBool,
    /// An exchange has failed, perhaps in the middle of its answer.
    has_failed: AtomicBool,
    is_probe: AtomicBool,
    left: Mutex<Option<ClientEnd>>,
    upgraded: Mutex<Option<Upgraded>>,
}

impl Connection {
    fn new(listener: usize, transport: &Transport) -> Self {
        let (peer, local) = transport.addresses();
        Self {
            listener,
            peer,
            local,
            security: transport.security(),
            can_move: transport.can_move(),
            born: Instant::now(),
            reading: AtomicU8::new(Reading::Head as u8),
            deadline: AtomicU64::new(0),
            within: AtomicU64::new(0),
            end: AtomicU64::new(0),
            timed_out: AtomicBool::new(false),
            leaves_when_idle: AtomicBool::new(false),
            has_asked: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
            is_probe: AtomicBool::new(false),
            left: Mutex::new(None),
            upgraded: Mutex::new(None),
        }
    }

    /// From now on, when it stands between two requests, the socket leaves; one that cannot move to
    /// another process ends. Poll its stream after this.
    pub fn leave_when_idle(&self, leaves: bool) {
        self.leaves_when_idle.store(leaves, Relaxed);
    }

    /// From now on its end is no clean one: an answer that was cut short must not pass for whole.
    pub fn mark_as_failed(&self) {
        self.has_failed.store(true, Relaxed);
    }

    /// Whether the present request is to be the last.
    pub fn is_to_end(&self) -> bool {
        !self.can_move && self.leaves_when_idle.load(Relaxed)
    }

    /// The request that comes is our own.
    pub fn mark_as_probe(&self) {
        self.is_probe.store(true, Relaxed);
    }

    /// Nobody wants to read of it in the log.
    pub fn is_probe(&self) -> bool {
        self.is_probe.load(Relaxed)
    }

    /// Whether the socket has left.
    pub fn has_left(&self) -> bool {
        lock(&self.left).is_some()
    }

    pub fn take_left(&self) -> Option<ClientEnd> {
        lock(&self.left).take()
    }

    /// The rest of the session that the socket left for.
    pub fn set_upgraded(&self, upgraded: Upgraded) {
        *lock(&self.upgraded) = Some(upgraded);
    }

    pub fn take_upgraded(&self) -> Option<Upgraded> {
        lock(&self.upgraded).take()
    }

    pub fn set_reading(&self, reading: Reading) {
        self.reading.store(reading as u8, Relaxed);
        if reading != Reading::Head {
            self.has_asked.store(true, Relaxed);
        }
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
            2 => Reading::Open,
            _ => Reading::Leave,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let set = [&self.deadline, &self.end].map(|at| at.load(Relaxed));
        let first = set.into_iter().filter(|&millis| millis > 0).min()?;
        Some(self.born + Duration::from_millis(first))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
pub struct ClientStream {
    /// `None`: it has left.
    io: Option<BufWriter<Transport>>,
    connection: Arc<Connection>,
    head: HeadEnd,
    /// Part of a head has been given to Pingora.
    in_head: bool,
    /// Read from the socket, not yet given to Pingora.
    ahead: BytesMut,
    ended: bool,
    timer: Option<Pin<Box<Sleep>>>,
}

impl ClientStream {
    /// `early` has been read from it already.
    pub fn new(listener: usize, transport: Transport, early: BytesMut) -> Self {
        Self {
            connection: Arc::new(Connection::new(listener, &transport)),
            io: Some(BufWriter::with_capacity(WRITE_BUFFER, transport)),
            head: HeadEnd::default(),
            in_head: false,
            ahead: early,
            ended: false,
            timer: None,
        }
    }

    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Whether it is idle and to end. Who has just connected still gets an answer, and so does who
    /// has asked already.
    fn ends_here(&self) -> bool {
        let connection = &self.connection;
        connection.is_to_end()
            && connection.has_asked.load(Relaxed)
            && !self.in_head
            && self.ahead.is_empty()
    }

    /// Fills `ahead` while nothing may be given out; ready only when the client is gone.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.ahead.len() < HELD_MAX && !self.ended {
            let mut chunk = [MaybeUninit::uninit(); 4096];
            let mut buf = ReadBuf::uninit(&mut chunk);
            ready!(self.poll_socket(cx, &mut buf))?;
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
        self.poll_socket(cx, buf)
    }

    /// Nothing more comes from a socket that has left.
    fn poll_socket(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Some(io) => Pin::new(io).poll_read(cx, buf),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Ready when all that was written is on its way and the socket has left.
    fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(io) = &mut self.io {
            ready!(Pin::new(io).poll_flush(cx))?;
        }
        if let Some(io) = self.io.take() {
            *lock(&self.connection.left) = Some(ClientEnd {
                transport: io.into_inner(),
                early: self.ahead.split(),
                ended: self.ended,
            });
        }
        Poll::Ready(Ok(()))
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
            Reading::Leave => stream.poll_leave(cx),
            Reading::Head if stream.ends_here() => Poll::Ready(Ok(())),
            Reading::Head
                if !stream.in_head
                    && stream.connection.can_move
                    && stream.connection.leaves_when_idle.load(Relaxed) =>
            {
                stream.poll_leave(cx)
            }
            Reading::Head => {
                let before = buf.filled().len();
                let polled = stream.poll_ahead_or_socket(cx, buf);
                stream.in_head |= buf.filled().len() > before;
                if let Some(end) = stream.head.feed(&buf.filled()[before..]) {
                    stream.in_head = false;
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
        if let Some(io) = &mut stream.io
            && !(io.buffer().is_empty() && io.get_ref().is_flushed())
            && let Poll::Ready(Err(error)) = Pin::new(io).poll_flush(cx)
        {
            return Poll::Ready(Err(error));
        }
        stream.or_deadline(cx, Poll::Pending)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        let Some(io) = &mut stream.io else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let polled = Pin::new(io).poll_write(cx, buf);
        if polled.is_ready() {
            stream.connection.put_off();
        }
        stream.or_deadline(cx, polled)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        let Some(io) = &mut stream.io else {
            return Poll::Ready(Ok(()));
        };
        let polled = Pin::new(io).poll_flush(cx);
        stream.or_deadline(cx, polled)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Some(io) => Pin::new(io).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}

#[async_trait]
impl Shutdown for ClientStream {
    async fn shutdown(&mut self) {
        if let Some(io) = &mut self.io
            && let Err(error) = io.shutdown().await
        {
            log::debug!("closing a client's connection: {error}");
        }
    }
}

/// Pingora drops idle connections without a word. By TLS a client wants one.
impl Drop for ClientStream {
    fn drop(&mut self) {
        let connection = &self.connection;
        let is_idle = connection.reading() == Reading::Head && !self.in_head;
        if let Some(io) = &mut self.io
            && is_idle
            && !connection.has_failed.load(Relaxed)
        {
            io.get_mut().part();
        }
    }
}

impl UniqueID for ClientStream {
    fn id(&self) -> UniqueIDType {
        self.io
            .as_ref()
            .map_or(-1, |io| io.get_ref().as_fd().as_raw_fd())
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
