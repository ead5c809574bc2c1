//! A connection to a server, and what waits to be sent on it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::flow::Flow;
use super::pool::PooledConnection;

/// Takes whatever it is given: its writer must not give it more than it has [room] for.
///
/// [room]: Flow::request_room
#[derive(Debug)]
pub(super) struct Outgoing {
    /// `None`: it is kept for the next request.
    pub open: Option<PooledConnection>,
    /// Not taken by the socket yet.
    pending: BytesMut,
    /// The writer wants to know that all of it is with the kernel. TLS takes more than its socket.
    wants_flush: bool,
    /// Why nothing more can be sent, for the writer's next move.
    error: Option<io::Error>,
}

impl Outgoing {
    pub fn new(open: PooledConnection) -> Self {
        Self {
            open: Some(open),
            pending: BytesMut::new(),
            wants_flush: false,
            error: None,
        }
    }

    /// Whether all that was written is with the kernel, as far as the writer wants to know.
    pub fn is_done(&self) -> bool {
        self.pending.is_empty() && !self.wants_flush && self.error.is_none()
    }

    /// Sends it, or keeps it until the socket takes it.
    pub fn write(&mut self, bytes: &[u8], cx: &mut Context<'_>, flow: &Flow) -> io::Result<usize> {
        self.check()?;
        if self.pending.is_empty() {
            match self.poll_socket(cx, bytes) {
                Poll::Ready(Ok(0)) if !bytes.is_empty() => {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                Poll::Ready(sent) => {
                    if let (Ok(sent), Some(open)) = (&sent, &self.open) {
                        flow.server_took(*sent, &open.io);
                    }
                    return sent;
                }
                Poll::Pending => flow.server_stalls(),
            }
        }
        self.pending.extend_from_slice(bytes);
        flow.set_waits(true);
        Ok(bytes.len())
    }

    /// Begins to flush: [`Outgoing::drive`] goes on with it.
    pub fn flush(&mut self, cx: &mut Context<'_>, flow: &Flow) -> io::Result<()> {
        self.check()?;
        self.wants_flush = true;
        flow.set_waits(true);
        self.drive(cx, flow);
        self.check()
    }

    /// Sends what waits, as far as the socket takes it.
    pub fn drive(&mut self, cx: &mut Context<'_>, flow: &Flow) {
        if let Poll::Ready(sent) = self.poll_send(cx, flow) {
            if let Err(error) = sent {
                // The writer goes on, and is told.
                self.error = Some(error);
                self.wants_flush = false;
                flow.server_failed();
            }
            self.pending = BytesMut::new();
            flow.set_waits(false);
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, flow: &Flow) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            let Some(open) = &mut self.open else {
                return Poll::Ready(Ok(()));
            };
            match Pin::new(&mut open.io).poll_write(cx, &self.pending) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(sent)) => {
                    self.pending.advance(sent);
                    flow.server_took(sent, &open.io);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    flow.server_stalls();
                    return Poll::Pending;
                }
            }
        }
        if self.wants_flush
            && let Some(open) = &mut self.open
        {
            match Pin::new(&mut open.io).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.wants_flush = false,
                unfinished => return unfinished,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_socket(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.open {
            Some(open) => Pin::new(&mut open.io).poll_write(cx, bytes),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn check(&mut self) -> io::Result<()> {
        self.error.take().map_or(Ok(()), Err)
    }
}

/// What was left to send when nobody waited for the server any more.
pub(super) struct Rest {
    open: PooledConnection,
    pending: BytesMut,
}

impl Outgoing {
    pub fn take_rest(&mut self) -> Option<Rest> {
        if self.error.is_some() {
            return None;
        }
        Some(Rest {
            open: self.open.take()?,
            pending: std::mem::take(&mut self.pending),
        })
    }
}

impl Rest {
    pub async fn send(mut self, stall: Duration) {
        while !self.pending.is_empty() {
            let sending = self.open.io.write(&self.pending);
            match timeout(stall, sending).await {
                Ok(Ok(sent)) if sent > 0 => self.pending.advance(sent),
                _ => return,
            }
        }
        // The connection ends with it, whatever comes of this.
        let _ = timeout(stall, self.open.io.flush()).await;
    }
}
