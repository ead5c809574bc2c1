//! Everything of a start that comes before the first accept, and that can fail.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use log::{info, warn};

use super::duties::PidFile;
use super::take_over::Predecessor;
use crate::admin::{self, AdminSocket};
use crate::app::{App, StartError};
use crate::config::{self, Config, ListenAddress};
use crate::listener::{Binder, Inherited};

/// All sockets are bound, nothing is accepted.
pub struct Started {
    pub app: Arc<App>,
    pub admin: Option<(AdminSocket, Binder)>,
    /// Inherited sockets that the configuration no longer has.
    unused: Vec<ListenAddress>,
    /// The files of those that are ours to remove.
    pub leftover: Vec<PathBuf>,
}

impl Started {
    /// What of `inherited` is not in the file is closed.
    pub fn new(config: Config, mut inherited: Inherited) -> Result<Self, StartError> {
        let admin = config.admin.clone();
        let app = Arc::new(App::start(config, &mut inherited)?);
        let admin = match admin {
            Some(admin) => Some(bind_admin(admin, &mut inherited)?),
            None => None,
        };
        let (mut unused, mut leftover) = (Vec::new(), Vec::new());
        for (address, binder) in inherited.unused() {
            info!("the inherited socket on {address} is not in the file and is closed");
            if let (ListenAddress::Unix(path), Binder::Us) = (address, binder) {
                leftover.push(path.clone());
            }
            unused.push(address.clone());
        }
        Ok(Self {
            app,
            admin,
            unused,
            leftover,
        })
    }

    /// Returns when the process before lets this one serve. Nothing may fail after this: the other
    /// one has begun to let go.
    pub async fn take_over(
        &self,
        predecessor: &Predecessor,
        pid_file: &PidFile,
    ) -> Result<(), StartError> {
        self.app.prove().await?;
        pid_file.check()?;
        tokio::task::block_in_place(|| predecessor.ask_to_serve(&self.app, &self.unused))?;
        Ok(())
    }

    /// This process serves: the files of unix sockets are its own, less those that systemd has
    /// bound.
    pub fn own_files(&self) {
        for listener in self.app.listeners() {
            listener.keep_file(false);
        }
        if let Some((admin, Binder::Us)) = &self.admin {
            admin.take_file();
        }
    }
}

/// Nobody listens on these any more.
pub fn remove_leftover(files: &[PathBuf]) {
    for file in files {
        if let Err(error) = fs::remove_file(file) {
            warn!("cannot remove {}: {error}", file.display());
        }
    }
}

fn bind_admin(
    admin: config::Admin,
    inherited: &mut Inherited,
) -> Result<(AdminSocket, Binder), StartError> {
    let address = admin.listen;
    let bound = match (inherited.take(&address), &address) {
        (Some((descriptor, binder)), ListenAddress::Tcp(_)) => {
            AdminSocket::from_std_tcp(descriptor.into()).map(|socket| (socket, binder))
        }
        (Some((descriptor, binder)), ListenAddress::Unix(_)) => {
            AdminSocket::from_std_unix(descriptor.into()).map(|socket| (socket, binder))
        }
        (None, address) => admin::bind(address).map(|socket| (socket, Binder::Us)),
    };
    bound.map_err(|cause| StartError::Admin { address, cause })
}
