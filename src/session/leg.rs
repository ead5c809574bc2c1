//! One side of a relay: its socket, what waits for it, and the frames that it sends.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;

use super::frames::{FrameScanner, Sender};
use super::transport::Transport;

/// One side of the session.
#[derive(Debug)]
pub struct Leg {
    pub transport: Transport,
    /// What this side has not taken yet.
    pub waiting: BytesMut,
    /// Reads what this side sends.
    pub scanner: FrameScanner,
    /// It sends nothing more.
    pub ended: bool,
    /// It gets nothing more: it has been told so, or takes nothing more.
    pub shut: bool,
}

impl Leg {
    pub fn new(transport: Transport, sender: Sender, extended: bool) -> Self {
        Self {
            transport,
            waiting: BytesMut::new(),
            scanner: FrameScanner::new(sender, extended),
            ended: false,
            shut: false,
        }
    }

    /// What can go at once goes, the rest waits.
    pub fn send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<()> {
        let mut sent = 0;
        if self.waiting.is_empty()
            && let Poll::Ready(written) = Pin::new(&mut self.transport).poll_write(cx, bytes)
        {
            sent = written?;
        }
        if sent < bytes.len() {
            self.waiting.extend_from_slice(&bytes[sent..]);
        }
        Ok(())
    }

    pub fn poll_send_waiting(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let sent = ready!(Pin::new(&mut self.transport).poll_write(cx, &self.waiting))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.waiting.advance(sent);
            if self.waiting.is_empty() {
                self.waiting = BytesMut::new();
            }
        }
        if self.shut {
            return Poll::Ready(Ok(()));
        }
        // Written is not sent: TLS takes more than the socket does.
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    /// Whether nothing is left here that it has to get.
    pub fn has_sent_all(&self) -> bool {
        self.waiting.is_empty() && (self.shut || self.transport.is_flushed())
    }

    /// Whether it will say nothing more that counts.
    pub fn has_finished(&self) -> bool {
        self.ended || self.scanner.is_broken() || self.has_closed()
    }

    /// Whether its Close frame has passed in full.
    pub fn has_closed(&self) -> bool {
        self.scanner.is_closed()
    }
}
