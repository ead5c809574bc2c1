//! Connects to servers for plain requests: over a connection of the [pool](Pool), or a new one.
//!
//! Pingora connects through [`PoolConnector`] (its `custom_l4` option) and gets a [`PoolStream`],
//! which takes its socket back when Pingora no longer needs it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use parking_lot::{Mutex, MutexGuard};
use pingora::connectors::l4::Connect;
use pingora::protocols::l4::socket::SocketAddr as PeerAddress;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::{Error, ErrorType};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::answer_head::{AnswerHead, Found};
use super::dial::{Dialer, Shortage};
use super::flow::Flow;
use super::outgoing::Outgoing;
use super::pool::{KEPT_FRESH, KEPT_IDLE, Pool, PooledConnection, Target};
use super::request_end::{RequestBody, RequestEnd};
use super::stream_offer::{ServerSide, StreamOffer};
use crate::limits::DrainDeadline;
use crate::net::pages;
use crate::net::pingora::{is_last_look, set_option};
use crate::tls::Connector;

/// Whether a request may be sent again if its connection fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeatable {
    Yes,
    No,
}

/// Connects one attempt of one request, over a kept connection if there is one.
#[derive(Debug)]
pub struct PoolConnector {
    connections: Arc<Pool>,
    dialer: Dialer,
    /// A connection is kept only if at most this many are open.
    bound: usize,
    repeatable: Repeatable,
    reused: AtomicBool,
    terms: Arc<Terms>,
    flow: Arc<Flow>,
    stall: Duration,
    /// `Some` if the answer may be an event stream: what follows the head of the request.
    stream: Option<RequestBody>,
}

/// What the exchange and its connection tell each other.
#[derive(Debug, Default)]
struct Terms {
    /// The server has said that it closes the connection.
    closes: AtomicBool,
    stream: StreamOffer,
}

impl PoolConnector {
    /// `stall`: how long the server may take nothing of the bytes that wait for it. `stream`: what
    /// follows the head of a request whose answer may be an event stream.
    pub fn new(
        connections: Arc<Pool>,
        dialer: Dialer,
        bound: usize,
        repeatable: Repeatable,
        (flow, stall): (Arc<Flow>, Duration),
        stream: Option<RequestBody>,
    ) -> Self {
        Self {
            connections,
            dialer,
            bound,
            repeatable,
            reused: AtomicBool::new(false),
            terms: Arc::default(),
            flow,
            stall,
            stream,
        }
    }

    /// The connection that may leave with an event stream.
    pub fn stream_offer(&self) -> &StreamOffer {
        &self.terms.stream
    }

    /// The answer goes on as any other, if it was an event stream.
    pub fn decline_stream(&self) {
        if self.terms.stream.is_made() {
            self.terms.stream.decline();
            self.flow.server_goes_on();
        }
    }

    /// The server closes the connection after its answer, so the connection is not kept.
    pub fn mark_as_closing(&self) {
        self.terms.closes.store(true, Relaxed);
    }

    /// Whether a kept connection was used.
    pub fn has_reused(&self) -> bool {
        self.reused.load(Relaxed)
    }
}

#[async_trait]
impl Connect for PoolConnector {
    /// Pingora limits this call by the peer's `total_connection_timeout`.
    async fn connect(&self, address: &PeerAddress) -> pingora::Result<Stream> {
        let Some(&address) = address.as_inet() else {
            return Error::e_explain(ErrorType::InternalError, "a server without an IP address");
        };
        let target = Target {
            address,
            preamble: self.dialer.preamble,
            tls: self.dialer.tls.as_deref().map(Connector::number),
        };
        let max_idle = match self.repeatable {
            Repeatable::Yes => KEPT_IDLE,
            Repeatable::No => KEPT_FRESH,
        };
        let (open, is_fresh) = match self.connections.take(target, max_idle) {
            Some(open) => (open, false),
            None => {
                let io = match self.dialer.connect(address).await {
                    // The idle connections hold descriptors or ports, so these are closed.
                    Err(error) if Shortage::of_connecting(&error).is_some() => {
                        self.connections.close_idle();
                        self.dialer.connect(address).await?
                    }
                    connected => connected?,
                };
                (PooledConnection::new(io, &self.connections), true)
            }
        };
        self.reused.store(!is_fresh, Relaxed);
        let outgoing = Arc::new(Mutex::new(Outgoing::new(open)));
        self.flow.attach(outgoing.clone(), self.stall);
        let stream = PoolStream {
            outgoing,
            flow: self.flow.clone(),
            drain_deadline: self.dialer.drain_deadline.clone(),
            is_fresh,
            target,
            bound: self.bound,
            terms: self.terms.clone(),
            watch: self.stream.map(|body| StreamWatch {
                request: RequestEnd::new(body),
                answer: Answer::Head(AnswerHead::default()),
                early: BytesMut::new(),
            }),
        };
        Ok(VirtualSocketStream::new(Box::new(stream)).into())
    }
}

#[derive(Debug)]
struct PoolStream {
    /// Shared with the flow.
    outgoing: Arc<Mutex<Outgoing>>,
    flow: Arc<Flow>,
    drain_deadline: DrainDeadline,
    /// Whether the socket's options are not set yet.
    is_fresh: bool,
    target: Target,
    bound: usize,
    terms: Arc<Terms>,
    /// `Some` if the connection may leave with an event stream.
    watch: Option<StreamWatch>,
}

/// Watches for an event stream.
#[derive(Debug)]
struct StreamWatch {
    request: RequestEnd,
    answer: Answer,
    /// Bytes that came after the head of a stream.
    early: BytesMut,
}

#[derive(Debug)]
enum Answer {
    Head(AnswerHead),
    /// The head of a stream was given to Pingora, and nothing behind it.
    Offered,
    /// Everything passes.
    Passes,
}

impl StreamWatch {
    /// Returns what the read results in without the socket. `None`: the socket must be read.
    fn read_without_socket(
        &mut self,
        offer: &StreamOffer,
        buf: &mut ReadBuf<'_>,
    ) -> Option<Poll<io::Result<()>>> {
        if matches!(self.answer, Answer::Offered) {
            if !offer.is_declined() {
                return Some(Poll::Pending);
            }
            self.answer = Answer::Passes;
        }
        if self.early.is_empty() {
            return None;
        }
        let part = self.early.len().min(buf.remaining());
        buf.put_slice(&self.early.split_to(part));
        Some(Poll::Ready(Ok(())))
    }

    /// Looks at what was read, and keeps what follows the head of a stream.
    fn look(&mut self, offer: &StreamOffer, buf: &mut ReadBuf<'_>, before: usize) {
        let Answer::Head(head) = &mut self.answer else {
            return;
        };
        let read = &buf.filled()[before..];
        match head.read(read) {
            Found::NotYet => {}
            Found::Stream(end) if self.request.is_written() => {
                self.early = BytesMut::from(&read[end..]);
                buf.set_filled(before + end);
                offer.make();
                self.answer = Answer::Offered;
            }
            Found::Stream(_) | Found::Other => self.answer = Answer::Passes,
        }
    }
}

impl PoolStream {
    /// Whether the connection is no longer Pingora's.
    fn is_taken_up(&self) -> bool {
        self.terms.stream.is_taken_up()
    }

    fn lock(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock()
    }

    /// Pingora no longer needs the connection.
    fn release(&self) {
        let mut outgoing = self.lock();
        if self
            .watch
            .as_ref()
            .is_some_and(|watch| !watch.early.is_empty())
        {
            // The server has sent more than its response.
            return;
        }
        // The response was complete before the request was sent. The rest of the request is sent
        // without Pingora, and the connection is not used again.
        if !outgoing.is_done() {
            return self.flow.leave_to_itself(&mut outgoing);
        }
        if let Some(open) = outgoing.open.take()
            && !self.terms.closes.load(Relaxed)
        {
            open.return_to_pool(self.target, self.bound);
        }
    }

    /// Returns an error when nobody waits for the server any more.
    fn check(&self) -> io::Result<()> {
        self.drain_deadline.check()?;
        self.flow.check_deadline()
    }
}

impl AsyncRead for PoolStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        stream.drain_deadline.check()?;
        let is_last_look = is_last_look(cx, buf);
        if let Some(watch) = &mut stream.watch
            && let Some(polled) = watch.read_without_socket(&stream.terms.stream, buf)
        {
            return match polled {
                Poll::Pending if is_last_look => Poll::Ready(Ok(())),
                Poll::Pending => Poll::Pending,
                read => read,
            };
        }
        let room = match is_last_look {
            true => 1,
            false => stream.flow.response_room(),
        };
        let polled = {
            let mut outgoing = stream.lock();
            let is_done = outgoing.is_done();
            let Some(io) = outgoing.io_mut() else {
                return Poll::Ready(Ok(()));
            };
            if is_done && !is_last_look {
                stream.flow.server_looks();
            }
            let before = buf.filled().len();
            let polled = match room {
                0 => Poll::Pending,
                room => Pin::new(&mut io.take(room as u64)).poll_read(cx, buf),
            };
            stream.flow.read_of_response(buf.filled().len() - before);
            drop(outgoing);
            if let Some(watch) = &mut stream.watch {
                watch.look(&stream.terms.stream, buf, before);
            }
            polled
        };
        if polled.is_ready() {
            return polled;
        }
        if is_last_look {
            stream.release();
            // To Pingora the server has closed the connection, so Pingora does not keep it.
            return Poll::Ready(Ok(()));
        }
        if stream.flow.client_takes_back() {
            pages::give_back(buf);
        }
        stream.flow.check_deadline()?;
        Poll::Pending
    }
}

/// No write waits: see [`super::flow`].
impl AsyncWrite for PoolStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        let stream = self.get_mut();
        let written = stream.lock().write(buf, cx, stream.flow.as_ref());
        if let (Ok(count), Some(watch)) = (&written, &mut stream.watch) {
            watch.request.wrote(&buf[..*count]);
        }
        Poll::Ready(written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        let stream = self.get_mut();
        if let Some(watch) = &mut stream.watch {
            watch.request.flushed();
        }
        Poll::Ready(stream.lock().flush(cx, stream.flow.as_ref()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_taken_up() {
            return Poll::Ready(Ok(()));
        }
        match self.lock().io_mut() {
            Some(io) => Pin::new(io).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl Drop for PoolStream {
    fn drop(&mut self) {
        self.flow.detach();
        if self.is_taken_up()
            && let Some(watch) = self.watch.take()
            && let Some((transport, unsent)) = self.lock().leave()
        {
            self.terms.stream.leave(ServerSide {
                transport,
                early: watch.early,
                unsent,
            });
        }
    }
}

impl VirtualSocket for PoolStream {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        match self.lock().io() {
            Some(io) if self.is_fresh => set_option(io.tcp(), option),
            _ => Ok(()),
        }
    }
}
