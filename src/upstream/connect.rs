//! A connection to a server, with TLS where the upstream has it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use pingora::connectors::l4::Connect;
use pingora::protocols::l4::socket::SocketAddr as PeerAddress;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::{Error, ErrorType};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::session::handshake::set_option;
use crate::session::transport::Transport;
use crate::tls::Connector;

pub async fn connect(address: SocketAddr, tls: Option<&Connector>) -> pingora::Result<Transport> {
    let transport = Transport::Tcp(connect_tcp(address).await?);
    let Some(tls) = tls else {
        return Ok(transport);
    };
    tls.connect(address, transport).await.map_err(|cause| {
        let cause = io::Error::new(cause.kind(), format!("TLS to {address}: {cause}"));
        let context = format!("connecting to {address}");
        Error::because(ErrorType::TLSHandshakeFailure, context, cause)
    })
}

async fn connect_tcp(address: SocketAddr) -> pingora::Result<TcpStream> {
    TcpStream::connect(address).await.map_err(|cause| {
        let kind = match cause.kind() {
            io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                ErrorType::ConnectNoRoute
            }
            io::ErrorKind::TimedOut => ErrorType::ConnectTimedout,
            _ => ErrorType::ConnectError,
        };
        Error::because(kind, format!("connecting to {address}"), cause)
    })
}

/// For health checks, which Pingora makes by itself. Each gets a connection of its own.
#[derive(Debug)]
pub struct Connecting(pub Arc<Connector>);

#[async_trait]
impl Connect for Connecting {
    /// Bounded by the peer's `total_connection_timeout`, which Pingora applies around this.
    async fn connect(&self, address: &PeerAddress) -> pingora::Result<Stream> {
        let Some(address) = address.as_inet() else {
            return Error::e_explain(ErrorType::InternalError, "a server without an IP address");
        };
        let connected = Connected(connect(*address, Some(&self.0)).await?);
        Ok(VirtualSocketStream::new(Box::new(connected)).into())
    }
}

#[derive(Debug)]
struct Connected(Transport);

impl AsyncRead for Connected {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connected {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

impl VirtualSocket for Connected {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        set_option(&self.0, option)
    }
}
