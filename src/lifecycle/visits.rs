//! Processes that ask, at the socket `server.hand_over`, to take over from this one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use log::warn;
use tokio::net::UnixStream;
use tokio::time::sleep;

use super::process::{Message, Process};
use super::upgrade::rendezvous;
use crate::net::{Accepted, ListeningSocket};
use crate::observe::repeated::{self, Kind};

/// How long to wait after an accept that failed, for instance because descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the socket as long as this process is the one that serves.
pub async fn serve(socket: Arc<ListeningSocket>, process: Arc<Process>) {
    if let Err(error) = accept_all(&socket, &process).await {
        warn!(
            "hand_over: nobody can take over at {}: {error}",
            socket.address()
        );
    }
}

/// Returns only when the socket cannot be served at all.
async fn accept_all(socket: &ListeningSocket, process: &Arc<Process>) -> io::Result<()> {
    socket.listen()?;
    let acceptor = socket.acceptor()?;
    loop {
        match acceptor.accept().await {
            Ok(Accepted::Unix(stream)) => {
                tokio::spawn(receive(stream, process.clone()));
            }
            // The configuration allows unix sockets only.
            Ok(Accepted::Tcp(..)) => {}
            Err(error) => {
                let what = "hand_over: cannot accept";
                repeated::warn(Kind::of(what), format!("{what}: {error}"));
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The supervisor decides whether the process may take over, as for an operator's upgrade.
async fn receive(stream: UnixStream, process: Arc<Process>) {
    match rendezvous::greet(stream).await {
        Ok(visit) => process.send(Message::Visit(Box::new(visit))),
        Err(error) => warn!("hand_over: a take-over was not let in: {error}"),
    }
}
