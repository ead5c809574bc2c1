//! An established TLS connection on a socket of ours.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::HTTP_2;
use super::connector::with_remedy;
use crate::net::Socket;

#[derive(Debug)]
pub struct TlsStream {
    inner: tokio_rustls::TlsStream<Socket>,
    /// The subject of the client's certificate, if the client has shown one.
    client: Option<Arc<str>>,
    /// Whether an end without close_notify counts as a normal end.
    forgives_truncation: bool,
}

impl TlsStream {
    /// Requests and frames have their own lengths, so a cut is always noticed.
    pub(super) fn of_client(
        inner: tokio_rustls::TlsStream<Socket>,
        client: Option<Arc<str>>,
    ) -> Self {
        Self {
            inner,
            client,
            forgives_truncation: true,
        }
    }

    /// A response may end with its connection, so one that was cut short must not look complete
    /// (RFC 9112 section 9.8).
    pub(super) fn to_server(inner: tokio_rustls::TlsStream<Socket>) -> Self {
        Self {
            inner,
            client: None,
            forgives_truncation: false,
        }
    }

    /// From now on it carries frames, which have their own lengths.
    pub fn forgive_truncation(&mut self) {
        self.forgives_truncation = true;
    }

    pub fn client(&self) -> Option<&Arc<str>> {
        self.client.as_ref()
    }

    /// Whether the handshake has agreed on HTTP/2.
    pub fn is_http2(&self) -> bool {
        self.inner.get_ref().1.alpn_protocol() == Some(HTTP_2)
    }

    pub fn socket(&self) -> &Socket {
        self.inner.get_ref().0
    }

    /// Whether the kernel has all that was written: rustls buffers more than the socket takes.
    pub fn is_flushed(&self) -> bool {
        let (_, session) = self.inner.get_ref();
        !session.wants_write()
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        match Pin::new(&mut stream.inner).poll_read(cx, buf) {
            Poll::Ready(Err(error))
                if error.kind() == io::ErrorKind::UnexpectedEof && stream.forgives_truncation =>
            {
                Poll::Ready(Ok(()))
            }
            // With TLS 1.3 a server refuses a client's certificate only now.
            Poll::Ready(Err(error)) if !stream.forgives_truncation => {
                Poll::Ready(Err(with_remedy(error)))
            }
            // Before waiting for an answer, send what the socket has not taken.
            Poll::Pending if !stream.is_flushed() => {
                match Pin::new(&mut stream.inner).poll_flush(cx) {
                    Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                    _ => Poll::Pending,
                }
            }
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
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    /// Sends close_notify, then ends the socket's direction.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
