//! The end of a connection whose handshake was refused by a Close frame.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::edge::Edge;
use crate::net::linger::{LINGER, LINGER_BYTES};
use crate::session::ClientEnd;
use crate::session::goodbye::CLOSE_WAIT;
use crate::transport::Transport;
use crate::websocket::frames::{FrameScanner, Sender};

impl Edge {
    /// Waits for the client's Close frame, and then closes first, as a server does (RFC 6455
    /// section 7.1.1). Whatever else the client sends is read and dropped. The connection counts
    /// until the end.
    pub(super) async fn see_out(&self, client: ClientEnd) {
        let ClientEnd {
            mut transport,
            early,
            admission,
            ..
        } = client;
        let mut frames = FrameScanner::new(Sender::Client, false);
        frames.feed(&early);
        let ending = async {
            // A client that takes longer is not waited for.
            let _ = timeout(CLOSE_WAIT, read_close(&mut transport, frames)).await;
            let _ = timeout(LINGER, read_out(transport)).await;
        };
        tokio::select! {
            () = ending => {}
            () = self.last_moment() => {}
        }
        drop(admission);
    }
}

/// Reads to the end of the client's Close frame, or to where no such frame can follow.
async fn read_close(transport: &mut Transport, mut frames: FrameScanner) -> io::Result<()> {
    let mut chunk = [0; 512];
    while !frames.is_closed() && !frames.is_broken() {
        match transport.read(&mut chunk).await? {
            0 => break,
            read => frames.feed(&chunk[..read]),
        };
    }
    Ok(())
}

async fn read_out(mut transport: Transport) -> io::Result<()> {
    transport.shutdown().await?;
    let mut rest = transport.take(LINGER_BYTES);
    while rest.read(&mut [0; 512]).await? > 0 {}
    Ok(())
}
