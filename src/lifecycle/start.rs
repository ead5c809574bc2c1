//! The steps of a start that come before the first accept, and that can fail.

use std::sync::Arc;
use std::time::Duration;

use log::info;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::pid_file::PidFile;
use super::upgrade::predecessor::{self, Named, Predecessor};
use super::upgrade::rendezvous;
use super::upgrade::take_over::{Parting, PassedOn, TakingOver};
use crate::admin;
use crate::app::{App, StartError};
use crate::config::Config;
use crate::net::{Inherited, ListenAddress, ListeningSocket};

/// All sockets are bound, and nothing is accepted yet.
pub struct Started {
    pub app: Arc<App>,
    pub admin: Vec<Arc<ListeningSocket>>,
    /// The socket at which another process can ask to take over.
    pub hand_over: Option<Arc<ListeningSocket>>,
    /// Inherited sockets that are not in the configuration.
    unused: Vec<ListenAddress>,
}

impl Started {
    /// Closes the sockets of `inherited` that are not in the file.
    pub fn new(config: Config, mut inherited: Inherited) -> Result<Self, StartError> {
        let admin = config.admin.iter().flat_map(|admin| &admin.listen);
        let admin: Vec<ListenAddress> = admin.cloned().collect();
        let hand_over = config.server.hand_over.clone();
        let app = Arc::new(App::start(config, &mut inherited)?);
        let admin = admin.into_iter().map(|address| {
            let bound = admin::bind(&address, &mut inherited);
            bound
                .map(Arc::new)
                .map_err(|cause| StartError::Admin { address, cause })
        });
        let admin = admin.collect::<Result<_, _>>();
        let admin = admin.inspect_err(|_| close_listeners(&app))?;
        let hand_over = hand_over.map(|path| {
            let address = ListenAddress::Unix(path);
            let bound = admin::bind(&address, &mut inherited);
            bound
                .map(Arc::new)
                .map_err(|cause| StartError::HandOver { address, cause })
        });
        let hand_over = hand_over
            .transpose()
            .inspect_err(|_| close_listeners(&app))?;
        let unused = inherited.unused().map(|(address, _)| {
            info!("the inherited socket on {address} is not in the file and is closed");
            address.clone()
        });
        Ok(Self {
            unused: unused.collect(),
            app,
            admin,
            hand_over,
        })
    }

    fn own_sockets(&self) -> impl Iterator<Item = &Arc<ListeningSocket>> {
        self.admin.iter().chain(&self.hand_over)
    }

    /// This process will not serve. Removes the files of unix sockets that it has bound, but not of
    /// those it has inherited. The tasks that hold the sockets may outlive everything else.
    pub fn close(&self) {
        close_listeners(&self.app);
        self.own_sockets().for_each(|socket| socket.close());
    }
}

fn close_listeners(app: &App) {
    for listener in app.listeners() {
        listener.socket.close();
    }
}

/// A process that dies may hold its listeners a moment longer than the socket of the hand-over.
const GONE_WITHIN: Duration = Duration::from_secs(2);
const LOOKS_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Starts with the sockets of a process that already serves, or with `inherited` if there is none.
pub async fn taking_over(
    config: &Config,
    inherited: Inherited,
) -> Result<(Started, Option<Predecessor>), StartError> {
    // What is inherited can be taken once.
    let is_bare = inherited.unused().next().is_none();
    let mut inherited = inherited;
    let patience = Instant::now() + GONE_WITHIN;
    loop {
        let (given, predecessor) = match ask(config).await? {
            Some((given, old)) => (predecessor::sort(given).0, Some(old)),
            None => (std::mem::take(&mut inherited), None),
        };
        let may_repeat = is_bare && predecessor.is_none() && Instant::now() < patience;
        match bind_all(config.clone(), given, predecessor) {
            Err(error) if may_repeat && is_in_use(&error) => {
                sleep(LOOKS_AGAIN_AFTER).await;
            }
            started => return started,
        }
    }
}

/// An address of any kind may still be that of a process that is about to be gone.
fn is_in_use(error: &StartError) -> bool {
    use StartError::{Admin, Bind, HandOver};
    matches!(error, Bind(_) | Admin { .. } | HandOver { .. })
}

/// Starts with these sockets. If that fails, the predecessor is told.
pub fn bind_all(
    config: Config,
    inherited: Inherited,
    predecessor: Option<Predecessor>,
) -> Result<(Started, Option<Predecessor>), StartError> {
    let started = Started::new(config, inherited);
    if let (Err(error), Some(predecessor)) = (&started, &predecessor) {
        predecessor.refuse(&error.to_string());
    }
    Ok((started?, predecessor))
}

/// The sockets of a process that already serves. `None`: there is no such process.
async fn ask(config: &Config) -> Result<Option<(Vec<Named>, Predecessor)>, StartError> {
    let path = config.server.hand_over.clone();
    let path = path.ok_or(StartError::NowhereToAsk)?;
    let asked = rendezvous::ask(&path).await;
    let address = ListenAddress::Unix(path);
    match asked {
        Ok(None) => info!("nobody is at {address} to take over from"),
        Ok(Some(_)) => info!("taking over from the process at {address}"),
        Err(_) => {}
    }
    asked.map_err(|cause| StartError::TakeOver { address, cause })
}

/// Returns when the process before lets this one serve. Nothing may fail after this, because the
/// other process has begun to let go.
pub async fn take_over(
    started: &Started,
    predecessor: Predecessor,
    pid_file: &PidFile,
) -> Result<(UnboundedReceiver<PassedOn>, oneshot::Receiver<Parting>), StartError> {
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
    started.own_sockets().for_each(|socket| socket.own_file());
}
