//! An established TLS connection on a socket of ours.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::CommonState;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connector::{OF_UPSTREAM, with_remedy};
use super::record::{self, RecordStream, Saved, SavedError, TrafficSecrets};
use super::whole_records::WholeRecords;
use super::{ClientCertificate, HTTP_2};
use crate::net::Socket;

/// A connection as tokio-rustls has it after the handshake.
pub(super) type Handshaken = tokio_rustls::TlsStream<WholeRecords<Socket>>;

#[derive(Debug)]
pub struct TlsStream {
    inner: Inner,
    /// The client's certificate, if the client has shown one.
    client: Option<Arc<ClientCertificate>>,
    /// Whether an end without close_notify counts as a normal end.
    forgives_truncation: bool,
}

#[derive(Debug)]
enum Inner {
    /// Boxed, because what follows it is small and lives long.
    Rustls(Box<Handshaken>, Arc<TrafficSecrets>),
    /// The same after it has [left rustls](TlsStream::leave_rustls).
    Record(RecordStream<Socket>),
    /// It could not leave rustls, and has ended by that.
    Failed(Socket, record::NotConverted),
}

impl TlsStream {
    /// Requests and frames have their own lengths, so a cut is always noticed.
    pub(super) fn of_client(
        stream: Handshaken,
        traffic: Arc<TrafficSecrets>,
        client: Option<Arc<ClientCertificate>>,
    ) -> Self {
        if stream.get_ref().1.alpn_protocol() == Some(HTTP_2) {
            // It never leaves rustls.
            traffic.clear();
        }
        Self {
            inner: Inner::Rustls(Box::new(stream), traffic),
            client,
            forgives_truncation: true,
        }
    }

    /// A response may end with its connection, so one that was cut short must not look complete
    /// (RFC 9112 section 9.8).
    pub(super) fn to_server(stream: Handshaken, traffic: Arc<TrafficSecrets>) -> Self {
        Self {
            inner: Inner::Rustls(Box::new(stream), traffic),
            client: None,
            forgives_truncation: false,
        }
    }

    /// Continues what another process has begun.
    pub fn restore(
        socket: Socket,
        saved: &Saved,
        client: Option<Arc<ClientCertificate>>,
        needs_close_notify: bool,
    ) -> Result<Self, SavedError> {
        Ok(Self {
            inner: Inner::Record(RecordStream::restore(socket, saved)?),
            client,
            forgives_truncation: !needs_close_notify,
        })
    }

    /// Whether an end without close_notify is a cut.
    pub fn needs_close_notify(&self) -> bool {
        !self.forgives_truncation
    }

    /// From now on it carries frames, which have their own lengths.
    pub fn forgive_truncation(&mut self) {
        self.forgives_truncation = true;
    }

    /// Goes on without rustls, in less memory and such that it [can be saved](Self::save). It must
    /// carry HTTP/1.1, or what has followed it.
    #[must_use]
    pub fn leave_rustls(mut self: Box<Self>) -> Box<Self> {
        let Inner::Rustls(stream, traffic) = self.inner else {
            return self;
        };
        if !record::is_suited(stream.get_ref().1) {
            self.inner = Inner::Rustls(stream, traffic);
            return self;
        }
        let (io, connection) = match *stream {
            tokio_rustls::TlsStream::Client(stream) => {
                let (io, connection) = stream.into_inner();
                (io, connection.into())
            }
            tokio_rustls::TlsStream::Server(stream) => {
                let (io, connection) = stream.into_inner();
                (io, connection.into())
            }
        };
        let (socket, held) = io.into_parts();
        self.inner = match record::convert(connection, &traffic) {
            Ok(converted) => Inner::Record(RecordStream::new(socket, converted, held)),
            Err(error) => Inner::Failed(socket, error),
        };
        self
    }

    /// The state with which another process continues, if it can. Nothing may be read or written
    /// here any more, unless it is certain that the other process has not used it.
    pub fn save(&self) -> Option<Saved> {
        match &self.inner {
            Inner::Record(stream) if stream.can_be_saved() => Some(stream.save()),
            _ => None,
        }
    }

    /// Whether it can be [saved](Self::save) now.
    pub fn can_be_saved(&self) -> bool {
        matches!(&self.inner, Inner::Record(stream) if stream.can_be_saved())
    }

    pub fn client(&self) -> Option<&Arc<ClientCertificate>> {
        self.client.as_ref()
    }

    /// What rustls knows of it, as long as rustls has it.
    fn rustls(&self) -> Option<&CommonState> {
        match &self.inner {
            Inner::Rustls(stream, _) => Some(stream.get_ref().1),
            Inner::Record(_) | Inner::Failed(..) => None,
        }
    }

    /// Whether the handshake has agreed on HTTP/2. Such a connection never leaves rustls.
    pub fn is_http2(&self) -> bool {
        let state = self.rustls();
        state.is_some_and(|state| state.alpn_protocol() == Some(HTTP_2))
    }

    pub fn socket(&self) -> &Socket {
        match &self.inner {
            Inner::Rustls(stream, _) => stream.get_ref().0.socket(),
            Inner::Record(stream) => stream.socket(),
            Inner::Failed(socket, _) => socket,
        }
    }

    /// Whether the kernel has all that was written: what the socket does not take waits here.
    pub fn is_flushed(&self) -> bool {
        match &self.inner {
            Inner::Rustls(stream, _) => !stream.get_ref().1.wants_write(),
            Inner::Record(stream) => stream.is_flushed(),
            Inner::Failed(..) => true,
        }
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        let polled = match &mut stream.inner {
            Inner::Rustls(stream, _) => Pin::new(stream).poll_read(cx, buf),
            Inner::Record(stream) => Pin::new(stream).poll_read(cx, buf),
            Inner::Failed(_, error) => Poll::Ready(Err(io::Error::other(*error))),
        };
        match polled {
            Poll::Ready(Err(error))
                if error.kind() == io::ErrorKind::UnexpectedEof && stream.forgives_truncation =>
            {
                Poll::Ready(Ok(()))
            }
            // With TLS 1.3 a server refuses a client's certificate only now.
            Poll::Ready(Err(error)) if !stream.forgives_truncation => {
                Poll::Ready(Err(with_remedy(error, &OF_UPSTREAM)))
            }
            // Before waiting for an answer, send what the socket has not taken.
            Poll::Pending if !stream.is_flushed() => match Pin::new(stream).poll_flush(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                _ => Poll::Pending,
            },
            polled => polled,
        }
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().inner {
            Inner::Rustls(stream, _) => Pin::new(stream).poll_write(cx, buf),
            Inner::Record(stream) => Pin::new(stream).poll_write(cx, buf),
            Inner::Failed(_, error) => Poll::Ready(Err(io::Error::other(*error))),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().inner {
            Inner::Rustls(stream, _) => Pin::new(stream).poll_flush(cx),
            Inner::Record(stream) => Pin::new(stream).poll_flush(cx),
            Inner::Failed(..) => Poll::Ready(Ok(())),
        }
    }

    /// Sends close_notify, then ends the socket's direction.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().inner {
            Inner::Rustls(stream, _) => Pin::new(stream).poll_shutdown(cx),
            Inner::Record(stream) => Pin::new(stream).poll_shutdown(cx),
            Inner::Failed(socket, _) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}
