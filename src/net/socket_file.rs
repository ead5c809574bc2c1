//! The file of a unix socket: who owns it, and when it is removed.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Removed with the socket if we own it, unless another file has replaced it since.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// The device and the inode.
    identity: (u64, u64),
    is_ours: AtomicBool,
}

impl SocketFile {
    /// `None`: there is no such file.
    pub fn find(path: &Path) -> Option<Self> {
        Some(Self {
            path: path.to_owned(),
            identity: identity(path)?,
            is_ours: AtomicBool::new(false),
        })
    }

    /// Sets whether the file is removed with the socket.
    pub fn set_ours(&self, is_ours: bool) {
        self.is_ours.store(is_ours, Ordering::Release);
    }

    /// Removes the file if we own it and it is still the same. After that we do not own it.
    pub fn remove(&self) {
        let is_ours = self.is_ours.swap(false, Ordering::AcqRel);
        if is_ours && identity(&self.path) == Some(self.identity) {
            // Another process may have removed it at this moment.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let meta = fs::symlink_metadata(path).ok()?;
    Some((meta.dev(), meta.ino()))
}

/// Whether a killed process has left this socket file: nobody listens on it.
pub fn is_stale(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
        && UnixStream::connect(path)
            .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}
