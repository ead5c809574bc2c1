//! The accept loop, and what each accepted connection goes through.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use log::{error, warn};
use pingora::apps::ServerApp;
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;
use pingora_proxy::HttpProxy;
use tokio_util::either::Either;
use tokio_util::task::TaskTracker;

use super::socket::{BoundListener, ListeningSocket};
use super::stream::{ClientStream, Socket};
use crate::proxy::Gateway;

/// The connections being served: what a stopping process waits for.
pub type Connections = TaskTracker;

/// Our side of the door to Pingora's proxy: sees each connection before it is HTTP, and gets
/// back what is left of it afterwards.
pub struct Edge {
    proxy: Arc<HttpProxy<Gateway>>,
}

impl Edge {
    pub fn new(proxy: HttpProxy<Gateway>) -> Self {
        Self {
            proxy: Arc::new(proxy),
        }
    }
}

#[async_trait]
impl ServerApp for Edge {
    async fn process_new(
        self: &Arc<Self>,
        stream: Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        self.proxy.process_new(stream, shutdown).await
    }

    /// Tells idle keep-alive connections that the process stops.
    async fn cleanup(&self) {
        self.proxy.cleanup().await;
    }
}

/// After an accept that failed for want of descriptors or memory: the next would fail as well.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// Accepts until `shutdown` says so; `index` tells the listeners apart.
pub async fn serve(
    listener: BoundListener,
    index: usize,
    edge: Arc<Edge>,
    connections: Connections,
    mut shutdown: ShutdownWatch,
) {
    let mut exhausted = false;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => return,
            accepted = accept(&listener.socket) => accepted,
        };
        match accepted {
            Ok(socket) => {
                if std::mem::take(&mut exhausted) {
                    warn!("listener {:?}: accepting again", listener.name);
                }
                let (edge, shutdown) = (edge.clone(), shutdown.clone());
                connections.spawn(async move {
                    let stream = Box::new(ClientStream::new(index, socket));
                    edge.process_new(stream, &shutdown).await;
                });
            }
            Err(error) if is_the_clients_fault(&error) => {}
            Err(error) => {
                if !std::mem::replace(&mut exhausted, true) {
                    error!(
                        "listener {:?}: cannot accept: {error}; new clients wait (raise \
                         LimitNOFILE if descriptors ran out)",
                        listener.name
                    );
                }
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }
}

async fn accept(socket: &ListeningSocket) -> io::Result<Socket> {
    match socket {
        ListeningSocket::Tcp(socket) => Ok(Either::Left(socket.accept().await?.0)),
        ListeningSocket::Unix(socket, _) => Ok(Either::Right(socket.accept().await?.0)),
    }
}

/// Errors of the one connection that was about to be accepted (accept(2)).
fn is_the_clients_fault(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}
