//! One side of a relay: its socket, the bytes that wait for it, and the frames that it sends.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::goodbye::{Position, Says, Side, Takes};
use crate::transport::Transport;
use crate::websocket::frames::{FrameScanner, Sender};

/// One side of the session. `S` reads what this side sends.
#[derive(Debug)]
pub struct Leg<S = FrameScanner> {
    pub transport: Transport,
    /// Bytes that this side has not taken yet.
    pub waiting: BytesMut,
    pub scanner: S,
    /// Whether this side has ended its data.
    pub ended: bool,
    pub send_state: SendState,
    /// Since when this side takes nothing of the waiting bytes. `None`: nothing waits, or TCP
    /// measures the time (see `stall` of [`super::relay`]).
    pub stalled_since: Option<Instant>,
}

/// Whether bytes may still go to a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendState {
    Open,
    /// No: the side was told that the other side has ended.
    Shut,
    /// No: the side takes nothing, because it has reset or closed its connection.
    Broken {
        since: Instant,
    },
}

impl<S> Leg<S> {
    pub fn with(transport: Transport, scanner: S) -> Self {
        Self {
            transport,
            waiting: BytesMut::new(),
            scanner,
            ended: false,
            send_state: SendState::Open,
            stalled_since: None,
        }
    }

    /// Whether nothing more can be sent to this side.
    pub fn is_shut(&self) -> bool {
        self.send_state != SendState::Open
    }

    /// Since when this side takes nothing more, if it is broken.
    pub fn broken_since(&self) -> Option<Instant> {
        match self.send_state {
            SendState::Broken { since } => Some(since),
            SendState::Open | SendState::Shut => None,
        }
    }

    /// The side takes nothing more. Only the first call counts, so that the session's end is not
    /// delayed.
    pub fn break_off(&mut self, since: Instant) {
        if self.broken_since().is_none() {
            self.send_state = SendState::Broken { since };
        }
        self.waiting = BytesMut::new();
        self.stalled_since = None;
    }

    /// Sends as much as the socket takes at once. The rest waits.
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

    /// Tries to send although the socket has not reported room. This shows whether a peer that
    /// takes only a little at a time still takes something.
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
        // Writing is not sending: TLS buffers more than the socket takes.
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    /// Whether no data waits here to be sent to this side.
    pub fn has_sent_all(&self) -> bool {
        self.waiting.is_empty() && (self.is_shut() || self.transport.is_flushed())
    }
}

/// A side that sends frames.
impl Leg {
    pub fn new(transport: Transport, sender: Sender, extended: bool) -> Self {
        Self::with(transport, FrameScanner::new(sender, extended))
    }

    /// The state of this side, as a goodbye needs it.
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

    /// Where in the frames its sent bytes stand. A header passes only when it is whole and sound.
    pub fn position(&self) -> Position {
        if self.scanner.is_broken() {
            Position::Broken
        } else if self.scanner.between_frames() {
            Position::Boundary
        } else {
            Position::InFrame
        }
    }

    /// How many bytes remain of the frame that is passing.
    pub fn left_of_frame(&self) -> usize {
        usize::try_from(self.scanner.payload_left()).unwrap_or(usize::MAX)
    }

    /// Whether the Close frame of this side has passed completely.
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
        let acceptor = Acceptor::new(vec![pair], None, Vec::new(), false).unwrap();
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
