//! One stream of an HTTP/2 connection, as a connection that speaks HTTP/1.1.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::Method;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::fragments::Found;
use super::request::Body;
use super::response::{Part, Reader};
use super::settled::Settled;
use crate::limits::{SharedPermit, StreamPermit};
use crate::tls::Security;

/// The most bytes that go on a stream at once.
const CHUNK: usize = 16 * 1024;

/// Bytes that wait for the server are kept in pieces of this size, which are freed one by one.
const PIECE: usize = 4 * 1024;

/// What all streams of a connection share.
#[derive(Debug)]
pub struct Facts {
    pub peer: Option<SocketAddr>,
    pub local: Option<SocketAddr>,
    pub security: Security,
    /// Streams that the client cancelled before they had an answer.
    pub abandoned: AtomicUsize,
    /// Streams that are answered and whose body is still read.
    pub read_on: AtomicUsize,
    /// Streams whose `:path` holds a `#`, which h2 cuts.
    pub fragments: Found,
    pub settled: Arc<Settled>,
    /// Where the streams are counted. `None`: nowhere.
    pub permits: Option<Arc<SharedPermit>>,
}

#[derive(Debug)]
pub struct Http2Stream {
    facts: Arc<Facts>,
    /// `Some` until the stream is dropped.
    receive: Option<RecvStream>,
    body: Body,
    /// Bytes that were read from the stream and framed, and are not taken yet.
    ready: Pieces,
    /// How many bytes to allow the client again when `ready` is empty. Not earlier, or the client
    /// would send more than anybody takes.
    owed: usize,
    /// The client sends nothing more.
    ended: bool,
    send: Sending,
    reader: Reader,
    /// Counts as a connection as long as this value lives.
    _seat: Option<StreamPermit>,
}

/// Waiting bytes of a body, copied out of h2's buffers, which are larger and hold several frames.
#[derive(Debug, Default)]
struct Pieces {
    pieces: VecDeque<Bytes>,
}

impl Pieces {
    fn add(&mut self, bytes: &[u8]) {
        self.pieces
            .extend(bytes.chunks(PIECE).map(Bytes::copy_from_slice));
    }

    /// What h2 has no part of.
    fn add_own(&mut self, bytes: Bytes) {
        self.pieces.push_back(bytes);
    }

    fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Returns as many bytes as there is room for.
    fn read(&mut self, buf: &mut ReadBuf<'_>) {
        while let Some(first) = self.pieces.front_mut() {
            let count = first.len().min(buf.remaining());
            buf.put_slice(&first[..count]);
            first.advance(count);
            if !first.is_empty() {
                break;
            }
            self.pieces.pop_front();
        }
    }
}

#[derive(Debug)]
enum Sending {
    Head(SendResponse<Bytes>),
    Body(SendStream<Bytes>),
    Over,
}

impl Http2Stream {
    /// `body`: how the stream's bytes follow the head.
    pub fn new(
        facts: Arc<Facts>,
        permit: Option<StreamPermit>,
        (receive, body): (RecvStream, Body),
        method: &Method,
        send: SendResponse<Bytes>,
    ) -> Self {
        Self {
            facts,
            ended: body == Body::None,
            receive: Some(receive),
            body,
            ready: Pieces::default(),
            owed: 0,
            send: Sending::Head(send),
            reader: Reader::new(method, body == Body::Raw),
            _seat: permit,
        }
    }

    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Ends the stream so that the client sees whether the response was complete or cut short.
    pub fn finish(&mut self) {
        match std::mem::replace(&mut self.send, Sending::Over) {
            Sending::Head(mut send) => send.send_reset(Reason::INTERNAL_ERROR),
            Sending::Body(mut send) if self.reader.ends_by_close() => {
                // If the stream is gone there is nobody to tell.
                let _ = send.send_data(Bytes::new(), true);
            }
            Sending::Body(mut send) => send.send_reset(Reason::INTERNAL_ERROR),
            Sending::Over => {}
        }
        self.reader.finish();
    }

    /// Ready when the client has cancelled the stream.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let reset = match &mut self.send {
            Sending::Head(send) => send.poll_reset(cx),
            Sending::Body(send) => send.poll_reset(cx),
            Sending::Over => return Poll::Pending,
        };
        reset.map(|_| io::ErrorKind::ConnectionReset.into())
    }

    /// Lets the client send as much again as was taken.
    fn release(&mut self, cx: &Context<'_>) {
        if self.owed == 0 || !self.facts.settled.look(cx) {
            return;
        }
        let owed = std::mem::take(&mut self.owed);
        if let Some(receive) = &mut self.receive {
            // If the stream is gone there is nobody who would send.
            let _ = receive.flow_control().release_capacity(owed);
        }
    }

    /// Puts the next bytes of the stream into `ready`, or finds the end of the stream.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(receive) = &mut self.receive else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        match ready!(receive.poll_data(cx)) {
            Some(Ok(data)) => {
                let length = data.len();
                self.owed += length;
                match &mut self.body {
                    // An empty chunk would be the last one.
                    Body::Chunked if length > 0 => {
                        self.ready.add_own(format!("{length:x}\r\n").into());
                        self.ready.add(&data);
                        self.ready.add_own(Bytes::from_static(b"\r\n"));
                    }
                    Body::Chunked | Body::None => self.release(cx),
                    Body::Length(left) => {
                        *left = left.saturating_sub(length as u64);
                        self.ready.add(&data);
                    }
                    Body::Raw => self.ready.add(&data),
                }
            }
            Some(Err(error)) => return Poll::Ready(Err(as_io(error))),
            None => {
                self.ended = true;
                match self.body {
                    Body::Chunked => self.ready.add_own(Bytes::from_static(b"0\r\n\r\n")),
                    Body::Length(1..) => {
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                    _ => {}
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends as much as the stream has room for.
    fn poll_data(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Sending::Body(send) = &mut self.send else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let wanted = bytes.len().min(CHUNK);
        send.reserve_capacity(wanted);
        while send.capacity() == 0 {
            match ready!(send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(as_io(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let count = wanted.min(send.capacity());
        self.reader.took(count);
        let is_last = self.reader.is_done();
        let data = Bytes::copy_from_slice(&bytes[..count]);
        send.send_data(data, is_last).map_err(as_io)?;
        if is_last {
            self.send = Sending::Over;
        }
        Poll::Ready(Ok(count))
    }
}

impl AsyncRead for Http2Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        loop {
            if !stream.ready.is_empty() {
                stream.ready.read(buf);
                if stream.ready.is_empty() {
                    stream.release(cx);
                }
                return Poll::Ready(Ok(()));
            }
            stream.release(cx);
            // An answered request is over. A session's two directions end separately.
            if matches!(stream.send, Sending::Over) && !stream.reader.has_switched() {
                return Poll::Ready(Ok(()));
            }
            if !stream.ended {
                ready!(stream.poll_more(cx))?;
            } else if stream.body == Body::Raw {
                return Poll::Ready(Ok(()));
            } else {
                // The end of a request is not the end of its connection, because an answer is
                // awaited.
                return stream.poll_reset(cx).map(Err);
            }
        }
    }
}

impl AsyncWrite for Http2Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let taken = match stream.reader.read(buf)? {
            Part::Nothing(taken) => taken,
            Part::Interim(taken, head) => {
                if let Sending::Head(send) = &mut stream.send {
                    // If an interim answer cannot be sent, it is left out.
                    let _ = send.send_informational(head);
                }
                taken
            }
            Part::Head(taken, head, is_whole) => {
                let Sending::Head(send) = &mut stream.send else {
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                };
                let body = send
                    .send_response(head, is_whole)
                    .map_err(io::Error::other)?;
                stream.send = match is_whole {
                    true => Sending::Over,
                    false => Sending::Body(body),
                };
                taken
            }
            Part::Data(data) => return stream.poll_data(cx, data),
            Part::End(taken) => {
                if let Sending::Body(send) = &mut stream.send {
                    send.send_data(Bytes::new(), true)
                        .map_err(io::Error::other)?;
                }
                stream.send = Sending::Over;
                taken
            }
        };
        Poll::Ready(Ok(taken))
    }

    /// The connection's own task sends what its streams have written.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().finish();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Http2Stream {
    fn drop(&mut self) {
        if self.reader.awaits_head() {
            self.facts.abandoned.fetch_add(1, Relaxed);
        }
        // Frames have their own lengths, so it does not matter how a session's stream ends.
        if self.body == Body::Raw {
            return self.finish();
        }
        if matches!(self.send, Sending::Over)
            && !self.ended
            && let Some(receive) = self.receive.take()
        {
            read_rest(receive, self.owed, &self.facts);
        }
    }
}

/// An error of the connection is an error of each of its streams.
fn as_io(error: h2::Error) -> io::Error {
    let kind = error.get_io().map_or(io::ErrorKind::Other, io::Error::kind);
    io::Error::new(kind, error)
}

/// How long an unwanted body is read, as for HTTP/1.1.
const READ_ON: Duration = Duration::from_secs(5);

/// How many streams of a connection are read on at a time. Further ones are reset at once.
const READ_ON_MAX: usize = 16;

/// Reads the rest of a request that was answered. If the stream were dropped at once, it would be
/// reset, and some clients then drop the answer (curl until 8.0), although RFC 9113 section 8.1
/// forbids that. `owed`: how many bytes were read and not released. `facts` counts this stream for
/// its connection.
pub fn read_rest(receive: RecvStream, owed: usize, facts: &Arc<Facts>) {
    if receive.is_end_stream() || facts.read_on.load(Relaxed) >= READ_ON_MAX {
        return;
    }
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(read_on(receive, owed, facts.clone()));
    }
}

async fn read_on(mut receive: RecvStream, owed: usize, facts: Arc<Facts>) {
    let rest = async {
        facts.settled.wait().await;
        let _ = receive.flow_control().release_capacity(owed);
        while let Some(Ok(data)) = receive.data().await {
            // If the stream is gone nobody sends more.
            let _ = receive.flow_control().release_capacity(data.len());
        }
    };
    facts.read_on.fetch_add(1, Relaxed);
    // A client that takes longer is told to stop.
    let _ = timeout(READ_ON, rest).await;
    facts.read_on.fetch_sub(1, Relaxed);
}
