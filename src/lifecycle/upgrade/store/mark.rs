//! How a process learns that its stop is part of a restart: `ExecStop=` of the unit runs
//! `prusik keep`, which leaves a file with the number of the process that is about to be stopped.
//!
//! systemd stops a process by TERM, whatever happens to the unit then. A TERM without the mark is a
//! stop for good.

use std::env;
use std::fs;
use std::io;
use std::path::PathBuf;

use log::warn;

/// In the folder that the unit and the process share.
fn path() -> Option<PathBuf> {
    let folders = env::var_os("RUNTIME_DIRECTORY")?;
    let folder = env::split_paths(&folders).next()?;
    Some(folder.join("restart.pid"))
}

/// A mark that was left for a process and not taken must not be taken by a later one.
pub fn remove() {
    if let Some(path) = path() {
        // Mostly there is none.
        let _ = fs::remove_file(path);
    }
}

/// Marks the stop of this process as part of a restart.
pub fn leave_for(pid: u32) -> io::Result<()> {
    let path = path().ok_or_else(|| io::Error::other("the unit has no RuntimeDirectory="))?;
    fs::write(path, format!("{pid}\n"))
}

/// Whether the stop of this process is part of a restart. The mark holds once.
pub fn take() -> bool {
    let Some(path) = path() else {
        return false;
    };
    let marked = fs::read_to_string(&path).unwrap_or_default();
    let is_ours = marked.trim() == std::process::id().to_string();
    if is_ours && let Err(error) = fs::remove_file(&path) {
        warn!("cannot remove {}: {error}", path.display());
    }
    is_ours
}
