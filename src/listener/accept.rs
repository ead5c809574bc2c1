//! The accept loop.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::edge::Edge;
use super::socket::BoundListener;
use crate::forward::proxy_protocol::AddrPair;
use crate::net::{Accepted, AsyncListener, BoundId, ListenAddress, Socket};
use crate::observe::repeated::{self, Kind};
use crate::phase::PhaseWatch;

/// The pause after an accept that failed for lack of descriptors or memory, because the next accept
/// would fail too.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections as long as the process does. `index` is the listener's number. When the
/// process begins to drain, the connections in the queue are accepted, and the socket is closed.
pub async fn serve(
    listener: Arc<BoundListener>,
    id: BoundId,
    edge: Arc<Edge>,
    mut phase: PhaseWatch,
) {
    loop {
        phase
            .until(|phase| phase.accepts() || phase.is_draining())
            .await;
        if phase.now().is_draining() {
            // Another process has the same socket, and accepts the connections in the queue.
            return listener.socket.close();
        }
        tokio::select! {
            biased;
            () = phase.until(|phase| !phase.accepts()) => {}
            never = accept_all(&listener, id, &edge) => match never {},
        }
        if phase.now().is_draining() {
            take_late(&listener, id, &edge).await;
            return take_last(&listener, id, &edge);
        }
    }
}

/// For a listener that ends: clients that have connected already get an answer, later ones are
/// refused.
pub fn take_last(listener: &BoundListener, id: BoundId, edge: &Arc<Edge>) {
    take_waiting(listener, id, edge);
    listener.socket.drain_queue();
    take_waiting(listener, id, edge);
    listener.socket.close();
}

fn take_waiting(listener: &BoundListener, id: BoundId, edge: &Arc<Edge>) {
    while let Ok(Some(accepted)) = listener.socket.accept_waiting() {
        let (socket, ends) = accepted_as(accepted);
        edge.admit(id, socket, ends);
    }
}

/// On a busy machine a client may not be in the queue although its connect(2) has returned: the
/// kernel handles the last packet of its handshake some time later.
async fn take_late(listener: &BoundListener, id: BoundId, edge: &Arc<Edge>) {
    if matches!(listener.socket.address(), ListenAddress::Tcp(_)) {
        for _ in 0..LOOKS {
            take_waiting(listener, id, edge);
            tokio::time::sleep(LATE / LOOKS).await;
        }
    }
}

const LATE: Duration = Duration::from_millis(20);
const LOOKS: u32 = 4;

fn accepted_as(accepted: Accepted) -> (Socket, Option<AddrPair>) {
    match accepted {
        Accepted::Tcp(stream, ends) => {
            let ends = ends.map(|(peer, local)| AddrPair { peer, local });
            (Socket::Tcp(stream), ends)
        }
        Accepted::Unix(stream) => (Socket::Unix(stream), None),
    }
}

async fn accept_all(listener: &BoundListener, id: BoundId, edge: &Arc<Edge>) -> Infallible {
    let mut exhausted = false;
    let mut acceptor: Option<AsyncListener> = None;
    loop {
        let accept = async {
            match &mut acceptor {
                Some(acceptor) => acceptor,
                none => none.insert(listener.socket.acceptor()?),
            }
            .accept()
            .await
        };
        match accept.await {
            Ok(accepted) => {
                if std::mem::take(&mut exhausted) {
                    let line = format!("listener {:?}: accepting again", listener.name);
                    repeated::warn(Kind::of(line.clone()), line);
                }
                let (socket, ends) = accepted_as(accepted);
                edge.admit(id, socket, ends);
            }
            Err(error) if is_the_clients_fault(&error) => {}
            Err(error) => {
                if !std::mem::replace(&mut exhausted, true) {
                    // This error may come and go as descriptors become free.
                    let what = format!("listener {:?}: cannot accept", listener.name);
                    let line = format!(
                        "{what}: {error}; new clients wait (raise LimitNOFILE if descriptors ran \
                         out)"
                    );
                    repeated::error(Kind::of(what), line);
                }
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }
}

/// Whether the error concerns only the connection that was about to be accepted (accept(2)).
fn is_the_clients_fault(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}
