//! The operator's API on a thread and a runtime of its own, so that it answers at once however busy
//! the workers are.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::thread;

use log::error;
use tokio::runtime::Builder;
use tokio::sync::{oneshot, watch};

pub use crate::admin::Serving;
use crate::admin::{self, Access, Control, Milestones};
use crate::net::ListeningSocket;

/// A running API server, as the workers see it.
pub struct Server {
    accepts: oneshot::Receiver<Infallible>,
    hears: Option<oneshot::Receiver<Infallible>>,
    ends: oneshot::Receiver<Infallible>,
}

impl Server {
    pub async fn accepts_no_more(&mut self) {
        // The sender is dropped when the thread accepts no more.
        let _ = (&mut self.accepts).await;
    }

    /// Completes when every connection that was accepted here is closed. Once for each server.
    pub fn hears_no_more(&mut self) -> impl Future<Output = ()> + Send + use<> {
        let hears = self.hears.take();
        async move {
            if let Some(hears) = hears {
                let _ = hears.await;
            }
        }
    }

    pub async fn ended(self) {
        let _ = self.ends.await;
    }
}

/// Like [`admin::serve`]. Ends when that ends.
pub fn serve(
    socket: Arc<ListeningSocket>,
    control: Arc<dyn Control>,
    access: Access,
    serving: watch::Receiver<Serving>,
) -> Server {
    let (accepts_no_more, accepts) = oneshot::channel();
    let (hears_no_more, hears) = oneshot::channel();
    let milestones = Milestones {
        accepts_no_more,
        hears_no_more,
    };
    let (ends, ended) = oneshot::channel::<Infallible>();
    let started = thread::Builder::new()
        .name("admin".to_owned())
        .spawn(move || {
            // Dropped at the end of this function, whatever ends it.
            let _ends = ends;
            if let Err(cause) = run(&socket, control, access, serving, milestones) {
                error!("the admin API cannot be served: {cause}");
            }
        });
    if let Err(cause) = started {
        error!("the admin API cannot be served: {cause}");
    }
    Server {
        accepts,
        hears: Some(hears),
        ends: ended,
    }
}

fn run(
    socket: &ListeningSocket,
    control: Arc<dyn Control>,
    access: Access,
    serving: watch::Receiver<Serving>,
    milestones: Milestones,
) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        socket.listen()?;
        let acceptor = socket.acceptor()?;
        admin::serve(acceptor, control, access, serving, milestones).await;
        Ok(())
    })
}
