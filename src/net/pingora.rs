//! What Pingora does with the sockets that it is given in place of its own.

use std::io;
use std::task::Context;

use pingora::protocols::l4::ext::set_tcp_keepalive;
use pingora::protocols::l4::virt::VirtualSockOpt;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

/// The look that Pingora has at a connection when its response has ended in order and it can
/// serve again: one byte, and nobody who would be woken if there is none (`now_or_never`: the only
/// waker without data; two of them cannot be compared, their tables have no one address).
pub fn is_last_look(cx: &Context<'_>, buf: &ReadBuf<'_>) -> bool {
    buf.remaining() == 1 && cx.waker().data().is_null()
}

/// Sets what Pingora asks for. `None`: no socket of TCP, which has no such options.
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
