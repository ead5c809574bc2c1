//! A session that stays in Pingora's tunnel, as its client's stream sees it.
//!
//! Pingora takes from the client what fits into its own queue. If that is full because the server
//! takes nothing, Pingora no longer polls the client's stream, and notices neither the client's end
//! nor the stream's deadlines. So Pingora gets so little that its queue is never full.

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

/// How many reads may be ahead of the server. Pingora's queue has room for four.
const AHEAD_MAX: u8 = 2;

#[derive(Debug, Default)]
pub(super) struct Tunnel {
    /// How many bytes of the session Pingora has got.
    given: u64,
    /// How many reads were made since the server had taken everything.
    ahead: u8,
    /// When to check the client while it is not read.
    look: Option<Pin<Box<Sleep>>>,
}

impl Tunnel {
    /// Reads from the client as much as Pingora may have of `session`.
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

    /// Ready when the client is gone. The client is neither read nor written to, so this needs a
    /// check.
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
