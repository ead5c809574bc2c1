//! The reader without a socket: what a client sends is a list of pieces.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use super::*;
use crate::config::{AcceptProxy, ListenerLimits};
use crate::forward::client_address::TrustedProxies;
use crate::limits::DrainDeadline;
use crate::listener::connection::Origin;
use crate::listener::{ListenerSettings, ListenerState};
use crate::net::BoundId;
use crate::tls::{Security, TlsRevision};
use crate::transport::Mobility;

const HEAD: &[u8] = b"GET /a HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// What comes from a client, a piece with each read; behind the last one nothing comes for now.
#[derive(Default)]
struct Pieces {
    pieces: VecDeque<Vec<u8>>,
    ends: bool,
}

impl AsyncRead for Pieces {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        let Some(piece) = socket.pieces.front_mut() else {
            return if socket.ends {
                Poll::Ready(Ok(()))
            } else {
                Poll::Pending
            };
        };
        let part = piece.len().min(buf.remaining());
        buf.put_slice(&piece[..part]);
        piece.drain(..part);
        if piece.is_empty() {
            socket.pieces.pop_front();
        }
        Poll::Ready(Ok(()))
    }
}

struct Client {
    reader: RequestReader,
    socket: Option<Pieces>,
    connection: Connection,
}

impl Client {
    fn new(limits: ListenerLimits) -> Self {
        let settings = ListenerSettings {
            name: "test".to_owned(),
            limits,
            proxy_protocol: AcceptProxy::Off,
            tls: None,
            tls_revision: TlsRevision::default(),
            trusted: TrustedProxies::default(),
            unrouted: Arc::default(),
        };
        let state = ListenerState::new(BoundId::new(0), settings, DrainDeadline::default());
        let origin = Origin {
            peer: None,
            local: None,
            security: Security::Plain,
            tls_revision: TlsRevision::default(),
            is_proxied: false,
            mobility: Mobility::Free,
            is_stream: false,
        };
        Self {
            reader: RequestReader::new(BytesMut::new()),
            socket: Some(Pieces::default()),
            connection: Connection::new(Arc::new(state), origin),
        }
    }

    fn sends(&mut self, piece: &[u8]) {
        let socket = self.socket.as_mut().unwrap();
        socket.pieces.push_back(piece.to_vec());
    }

    fn ends(&mut self) {
        self.socket.as_mut().unwrap().ends = true;
    }

    fn read(&mut self) -> Poll<io::Result<Vec<u8>>> {
        let mut bytes = [0; 4096];
        let mut buf = ReadBuf::new(&mut bytes);
        let mut cx = Context::from_waker(Waker::noop());
        let (socket, connection) = (&mut self.socket, &self.connection);
        let polled = self.reader.poll(socket, connection, &mut cx, &mut buf);
        polled.map_ok(|()| buf.filled().to_vec())
    }

    /// What Pingora gets at once; `None`: nothing for now.
    fn gets(&mut self) -> Option<Vec<u8>> {
        match self.read() {
            Poll::Ready(read) => Some(read.unwrap()),
            Poll::Pending => None,
        }
    }

    /// All of a body that is there.
    fn gets_body(&mut self) -> Vec<u8> {
        self.connection.set_reading(Reading::Body);
        let mut body = Vec::new();
        while let Some(part) = self.gets() {
            body.extend(part);
        }
        self.connection.set_reading(Reading::Head);
        body
    }

    /// Why the body of its request is refused.
    fn rejection_in_body(&mut self) -> Option<Rejection> {
        self.connection.set_reading(Reading::Body);
        while matches!(self.read(), Poll::Ready(Ok(_))) {}
        let refused = self.connection.take_refused()?;
        assert_eq!(refused.unsound, None);
        Some(refused.rejection)
    }
}

#[test]
fn a_head_is_given_out_whole_wherever_it_was_cut() {
    for cut in 1..HEAD.len() {
        let mut client = Client::new(ListenerLimits::default());
        client.sends(&HEAD[..cut]);
        assert_eq!(client.gets(), None, "cut at {cut}");
        client.sends(&HEAD[cut..]);
        assert_eq!(client.gets().unwrap(), HEAD, "cut at {cut}");
        assert!(client.reader.is_between_requests() && client.reader.is_empty());
    }
}

#[test]
fn a_second_request_waits_until_the_first_is_served() {
    let mut client = Client::new(ListenerLimits::default());
    let second = b"GET /b HTTP/1.1\r\nHost: b.test\r\n\r\n";
    client.sends(&[HEAD, second].concat());
    assert_eq!(client.gets().unwrap(), HEAD);
    assert!(client.gets_body().is_empty());
    assert_eq!(client.gets().unwrap(), second);
    assert_eq!(client.gets(), None);
}

#[test]
fn a_body_ends_where_its_framing_says_wherever_it_was_cut() {
    let by_length = ("Content-Length: 5", &b"hello"[..]);
    let in_chunks = (
        "Transfer-Encoding: chunked",
        &b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"[..],
    );
    for (field, body) in [by_length, in_chunks] {
        let head = format!("POST / HTTP/1.1\r\nHost: a.test\r\n{field}\r\n\r\n").into_bytes();
        let all = [&head, body, HEAD].concat();
        for cut in 1..all.len() {
            let mut client = Client::new(ListenerLimits::default());
            client.sends(&all[..cut]);
            client.sends(&all[cut..]);
            assert_eq!(client.gets().unwrap(), head, "{field}, cut at {cut}");
            assert_eq!(client.gets_body(), body, "{field}, cut at {cut}");
            assert_eq!(client.gets().unwrap(), HEAD, "{field}, cut at {cut}");
        }
    }
}

#[test]
fn what_comes_while_it_is_held_is_bounded_and_kept() {
    let mut client = Client::new(ListenerLimits::default());
    for _ in 0..2 * HELD_MAX / 1024 {
        client.sends(&[b'x'; 1024]);
    }
    let mut cx = Context::from_waker(Waker::noop());
    let polled = client.reader.poll_held(&mut client.socket, &mut cx);
    assert!(polled.is_pending());
    let early = client.reader.take_early();
    assert!((HELD_MAX..HELD_MAX + 4096).contains(&early.len()));
    client.socket = Some(Pieces::default());
    client.ends();
    let gone = client.reader.poll_held(&mut client.socket, &mut cx);
    assert!(matches!(gone, Poll::Ready(Ok(()))));
    let answered = client.reader.poll_answered(&mut client.socket, &mut cx);
    assert!(answered.is_pending());
}

#[test]
fn pingora_gets_a_head_of_ours_instead_of_one_that_is_refused() {
    let mut client = Client::new(ListenerLimits::default());
    client.sends(b"GET /a HTTP/1.1\r\nHost : a.test\r\n\r\nwhatever follows");
    assert_eq!(client.gets().unwrap(), SUBSTITUTE);
    let refused = client.connection.take_refused().unwrap();
    let unsound = refused.unsound.unwrap();
    assert_eq!((&*unsound.method, &*unsound.target), ("GET", "/a"));
    assert!(client.reader.is_empty());

    let mut client = Client::new(ListenerLimits::default());
    client.sends(&HEAD[..HEAD.len() - 1]);
    client.ends();
    assert_eq!(client.gets().unwrap(), SUBSTITUTE);
    assert!(client.connection.take_refused().is_some());
}

#[test]
fn a_body_that_is_too_large_or_broken_is_refused() {
    let limits = ListenerLimits {
        body_size: Some(4),
        ..ListenerLimits::default()
    };
    let mut client = Client::new(limits);
    client.sends(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello");
    let head = client.gets().unwrap();
    assert!(head.starts_with(b"POST / HTTP/1.1\r\n"));
    let refused = client.connection.take_refused().unwrap();
    assert_eq!((refused.rejection, refused.unsound), (LARGE_BODY, None));
    for (chunks, rejection) in [
        (&b"5\r\nhello\r\n"[..], LARGE_BODY),
        (b"x\r\n", BROKEN_BODY),
    ] {
        let mut client = Client::new(limits);
        client.sends(b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.gets().unwrap();
        client.sends(chunks);
        assert_eq!(client.rejection_in_body(), Some(rejection));
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_comes_too_slowly_is_refused() {
    let mut client = Client::new(ListenerLimits {
        body_rate: Some(100),
        ..ListenerLimits::default()
    });
    client.sends(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\n");
    client.gets().unwrap();
    assert_eq!(client.rejection_in_body(), None);
    tokio::time::advance(Duration::from_secs(4)).await;
    client.sends(b"h");
    assert_eq!(client.rejection_in_body(), None);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(client.rejection_in_body(), Some(SLOW_BODY));
}
