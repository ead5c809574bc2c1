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
use parking_lot::{Mutex, MutexGuard};
use pingora::connectors::l4::Connect;
use pingora::protocols::l4::socket::SocketAddr as PeerAddress;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::{Error, ErrorType};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::dial::{Dialer, Shortage};
use super::flow::Flow;
use super::outgoing::Outgoing;
use super::pool::{KEPT_FRESH, KEPT_IDLE, Pool, PooledConnection, Target};
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
    /// The server has said that it closes the connection.
    closes: Arc<AtomicBool>,
    flow: Arc<Flow>,
    stall: Duration,
}

impl PoolConnector {
    /// `stall`: how long the server may take nothing of the bytes that wait for it.
    pub fn new(
        connections: Arc<Pool>,
        dialer: Dialer,
        bound: usize,
        repeatable: Repeatable,
        (flow, stall): (Arc<Flow>, Duration),
    ) -> Self {
        Self {
            connections,
            dialer,
            bound,
            repeatable,
            reused: AtomicBool::new(false),
            closes: Arc::default(),
            flow,
            stall,
        }
    }

    /// The server closes the connection after its answer, so the connection is not kept.
    pub fn mark_as_closing(&self) {
        self.closes.store(true, Relaxed);
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
            closes: self.closes.clone(),
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
    closes: Arc<AtomicBool>,
}

impl PoolStream {
    fn lock(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock()
    }

    /// Pingora no longer needs the connection.
    fn release(&self) {
        let mut outgoing = self.lock();
        // The response was complete before the request was sent. The rest of the request is sent
        // without Pingora, and the connection is not used again.
        if !outgoing.is_done() {
            return self.flow.leave_to_itself(&mut outgoing);
        }
        if let Some(open) = outgoing.open.take()
            && !self.closes.load(Relaxed)
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
        let room = match is_last_look {
            true => 1,
            false => stream.flow.response_room(),
        };
        let polled = {
            let mut outgoing = stream.lock();
            let is_done = outgoing.is_done();
            let Some(open) = &mut outgoing.open else {
                return Poll::Ready(Ok(()));
            };
            if is_done && !is_last_look {
                stream.flow.server_looks();
            }
            let before = buf.filled().len();
            let polled = match room {
                0 => Poll::Pending,
                room => Pin::new(&mut (&mut open.io).take(room as u64)).poll_read(cx, buf),
            };
            stream.flow.read_of_response(buf.filled().len() - before);
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
        Poll::Ready(self.lock().write(buf, cx, self.flow.as_ref()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Poll::Ready(self.lock().flush(cx, self.flow.as_ref()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.lock().open {
            Some(open) => Pin::new(&mut open.io).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl Drop for PoolStream {
    fn drop(&mut self) {
        self.flow.detach();
    }
}

impl VirtualSocket for PoolStream {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        match &self.lock().open {
            Some(open) if self.is_fresh => set_option(open.io.tcp(), option),
            _ => Ok(()),
        }
    }
}
