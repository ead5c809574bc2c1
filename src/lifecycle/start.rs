//! The steps of a start that come before the first accept, and that can fail.

use std::sync::Arc;

use log::info;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

use super::pid_file::PidFile;
use super::upgrade::take_over::{PassedOn, Predecessor, TakingOver};
use crate::admin;
use crate::app::{App, StartError};
use crate::config::Config;
use crate::net::{Inherited, ListenAddress, ListeningSocket};

/// All sockets are bound, and nothing is accepted yet.
pub struct Started {
    pub app: Arc<App>,
    pub admin: Vec<Arc<ListeningSocket>>,
    /// Inherited sockets that are not in the configuration.
    unused: Vec<ListenAddress>,
}

impl Started {
    /// Closes the sockets of `inherited` that are not in the file.
    pub fn new(config: Config, mut inherited: Inherited) -> Result<Self, StartError> {
        let admin = config.admin.iter().flat_map(|admin| &admin.listen);
        let admin: Vec<ListenAddress> = admin.cloned().collect();
        let app = Arc::new(App::start(config, &mut inherited)?);
        let admin = admin.into_iter().map(|address| {
            let bound = admin::bind(&address, &mut inherited);
            bound
                .map(Arc::new)
                .map_err(|cause| StartError::Admin { address, cause })
        });
        let admin = admin.collect::<Result<_, _>>();
        let admin = admin.inspect_err(|_| close_listeners(&app))?;
        let unused = inherited.unused().map(|(address, _)| {
            info!("the inherited socket on {address} is not in the file and is closed");
            address.clone()
        });
        Ok(Self {
            unused: unused.collect(),
            app,
            admin,
        })
    }

    /// This process will not serve. Removes the files of unix sockets that it has bound, but not of
    /// those it has inherited. The tasks that hold the sockets may outlive everything else.
    pub fn close(&self) {
        close_listeners(&self.app);
        self.admin.iter().for_each(|socket| socket.close());
    }
}

fn close_listeners(app: &App) {
    for listener in app.listeners() {
        listener.socket.close();
    }
}

/// Returns when the process before lets this one serve. Nothing may fail after this, because the
/// other process has begun to let go.
pub async fn take_over(
    started: &Started,
    predecessor: Predecessor,
    pid_file: &PidFile,
) -> Result<(UnboundedReceiver<PassedOn>, oneshot::Receiver<()>), StartError> {
    let proved = async {
        started.app.prove().await?;
        pid_file.check()
    };
    if let Err(error) = proved.await {
        predecessor.refuse(&error.to_string());
        return Err(error);
    }
    let TakingOver {
        may_serve,
        commands,
        done,
    } = predecessor.take_over(started.app.clone(), &started.unused)?;
    match may_serve.await {
        Ok(Ok(())) => Ok((commands, done)),
        Ok(Err(reason)) => Err(std::io::Error::other(reason).into()),
        Err(_) => Err(std::io::Error::other("taking over ended badly").into()),
    }
}

/// This process serves, so it owns the files of its unix sockets, except those that systemd has
/// bound.
pub fn own_files(started: &Started) {
    for listener in started.app.listeners() {
        listener.socket.own_file();
    }
    started.admin.iter().for_each(|socket| socket.own_file());
}
