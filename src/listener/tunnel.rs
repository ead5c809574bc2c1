//! A session that stays in Pingora's tunnel, as its client's stream sees it.
//!
//! Pingora takes from the client what its own queue has room for. When that is full, because the
//! server takes nothing, it looks at the client no more: neither at its going nor at the deadlines
//! that its stream carries. So it gets little enough that the queue is never full.

use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use tokio::io::{BufWriter, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::request_reader::RequestReader;
use crate::session::relay::LOOK;
use crate::session::traffic::Traffic;
use crate::transport::Transport;

/// Reads whose bytes the server has not taken yet. Pingora's queue has room for four.
const AHEAD_MAX: u8 = 2;

#[derive(Debug, Default)]
pub(super) struct Tunnel {
    /// Bytes that Pingora has got of the session.
    given: u64,
    /// Reads since the server had taken all of them.
    ahead: u8,
    /// When the client is looked at, while it is not read.
    look: Option<Pin<Box<Sleep>>>,
}

impl Tunnel {
    /// Reads from the client what Pingora may have of `session`.
    pub fn poll(
        &mut self,
        session: Option<&Traffic>,
        reader: &mut RequestReader,
        socket: &mut Option<BufWriter<Transport>>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(session) = session {
            if self.given == session.bytes_in.load(Relaxed) {
                self.ahead = 0;
            }
            if self.ahead >= AHEAD_MAX {
                session.await_server();
                return self.poll_gone(socket, cx);
            }
        }
        self.look = None;
        let before = buf.filled().len();
        ready!(reader.poll_ahead_or_socket(socket, cx, buf, usize::MAX))?;
        self.given += (buf.filled().len() - before) as u64;
        self.ahead += 1;
        Poll::Ready(Ok(()))
    }

    /// Ready when the client has gone: it is not read, and nothing is written to it, so that this
    /// must be looked for.
    fn poll_gone(
        &mut self,
        socket: &mut Option<BufWriter<Transport>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let look = self.look.get_or_insert_with(|| Box::pin(sleep(LOOK)));
        loop {
            ready!(look.as_mut().poll(cx));
            look.as_mut().reset(Instant::now() + LOOK);
            if let Some(socket) = socket
                && socket.get_mut().has_broken(cx)
            {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
        }
    }
}
