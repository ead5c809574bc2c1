//! The file of a unix socket: whose it is, and when it goes.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Goes with the socket if it is ours, unless somebody has put another file in its place since.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
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

    /// Whether the file is to go with the socket.
    pub fn set_ours(&self, is_ours: bool) {
        self.is_ours.store(is_ours, Ordering::Release);
    }

    /// Removes it if it is ours and still the same. Afterwards it is nobody's here.
    pub fn remove(&self) {
        let is_ours = self.is_ours.swap(false, Ordering::AcqRel);
        if is_ours && identity(&self.path) == Some(self.identity) {
            // Somebody may have removed it at this very moment.
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

/// A socket file that nobody listens on is left over from a process that was killed.
pub fn is_stale(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
        && UnixStream::connect(path)
            .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}
