//! One side of a relay: its socket, what waits for it, and the frames that it sends.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::goodbye::{Position, Says, Side, Takes};
use crate::transport::Transport;
use crate::websocket::frames::{FrameScanner, Sender};

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
    pub send_state: SendState,
    /// Since when it has taken nothing of what waits for it. `None`: nothing waits, or TCP keeps
    /// the time (see [`super::relay`]'s `stall`).
    pub stalled_since: Option<Instant>,
}

/// Whether bytes may still go to a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendState {
    Open,
    /// Not any more: the side was told that the other one has ended.
    Shut,
    /// Not any more: the side takes nothing, because it has reset its connection or has closed it.
    Broken {
        since: Instant,
    },
}

impl Leg {
    pub fn new(transport: Transport, sender: Sender, extended: bool) -> Self {
        Self {
            transport,
            waiting: BytesMut::new(),
            scanner: FrameScanner::new(sender, extended),
            ended: false,
            send_state: SendState::Open,
            stalled_since: None,
        }
    }

    /// Whether nothing more goes to it.
    pub fn is_shut(&self) -> bool {
        self.send_state != SendState::Open
    }

    /// Since when it has taken nothing, if it does not any more.
    pub fn broken_since(&self) -> Option<Instant> {
        match self.send_state {
            SendState::Broken { since } => Some(since),
            SendState::Open | SendState::Shut => None,
        }
    }

    /// It takes nothing more. What was found first counts: nothing puts a session's end off.
    pub fn break_off(&mut self, since: Instant) {
        if self.broken_since().is_none() {
            self.send_state = SendState::Broken { since };
        }
        self.waiting = BytesMut::new();
        self.stalled_since = None;
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
        let polled = self.poll_sending(cx);
        match self.stalled_since {
            Some(_) if polled.is_ready() => self.stalled_since = None,
            None if polled.is_pending() && self.transport.tcp().is_none() => {
                self.stalled_since = Some(Instant::now());
            }
            Some(_) | None => {}
        }
        polled
    }

    /// Sends what the socket has room for though nobody has told of that room yet: a peer that
    /// takes little is seen to take it.
    pub fn send_unasked(&mut self, now: Instant) {
        let sent = self.transport.send_unasked(&self.waiting);
        if sent > 0 {
            self.waiting.advance(sent);
            self.stalled_since = Some(now);
        }
    }

    fn poll_sending(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let sent = ready!(Pin::new(&mut self.transport).poll_write(cx, &self.waiting))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.waiting.advance(sent);
            self.stalled_since = None;
            if self.waiting.is_empty() {
                self.waiting = BytesMut::new();
            }
        }
        if self.is_shut() {
            return Poll::Ready(Ok(()));
        }
        // Written is not sent: TLS takes more than the socket does.
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    /// Whether nothing is left here that it has to get.
    pub fn has_sent_all(&self) -> bool {
        self.waiting.is_empty() && (self.is_shut() || self.transport.is_flushed())
    }

    /// What a goodbye has to know of it.
    pub fn side(&self) -> Side {
        Side {
            says: Says::of(&self.scanner),
            has_ended: self.ended,
            takes: match self.send_state {
                SendState::Open => Takes::More,
                SendState::Shut => Takes::NoMore,
                SendState::Broken { .. } => Takes::Nothing,
            },
            has_got_all: self.has_sent_all(),
        }
    }

    /// Where what it has sent stands: a header passes on only when it is whole and sound.
    pub fn position(&self) -> Position {
        if self.scanner.is_broken() {
            Position::Broken
        } else if self.scanner.between_frames() {
            Position::Boundary
        } else {
            Position::InFrame
        }
    }

    /// What its frame that is passing has left.
    pub fn left_of_frame(&self) -> usize {
        usize::try_from(self.scanner.payload_left()).unwrap_or(usize::MAX)
    }

    /// Whether its Close frame has passed in full.
    pub fn has_closed(&self) -> bool {
        self.scanner.is_closed()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use futures_util::future::poll_fn;
    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;
    use tokio::time::timeout;

    use super::*;
    use crate::net::Socket;
    use crate::tls::{Acceptor, Connector, Pair, ServerTrust, read_chain, read_key};

    /// Only a failing test waits for it.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// The two ends of a connection by TLS.
    async fn connected() -> (Transport, Transport) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shipped/tls");
        let chain = folder.join("chat.example.com.pem");
        let key = read_key(&folder.join("chat.example.com.key")).unwrap();
        let pair = Pair::new(&chain, read_chain(&chain).unwrap(), key).unwrap();
        let acceptor = Acceptor::new(vec![pair], None, false).unwrap();
        let connector = Arc::new(Connector::new(None, ServerTrust::Anyone, None).unwrap());
        let (client, server) = UnixStream::pair().unwrap();
        let address = ([127, 0, 0, 1], 1).into();
        let (client, server) = tokio::join!(
            connector.connect(address, Socket::Unix(client)),
            acceptor.accept(Socket::Unix(server)),
        );
        (client.unwrap().into(), server.unwrap().into())
    }

    /// rustls takes more than the socket does, and nothing may come behind it that pushes it on.
    #[tokio::test]
    async fn what_tls_has_taken_and_the_socket_has_not_is_sent_all_the_same() {
        let (mut peer, transport) = connected().await;
        let mut leg = Leg::new(transport, Sender::Server, false);
        let mut written = 0;
        while leg.transport.is_flushed() {
            let sent = poll_fn(|cx| Poll::Ready(leg.send(cx, &[7; 1000])));
            sent.await.unwrap();
            written += 1000;
        }
        assert!(leg.waiting.is_empty() && !leg.has_sent_all());
        let sending = poll_fn(|cx| leg.poll_send_waiting(cx));
        let mut received = vec![0; written];
        let both = async { tokio::join!(sending, peer.read_exact(&mut received)) };
        let (sent, read) = timeout(PATIENCE, both).await.unwrap();
        sent.unwrap();
        read.unwrap();
        assert!(received.iter().all(|byte| *byte == 7));
        assert!(leg.has_sent_all());
    }
}
