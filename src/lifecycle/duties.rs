//! What only the process does that serves.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use log::warn;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Process, notify};
use crate::app::StartError;

/// How long a process that ends waits for answers of its admin API, and for calls that have just
/// begun.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// It answers operators, feeds systemd's watchdog, and has its number in the file for it.
pub struct Duties {
    process: Arc<Process>,
    admin_ends: watch::Sender<bool>,
    serving_admin: Option<JoinHandle<()>>,
    watchdog: JoinHandle<()>,
}

impl Duties {
    pub fn begin(process: &Arc<Process>) -> Self {
        let (admin_ends, admin_stops) = watch::channel(false);
        let serving_admin = process.serve_admin(admin_stops);
        notify::ready();
        Self {
            process: process.clone(),
            admin_ends,
            serving_admin,
            watchdog: tokio::spawn(notify::feed_watchdog()),
        }
    }

    pub async fn end(self) {
        // At once: fed by an old process, the watchdog would not see the new one hang.
        self.watchdog.abort();
        self.admin_ends.send_replace(true);
        if let Some(serving) = self.serving_admin {
            // Answers that are on their way; not for longer than they need.
            let _ = tokio::time::timeout(LAST_ANSWERS, serving).await;
        }
        self.process.pid_file.remove_ours();
    }
}

/// Holds the process id, where the configuration wants it.
#[derive(Debug)]
pub struct PidFile(Option<PathBuf>);

impl PidFile {
    pub fn new(path: Option<PathBuf>) -> Self {
        Self(path)
    }

    /// Whether it could be written. What is in it stays.
    pub fn check(&self) -> Result<(), StartError> {
        self.or_error(|path| {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(false);
            options.open(path).map(drop)
        })
    }

    pub fn write(&self) -> Result<(), StartError> {
        self.or_error(|path| fs::write(path, format!("{}\n", std::process::id())))
    }

    /// As [`PidFile::write`], when it is too late to give up for it.
    pub fn claim(&self) {
        if let Err(error) = self.write() {
            warn!("{error}");
        }
    }

    /// After an upgrade it is the new process's, and stays.
    pub fn remove_ours(&self) {
        if let Some(path) = &self.0
            && fs::read_to_string(path)
                .is_ok_and(|pid| pid.trim() == std::process::id().to_string())
            && let Err(error) = fs::remove_file(path)
        {
            warn!("pid_file: cannot remove {}: {error}", path.display());
        }
    }

    fn or_error(&self, act: impl FnOnce(&PathBuf) -> io::Result<()>) -> Result<(), StartError> {
        let Some(path) = &self.0 else { return Ok(()) };
        act(path).map_err(|cause| StartError::PidFile {
            path: path.clone(),
            cause,
        })
    }
}
