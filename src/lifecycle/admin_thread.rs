//! The operator's API on a thread and a runtime of its own: however busy the workers are with
//! traffic, it answers at once.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::thread;

use log::error;
use tokio::runtime::Builder;
use tokio::sync::{oneshot, watch};

pub use crate::admin::Serving;
use crate::admin::{self, Access, Control};
use crate::net::ListeningSocket;

/// One that serves, seen from the workers.
pub struct Server {
    accepts: oneshot::Receiver<Infallible>,
    ends: oneshot::Receiver<Infallible>,
}

impl Server {
    pub async fn accepts_no_more(&mut self) {
        // Its sender is dropped then.
        let _ = (&mut self.accepts).await;
    }

    pub async fn ended(self) {
        let _ = self.ends.await;
    }
}

/// As [`admin::serve`]; ends when that does.
pub fn serve(
    socket: Arc<ListeningSocket>,
    control: Arc<dyn Control>,
    access: Access,
    serving: watch::Receiver<Serving>,
) -> Server {
    let (accepts_no_more, accepts) = oneshot::channel();
    let (ends, ended) = oneshot::channel::<Infallible>();
    let started = thread::Builder::new()
        .name("admin".to_owned())
        .spawn(move || {
            // Dropped at the end of it, however it comes.
            let _ends = ends;
            if let Err(cause) = run(&socket, control, access, serving, accepts_no_more) {
                error!("the admin API cannot be served: {cause}");
            }
        });
    if let Err(cause) = started {
        error!("the admin API cannot be served: {cause}");
    }
    Server {
        accepts,
        ends: ended,
    }
}

fn run(
    socket: &ListeningSocket,
    control: Arc<dyn Control>,
    access: Access,
    serving: watch::Receiver<Serving>,
    accepts_no_more: oneshot::Sender<Infallible>,
) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        socket.listen()?;
        let acceptor = socket.acceptor()?;
        admin::serve(acceptor, control, access, serving, accepts_no_more).await;
        Ok(())
    })
}
