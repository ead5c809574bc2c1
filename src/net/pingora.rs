//! How Pingora uses the sockets that it is given in place of its own.

use std::io;
use std::task::Context;

use pingora::protocols::l4::ext::set_tcp_keepalive;
use pingora::protocols::l4::virt::VirtualSockOpt;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

/// Whether this is the read by which Pingora checks a connection that could serve again, after a
/// response that has ended in order: it reads one byte, and is not woken later (`now_or_never`).
/// That waker is the only one without data; wakers cannot be compared, because their tables have
/// no single address.
pub fn is_last_look(cx: &Context<'_>, buf: &ReadBuf<'_>) -> bool {
    buf.remaining() == 1 && cx.waker().data().is_null()
}

/// Sets an option for Pingora. `None`: not a TCP socket, which has no such options.
pub fn set_option(tcp: Option<&TcpStream>, option: VirtualSockOpt) -> io::Result<()> {
    let Some(tcp) = tcp else {
        return Ok(());
    };
    match option {
        VirtualSockOpt::NoDelay => tcp.set_nodelay(true),
        VirtualSockOpt::KeepAlive(keepalive) => {
            set_tcp_keepalive(tcp, &keepalive).map_err(|error| io::Error::other(error.to_string()))
        }
        other => {
            let message = format!("{other:?} is no option of a server's socket");
            Err(io::Error::new(io::ErrorKind::Unsupported, message))
        }
    }
}
