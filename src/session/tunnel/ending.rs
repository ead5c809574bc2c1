//! The goodbye of a session in Pingora's tunnel: does what [`Goodbye`] decides, between Pingora's
//! reads and writes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

use super::{Phase, TunnelStream};
use crate::session::direction::Direction;
use crate::session::expiry::ANSWER;
use crate::session::goodbye::{
    CLOSE_WAIT, Goodbye, Limit, Next, Position, Says, Side, Takes, TimeUp,
};
use crate::session::traffic::ClosedBy;
use crate::websocket::frames::{CloseCode, FrameScanner, close_to_client, close_to_server};

/// How long the client may take for its answer, or for the frame that is passing.
fn close_wait(by: ClosedBy) -> Duration {
    match by {
        ClosedBy::Expiry => ANSWER,
        _ => CLOSE_WAIT,
    }
}

impl TunnelStream {
    /// The client is told at once if the stream to it is at a frame boundary. Else it is told after
    /// the frame that is passing, which may take as long as a goodbye.
    pub(super) fn begin_close(&mut self, by: ClosedBy, code: u16) {
        let is_cause = self.traffic.close(by, None);
        let [client, server] = self.sides();
        let goodbye = Goodbye::begin_with_one_moment(code, client, server);
        self.timer.as_mut().reset(Instant::now() + close_wait(by));
        self.phase = Phase::Ending {
            goodbye,
            by,
            is_cause,
        };
        self.next_to_client();
    }

    /// The states of client and server, as the goodbye needs them. After the client's answer the
    /// server is not waited for: Pingora can only be told of an end, and that ends both sides.
    fn sides(&self) -> [Side; 2] {
        let side = |scanner, takes| Side {
            says: Says::of(scanner),
            has_ended: false,
            takes,
            has_got_all: true,
        };
        [
            side(&self.to_server, Takes::More),
            side(&self.to_client, Takes::Nothing),
        ]
    }

    fn is_over(&self) -> bool {
        let [client, server] = self.sides();
        match &self.phase {
            Phase::Ending { goodbye, .. } => goodbye.is_over(client, server),
            Phase::Ended => true,
            Phase::Fresh | Phase::Head | Phase::Response | Phase::Open { .. } => false,
        }
    }

    /// What is done next in the direction to the client. A Close frame of ours that is due is
    /// inserted, and the server is told at the same moment. No later moment is possible: we are
    /// called for the server only when Pingora writes what the client has said, and a client that
    /// does not answer says nothing.
    fn next_to_client(&mut self) -> Next {
        let Phase::Ending {
            goodbye,
            by,
            is_cause,
        } = &mut self.phase
        else {
            return Next::Discard;
        };
        let next = goodbye.next(Direction::ToClient, position(&self.to_client));
        let Next::Say(code) = next else {
            return next;
        };
        if *is_cause {
            self.traffic.set_close_code(CloseCode::Code(code));
        }
        let reason = by.reason(code);
        let frame = close_to_client(code, reason);
        self.heads.behind.extend_from_slice(&frame);
        if let Some(code) = goodbye.tell_server_now(position(&self.to_server)) {
            let frame = close_to_server(code, reason, rand::random());
            // If only a part of the frame is sent, nothing may follow that part.
            if self.io.send_at_once(&frame) == 0 {
                goodbye.server_took_nothing();
            }
        }
        // The client has the whole time for its answer, however long its last frame has taken. Who
        // has no credential any more has what is left of the time.
        if *by != ClosedBy::Expiry {
            self.timer.as_mut().reset(Instant::now() + CLOSE_WAIT);
        }
        next
    }

    pub(super) fn poll_ending(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Phase::Ended = self.phase {
            return Poll::Ready(Ok(()));
        }
        let mut next = self.next_to_client();
        if matches!(next, Next::Say(_)) {
            next = self.next_to_client();
        }
        if self.heads.deliver_behind(buf) {
            return Poll::Ready(Ok(()));
        }
        // Checked before each read, so that a server which keeps sending does not delay the end.
        if self.is_over() || self.poll_time_up(cx).is_ready() {
            self.phase = Phase::Ended;
            return Poll::Ready(Ok(()));
        }
        let Next::Pass(limit) = next else {
            return Poll::Pending;
        };
        if !ready!(self.poll_pass(cx, buf, limit)) {
            // The server is gone. In the middle of a frame no Close frame can be inserted.
            self.phase = Phase::Ended;
        }
        Poll::Ready(Ok(()))
    }

    /// Passes what the server sends, and not a byte more than the goodbye allows. Returns false if
    /// the server has ended.
    fn poll_pass(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        limit: Limit,
    ) -> Poll<bool> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, buf));
        if read.is_err() || buf.filled().len() == before {
            return Poll::Ready(false);
        }
        if limit == Limit::Frame {
            let rest = self.to_client.left_of_frame(&buf.filled()[before..]);
            buf.set_filled(before + rest);
        }
        self.observe_to_client(&buf.filled()[before..]);
        self.next_to_client();
        Poll::Ready(true)
    }

    /// Ready when the time of the goodbye is up.
    pub(super) fn poll_time_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let Phase::Ending { goodbye, .. } = &mut self.phase else {
                return Poll::Ready(());
            };
            match goodbye.time_is_up() {
                TimeUp::Again(wait) => self.timer.as_mut().reset(Instant::now() + wait),
                TimeUp::Cut => return Poll::Ready(()),
            }
        }
    }
}

/// In the tunnel a header passes before it is whole. No boundary is within a header, and none
/// follows broken framing.
pub(super) fn position(scanner: &FrameScanner) -> Position {
    if scanner.at_boundary() {
        Position::Boundary
    } else {
        Position::InFrame
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
    use tokio::time::{advance, timeout};

    use super::*;
    use crate::net::Socket;
    use crate::session::traffic::{Order, Traffic};
    use crate::session::tunnel::Limits;

    const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";

    /// 1001 from us to a client.
    const OUR_CLOSE: &[u8] = b"\x88\x02\x03\xe9";

    /// A session whose server is in the test's hand, as is the place of Pingora.
    async fn open() -> (TunnelStream, UnixStream, Arc<Traffic>) {
        let (mut server, socket) = UnixStream::pair().unwrap();
        let limits = Limits {
            response: Duration::from_secs(60),
            idle: None,
            max_session: None,
            messages_per_second: None,
            expiry: None,
        };
        let traffic = Arc::new(Traffic::default());
        let socket = Socket::Unix(socket).into();
        let mut tunnel = TunnelStream::new(socket, limits, traffic.clone(), Default::default());
        server.write_all(SWITCH).await.unwrap();
        let mut head = vec![0; SWITCH.len()];
        tunnel.read_exact(&mut head).await.unwrap();
        (tunnel, server, traffic)
    }

    fn end(traffic: &Traffic) {
        let by = ClosedBy::Drain;
        traffic.ask(Order::End { by, code: 1001 });
    }

    async fn all_of(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
        let mut all = Vec::new();
        let reading = stream.read_to_end(&mut all);
        timeout(Duration::from_secs(60), reading)
            .await
            .expect("it ends")
            .unwrap();
        all
    }

    #[tokio::test(start_paused = true)]
    async fn both_sides_are_told_and_nothing_goes_to_the_server_behind_that() {
        let (mut tunnel, mut server, traffic) = open().await;
        end(&traffic);
        let mut told = [0; OUR_CLOSE.len()];
        tunnel.read_exact(&mut told).await.unwrap();
        assert_eq!(told, OUR_CLOSE);
        tunnel.write_all(b"\x81\x80\0\0\0\0").await.unwrap();
        tunnel.write_all(b"\x88\x80\0\0\0\0").await.unwrap();
        assert_eq!(all_of(&mut tunnel).await, b"");
        drop(tunnel);
        let heard = all_of(&mut server).await;
        assert_eq!((&heard[..2], heard.len()), (&b"\x88\x82"[..], 8));
        assert_eq!(traffic.closed_by(), Some(ClosedBy::Drain));
        assert_eq!(traffic.close_code(), Some(1001));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_inside_a_frame_of_its_clients_hears_that_to_the_end() {
        let (mut tunnel, mut server, traffic) = open().await;
        let says = b"\x81\x84\0\0\0\0tock\x88\x80\0\0\0\0";
        tunnel.write_all(&says[..8]).await.unwrap();
        end(&traffic);
        let mut told = [0; OUR_CLOSE.len()];
        tunnel.read_exact(&mut told).await.unwrap();
        tunnel.write_all(&says[8..]).await.unwrap();
        assert_eq!(all_of(&mut tunnel).await, b"");
        drop(tunnel);
        assert_eq!(all_of(&mut server).await, says);
    }

    /// RFC 6455 section 5.5.1.
    #[tokio::test(start_paused = true)]
    async fn a_close_frame_of_the_servers_is_not_followed_by_one_of_ours() {
        let (mut tunnel, mut server, traffic) = open().await;
        let close = b"\x88\x02\x0f\xa1";
        server.write_all(close).await.unwrap();
        let mut heard = [0; 4];
        tunnel.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, close);
        end(&traffic);
        let begun = Instant::now();
        assert_eq!(all_of(&mut tunnel).await, b"");
        assert!(begun.elapsed() <= CLOSE_WAIT + Duration::from_millis(10));
        drop(tunnel);
        assert_eq!(all_of(&mut server).await, b"");
        assert_eq!(traffic.closed_by(), Some(ClosedBy::Server));
        assert_eq!(traffic.close_code(), Some(4001));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_ends_its_frame_does_not_put_off_the_end() {
        let (mut tunnel, mut server, traffic) = open().await;
        server
            .write_all(b"\x82\x7f\0\0\0\x01\0\0\0\0")
            .await
            .unwrap();
        let mut chunk = [0; 10];
        tunnel.read_exact(&mut chunk).await.unwrap();
        end(&traffic);
        // Begins the goodbye: there is nothing to read now.
        let nothing = timeout(Duration::from_millis(1), tunnel.read(&mut chunk)).await;
        assert!(nothing.is_err());
        for _ in 0..CLOSE_WAIT.as_millis() / 500 {
            server.write_all(&[7; 10]).await.unwrap();
            assert_eq!(tunnel.read(&mut chunk).await.unwrap(), 10);
            advance(Duration::from_millis(500)).await;
        }
        server.write_all(&[7; 10]).await.unwrap();
        assert_eq!(tunnel.read(&mut chunk).await.unwrap(), 0, "it is over");
        assert_eq!(traffic.closed_by(), Some(ClosedBy::Drain));
        assert_eq!(traffic.close_code(), None, "nobody was told");
    }
}
