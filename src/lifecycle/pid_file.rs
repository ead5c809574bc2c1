//! The file with the process id, if the configuration has one.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::PathBuf;

use log::warn;

use crate::app::StartError;

#[derive(Debug)]
pub struct PidFile(Option<PathBuf>);

impl PidFile {
    pub fn new(path: Option<PathBuf>) -> Self {
        Self(path)
    }

    /// Checks that the file can be written, and leaves its content as it is.
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

    /// Like [`PidFile::write`], but an error is only logged, as it is too late to give up.
    pub fn claim(&self) {
        if let Err(error) = self.write() {
            warn!("{error}");
        }
    }

    /// After an upgrade the file belongs to the new process, and stays.
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
