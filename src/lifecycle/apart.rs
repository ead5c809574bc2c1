//! The operator's API on a thread and a runtime of its own: however busy the workers are with traffic,
//! it answers at once.

use std::io;
use std::sync::Arc;
use std::thread;

use async_trait::async_trait;
use log::error;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::Process;
use crate::admin::view::{
    DrainStarted, ReloadReport, SessionPage, Status, UpgradeReport, Upstream,
};
use crate::admin::{
    self, Access, AdminSocket, Control, ControlError, ControlErrorKind, DrainOrder, ServerName,
    SessionFilter,
};

/// As [`admin::serve`]; ends when that does.
pub fn serve(
    socket: AdminSocket,
    control: Arc<dyn Control>,
    access: Access,
    stops: watch::Receiver<bool>,
) -> JoinHandle<()> {
    let (ends, ended) = oneshot::channel::<()>();
    let started = thread::Builder::new()
        .name("admin".to_owned())
        .spawn(move || {
            // Dropped at the end of it, however it comes.
            let _ends = ends;
            if let Err(cause) = run(&socket, control, access, stops) {
                error!("the admin API cannot be served: {cause}");
            }
        });
    if let Err(cause) = started {
        error!("the admin API cannot be served: {cause}");
    }
    tokio::spawn(async move {
        let _ = ended.await;
    })
}

fn run(
    socket: &AdminSocket,
    control: Arc<dyn Control>,
    access: Access,
    stops: watch::Receiver<bool>,
) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        admin::serve(socket.registered_here()?, control, access, stops).await;
        Ok(())
    })
}

/// The process, seen from there: what its calls start runs among the workers.
pub struct Apart {
    process: Arc<Process>,
    workers: Handle,
}

impl Apart {
    /// Must run inside the runtime of the workers.
    pub fn new(process: Arc<Process>) -> Self {
        let workers = Handle::current();
        Self { process, workers }
    }

    /// To its end, whatever becomes of who waits for it.
    async fn among_workers<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, ControlError>> + Send + 'static,
    ) -> Result<T, ControlError> {
        let ended = self.workers.spawn(work).await;
        ended.unwrap_or_else(|cause| {
            Err(ControlError {
                kind: ControlErrorKind::Refused,
                error: format!("the call ended badly: {cause}"),
                hint: "see prusik's log".to_owned(),
            })
        })
    }
}

#[async_trait]
impl Control for Apart {
    fn is_ready(&self) -> bool {
        self.process.is_ready()
    }

    fn status(&self) -> Status {
        self.process.status()
    }

    fn upstreams(&self) -> Vec<Upstream> {
        self.process.upstreams()
    }

    fn sessions(&self, filter: &SessionFilter) -> SessionPage {
        self.process.sessions(filter)
    }

    fn metrics(&self) -> String {
        self.process.metrics()
    }

    async fn reload(&self) -> Result<ReloadReport, ControlError> {
        let process = self.process.clone();
        self.among_workers(async move { Control::reload(&*process).await })
            .await
    }

    async fn upgrade(&self) -> Result<UpgradeReport, ControlError> {
        let process = self.process.clone();
        self.among_workers(async move { Control::upgrade(&*process).await })
            .await
    }

    fn drain(&self, server: &ServerName, order: DrainOrder) -> Result<DrainStarted, ControlError> {
        // It starts a task.
        let _inside = self.workers.enter();
        self.process.drain(server, order)
    }

    fn enable(&self, server: &ServerName) -> Result<(), ControlError> {
        self.process.enable(server)
    }

    fn close(&self, id: Uuid, code: Option<u16>) -> Result<(), ControlError> {
        self.process.close(id, code)
    }
}
