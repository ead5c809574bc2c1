//! The process from its start to its end: the shell around the [`Supervisor`].

use std::path::Path;
use std::sync::Arc;

use log::info;

use super::pid_file::PidFile;
use super::process::{Inbox, Process};
use super::shell::Shell;
use super::signals::Signals;
use super::start::{self, Started};
use super::upgrade::{Program, exec, predecessor};
use crate::admin::Access;
use crate::app::{StartError, Stop};
use crate::config::Config;
use crate::phase::{Phase, Stopping};

/// What this process was started with, except its configuration.
#[derive(Debug)]
pub struct Origin {
    program: Program,
    named: Vec<predecessor::Named>,
    /// Whether to take over from a process at `server.hand_over`, if there is one.
    takes_over: bool,
}

impl Origin {
    /// Must be called before anything else: other files could take the numbers of the descriptors.
    pub fn find(takes_over: bool) -> std::io::Result<Self> {
        Ok(Self {
            named: exec::inherited(),
            program: Program::of_this_process()?,
            takes_over,
        })
    }

    /// This process cannot serve. Tells the reason to an old process that waits for it.
    pub fn refuse(self, reason: &str) {
        let (_, predecessor) = predecessor::sort(self.named);
        if let Some(predecessor) = predecessor {
            predecessor.refuse(reason);
        }
    }
}

/// Serves until a signal or a new process ends it.
pub async fn run(path: &Path, config: Config, origin: Origin) -> Result<(), StartError> {
    crate::limits::descriptors::raise();
    let mut signals = Signals::install()?;
    let pid_file = PidFile::new(config.server.pid_file.clone());
    let admin = config.admin.as_ref();
    let access = Access::new(admin.and_then(|admin| admin.token_file.clone()));
    let program = Some(origin.program);
    let begun = begin(config, origin.named, origin.takes_over);
    let ((started, predecessor), mut early) = match signals.until(begun).await {
        Ok((begun, early)) => (begun?, early),
        Err(signal) => {
            info!("{}: stopped before it served", signal.name());
            return Ok(());
        }
    };
    let Started {
        app,
        admin,
        hand_over,
        ..
    } = &started;
    let sockets = (admin.clone(), hand_over.clone());
    let file = Some(path.to_owned());
    let (process, inbox) = Process::new(app.clone(), file, program, sockets, access);
    let has_predecessor = predecessor.is_some();
    let prepared = async {
        let taking_over = match predecessor {
            None => {
                // Only now: a second process that finds its listeners in use must not change the
                // first one's file.
                pid_file.write()?;
                process.app.warm_up().await;
                None
            }
            Some(predecessor) => Some(start::take_over(&started, predecessor, &pid_file).await?),
        };
        Ok::<_, StartError>(taking_over)
    };
    let taking_over = match signals.until(prepared).await {
        Ok((Ok(taking_over), signals)) => {
            early.extend(signals);
            taking_over
        }
        Ok((Err(error), _)) => {
            started.close();
            return Err(error);
        }
        Err(signal) => {
            if !has_predecessor {
                call_off(&process, &pid_file).await;
            }
            started.close();
            info!("{}: stopped before it served", signal.name());
            return Ok(());
        }
    };
    if has_predecessor {
        pid_file.claim();
        start::own_files(&started);
    }
    process.app.accept();
    let shell = Shell::new(process, pid_file, has_predecessor);
    info!("ready");
    let outcome = shell.run(inbox, (Some(signals), early), taking_over).await;
    info!("stopped");
    outcome?;
    Ok(())
}

/// The listeners, and the process before this one if there is one: it may have its own work to end
/// before it answers.
async fn begin(
    config: Config,
    named: Vec<predecessor::Named>,
    takes_over: bool,
) -> Result<(Started, Option<predecessor::Predecessor>), StartError> {
    let (inherited, predecessor) = predecessor::sort(named);
    // A process that already has a predecessor was started by an upgrade, or in a restart.
    match predecessor {
        None if takes_over => start::taking_over(&config, inherited).await,
        predecessor => start::bind_all(config, inherited, predecessor),
    }
}

/// Nobody is served yet, and nobody else serves.
async fn call_off(process: &Process, pid_file: &PidFile) {
    let phases = process.app.phases();
    phases.enter(Phase::Stopping(Stopping::Draining));
    process.app.stop(Stop::Now).await;
    process.close_sockets();
    pid_file.remove_ours();
}

/// Supervises a prusik without a file or a program of its own (a tier of the demo), until the
/// runtime ends.
pub async fn supervise(process: Arc<Process>, inbox: Inbox) {
    let shell = Shell::new(process, PidFile::new(None), false);
    // Without a process before it there is nothing to lose.
    let _ = shell.run(inbox, (None, Vec::new()), None).await;
}
