//! Processes that ask, at the socket `server.hand_over`, to take over from this one.

use std::io;
use std::sync::Arc;

use log::warn;
use tokio::sync::oneshot;

use super::process::{Message, Process};
use super::upgrade::rendezvous;
use crate::net::{Accepted, ListeningSocket};
use tokio::net::UnixStream;

/// Serves the socket as long as this process is the one that serves.
pub async fn serve(socket: Arc<ListeningSocket>, process: Arc<Process>) {
    if let Err(error) = accept_all(&socket, &process).await {
        warn!(
            "hand_over: nobody can take over at {}: {error}",
            socket.address()
        );
    }
}

async fn accept_all(socket: &ListeningSocket, process: &Arc<Process>) -> io::Result<()> {
    socket.listen()?;
    let acceptor = socket.acceptor()?;
    loop {
        if let Accepted::Unix(stream) = acceptor.accept().await? {
            let process = process.clone();
            tokio::spawn(async move {
                if let Err(error) = receive(stream, &process).await {
                    warn!("hand_over: a take-over was not let in: {error}");
                }
            });
        }
    }
}

/// The supervisor decides whether the process may take over, as for an operator's upgrade.
async fn receive(stream: UnixStream, process: &Process) -> io::Result<()> {
    let visit = rendezvous::greet(stream).await?;
    let (tell, outcome) = oneshot::channel();
    process.send(Message::Visit(Box::new(visit), tell));
    // The shell tells the visitor the result.
    let _ = outcome.await;
    Ok(())
}
