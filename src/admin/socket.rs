//! The API's socket: bound here, or inherited from the process before; and, for the next one, its
//! descriptor.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fs, io, net};

use rustix::fs::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::config::ListenAddress;
use crate::listener::{self, is_stale};

/// More callers than the API serves at a time.
const BACKLOG: i32 = 128;

/// Clones are the same socket. It is closed when the last of them is dropped.
#[derive(Debug, Clone)]
pub struct AdminSocket(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    listener: Listener,
    /// `None` for TCP, and for a unix socket without a name.
    file: Option<Arc<SocketFile>>,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

#[derive(Debug)]
pub(super) enum Connection {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Must run inside the runtime, which the socket is registered with. A unix socket is its owner's
/// alone; the file of one that nobody listens on any more is replaced.
pub fn bind(address: &ListenAddress) -> io::Result<AdminSocket> {
    match address {
        ListenAddress::Tcp(address) => AdminSocket::from_std_tcp(net::TcpListener::bind(address)?),
        ListenAddress::Unix(path) => {
            let socket = AdminSocket::from_std_unix(bind_unix(path)?)?;
            socket.take_file();
            Ok(socket)
        }
    }
}

impl AdminSocket {
    pub fn from_std_tcp(listener: net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self(Arc::new(Inner {
            listener: Listener::Tcp(TcpListener::from_std(listener)?),
            file: None,
        })))
    }

    /// The socket's file stays whoever's it is; see [`AdminSocket::take_file`].
    pub fn from_std_unix(listener: unix::UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Self(Arc::new(Inner {
            listener: Listener::Unix(UnixListener::from_std(listener)?),
            file: address
                .as_pathname()
                .and_then(SocketFile::find)
                .map(Arc::new),
        })))
    }

    /// The same socket, for the runtime that this is called in.
    pub fn registered_here(&self) -> io::Result<Self> {
        let again = self.as_fd().try_clone_to_owned()?;
        let listener = match &self.0.listener {
            Listener::Tcp(_) => Listener::Tcp(TcpListener::from_std(again.into())?),
            Listener::Unix(_) => Listener::Unix(UnixListener::from_std(again.into())?),
        };
        let file = self.0.file.clone();
        Ok(Self(Arc::new(Inner { listener, file })))
    }

    /// In the configuration's own form, with the port that the kernel chose.
    pub fn address(&self) -> io::Result<ListenAddress> {
        match &self.0.listener {
            Listener::Tcp(listener) => Ok(ListenAddress::Tcp(listener.local_addr()?)),
            Listener::Unix(listener) => {
                let address = listener.local_addr()?;
                let path = address.as_pathname().unwrap_or(Path::new(""));
                Ok(ListenAddress::Unix(path.to_owned()))
            }
        }
    }

    /// Once this process has taken over from the one that it inherited the socket from: the file
    /// goes when the socket does. Not before: a successor that fails must leave it in place. Not
    /// at all when it is systemd's.
    pub fn take_file(&self) {
        if let Some(file) = &self.0.file {
            file.is_ours.store(true, Ordering::Release);
        }
    }

    /// Once another process has the socket: its file must outlive this one.
    pub fn leave_file(&self) {
        if let Some(file) = &self.0.file {
            file.is_ours.store(false, Ordering::Release);
        }
    }

    /// Whoever connects by TCP is refused from now on, though clones of the socket are alive.
    pub fn shut(&self) {
        if let Listener::Tcp(listener) = &self.0.listener {
            listener::shut(listener);
        }
    }

    /// Undoes [`AdminSocket::shut`].
    pub fn open(&self) {
        if let Listener::Tcp(listener) = &self.0.listener {
            listener::open(listener, BACKLOG);
        }
    }

    /// Nobody new finds the socket, even while clones of it are alive.
    pub(super) fn remove_file(&self) {
        if let Some(file) = &self.0.file {
            file.remove();
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Connection> {
        match &self.0.listener {
            Listener::Tcp(listener) => Ok(Connection::Tcp(listener.accept().await?.0)),
            Listener::Unix(listener) => Ok(Connection::Unix(listener.accept().await?.0)),
        }
    }
}

impl AsFd for AdminSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0.listener {
            Listener::Tcp(listener) => listener.as_fd(),
            Listener::Unix(listener) => listener.as_fd(),
        }
    }
}

/// Goes with the socket if it is ours.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode: a file that somebody has since put in its place is not removed.
    identity: (u64, u64),
    is_ours: AtomicBool,
}

impl SocketFile {
    fn find(path: &Path) -> Option<Self> {
        Some(Self {
            path: path.to_owned(),
            identity: identity(path)?,
            is_ours: AtomicBool::new(false),
        })
    }

    fn remove(&self) {
        if self.is_ours.swap(false, Ordering::AcqRel) && identity(&self.path) == Some(self.identity)
        {
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

fn bind_unix(path: &Path) -> io::Result<unix::UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Before it has a name: Linux makes the file with the mode of the socket, less the umask. A
    // chmod of the file would leave a moment in which others may connect, and the umask is the
    // whole process's.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    let address = SockAddr::unix(path)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
            fs::remove_file(path)?;
            socket.bind(&address)?;
        }
        bound => bound?,
    }
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn folder_and_path() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        (folder, path)
    }

    #[tokio::test]
    async fn a_unix_socket_is_its_owners_alone_and_goes_with_the_last_clone() {
        let (_folder, path) = folder_and_path();
        let socket = bind(&ListenAddress::Unix(path.clone())).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert_eq!(socket.address().unwrap(), ListenAddress::Unix(path.clone()));
        let clone = socket.clone();
        drop(socket);
        assert!(path.exists());
        drop(clone);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_stale_file_is_replaced_and_a_live_one_is_not() {
        let (_folder, path) = folder_and_path();
        drop(unix::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let address = ListenAddress::Unix(path.clone());
        let socket = bind(&address).unwrap();
        let error = bind(&address).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(unix::UnixStream::connect(&path).is_ok());
        drop(socket);
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_stays() {
        let (_folder, path) = folder_and_path();
        fs::write(&path, "precious").unwrap();
        assert!(bind(&ListenAddress::Unix(path.clone())).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_socket_that_was_handed_on_keeps_its_file() {
        let (_folder, path) = folder_and_path();
        let old = bind(&ListenAddress::Unix(path.clone())).unwrap();
        let inherited = old.as_fd().try_clone_to_owned().unwrap();
        let failed = AdminSocket::from_std_unix(inherited.try_clone().unwrap().into()).unwrap();
        drop(failed);
        assert!(unix::UnixStream::connect(&path).is_ok());
        let new = AdminSocket::from_std_unix(inherited.into()).unwrap();
        old.leave_file();
        new.take_file();
        drop(old);
        assert!(unix::UnixStream::connect(&path).is_ok());
        drop(new);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_file_that_another_process_put_there_stays() {
        let (_folder, path) = folder_and_path();
        let socket = bind(&ListenAddress::Unix(path.clone())).unwrap();
        // Moved, not removed: a free inode could be taken for the next file.
        fs::rename(&path, path.with_extension("old")).unwrap();
        let other = unix::UnixListener::bind(&path).unwrap();
        drop(socket);
        assert!(path.exists());
        drop(other);
    }

    #[tokio::test]
    async fn an_inherited_tcp_socket_keeps_its_address() {
        let std = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let expected = ListenAddress::Tcp(std.local_addr().unwrap());
        let socket = AdminSocket::from_std_tcp(std).unwrap();
        assert_eq!(socket.address().unwrap(), expected);
    }
}
