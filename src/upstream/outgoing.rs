//! A connection to a server, and the bytes that wait to be sent on it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::pool::PooledConnection;
use crate::transport::Transport;

/// Hears how the server takes what is sent to it.
pub(super) trait Progress {
    /// The server has taken this many bytes.
    fn took(&self, bytes: usize, server: &Transport);

    /// The server takes nothing now.
    fn stalls(&self);

    /// The server takes nothing more.
    fn failed(&self);

    /// Whether bytes wait that the server has not taken.
    fn set_waits(&self, waits: bool);
}

/// Takes everything it is given. Its writer must not write more than there is [room] for.
///
/// [room]: super::Flow::request_room
#[derive(Debug)]
pub(super) struct Outgoing {
    /// `None` once the connection is back in the pool for the next request.
    pub open: Option<PooledConnection>,
    /// Bytes that the socket has not taken yet.
    pending: BytesMut,
    /// The writer waits until the kernel has everything: TLS buffers more than its socket takes.
    wants_flush: bool,
    /// Why nothing more can be sent. The next call of the writer returns it.
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

    /// The connection, as long as it is here.
    pub fn io(&self) -> Option<&Transport> {
        self.open.as_ref().and_then(PooledConnection::io)
    }

    pub fn io_mut(&mut self) -> Option<&mut Transport> {
        self.open.as_mut().and_then(PooledConnection::io_mut)
    }

    /// Takes the connection out, with the bytes that it has not taken yet. One that has failed
    /// shows it again when it is read.
    pub fn leave(&mut self) -> Option<(Transport, BytesMut)> {
        let io = self.open.take()?.into_io()?;
        Some((io, std::mem::take(&mut self.pending)))
    }

    /// Whether everything was sent, and flushed if the writer has asked for that.
    pub fn is_done(&self) -> bool {
        self.pending.is_empty() && !self.wants_flush && self.error.is_none()
    }

    /// Sends the bytes, or keeps them until the socket takes them.
    pub fn write(
        &mut self,
        bytes: &[u8],
        cx: &mut Context<'_>,
        progress: &impl Progress,
    ) -> io::Result<usize> {
        self.check()?;
        if self.pending.is_empty() {
            match self.poll_socket(cx, bytes) {
                Poll::Ready(Ok(0)) if !bytes.is_empty() => {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                Poll::Ready(sent) => {
                    if let (Ok(sent), Some(io)) = (&sent, self.io()) {
                        progress.took(*sent, io);
                    }
                    return sent;
                }
                Poll::Pending => progress.stalls(),
            }
        }
        self.pending.extend_from_slice(bytes);
        progress.set_waits(true);
        Ok(bytes.len())
    }

    /// Begins to flush. [`Outgoing::drive`] continues.
    pub fn flush(&mut self, cx: &mut Context<'_>, progress: &impl Progress) -> io::Result<()> {
        self.check()?;
        self.wants_flush = true;
        progress.set_waits(true);
        self.drive(cx, progress);
        self.check()
    }

    /// Sends as many of the waiting bytes as the socket takes.
    pub fn drive(&mut self, cx: &mut Context<'_>, progress: &impl Progress) {
        if let Poll::Ready(sent) = self.poll_send(cx, progress) {
            if let Err(error) = sent {
                // The writer gets the error with its next call.
                self.error = Some(error);
                self.wants_flush = false;
                progress.failed();
            }
            self.pending = BytesMut::new();
            progress.set_waits(false);
        }
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        progress: &impl Progress,
    ) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            let Some(io) = self.open.as_mut().and_then(PooledConnection::io_mut) else {
                return Poll::Ready(Ok(()));
            };
            match Pin::new(&mut *io).poll_write(cx, &self.pending) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(sent)) => {
                    self.pending.advance(sent);
                    progress.took(sent, io);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    progress.stalls();
                    return Poll::Pending;
                }
            }
        }
        if self.wants_flush
            && let Some(io) = self.io_mut()
        {
            match Pin::new(io).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.wants_flush = false,
                unfinished => return unfinished,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_socket(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.io_mut() {
            Some(io) => Pin::new(io).poll_write(cx, bytes),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn check(&mut self) -> io::Result<()> {
        self.error.take().map_or(Ok(()), Err)
    }
}

/// The bytes that remain to be sent when nobody waits for the server any more.
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
            let Some(io) = self.open.io_mut() else {
                return;
            };
            match timeout(stall, io.write(&self.pending)).await {
                Ok(Ok(sent)) if sent > 0 => self.pending.advance(sent),
                _ => return,
            }
        }
        // The connection ends after this, whatever the result is.
        if let Some(io) = self.open.io_mut() {
            let _ = timeout(stall, io.flush()).await;
        }
    }
}
