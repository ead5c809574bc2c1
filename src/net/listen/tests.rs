use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::*;

const OPTIONS: SocketOptions = SocketOptions {
    backlog: 16,
    is_private: false,
    prepare: |_| Ok(()),
};

fn bind(address: &ListenAddress) -> io::Result<ListeningSocket> {
    ListeningSocket::bind(address, OPTIONS, &mut Inherited::default())
}

fn handed_on(socket: &ListeningSocket) -> Inherited {
    Inherited::new(vec![(socket.descriptor().unwrap(), Binder::Us)])
}

fn folder_and_path() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("web.sock");
    (folder, path)
}

fn tcp(ip: [u8; 4], port: u16) -> ListenAddress {
    ListenAddress::Tcp((ip, port).into())
}

fn port_of(socket: &ListeningSocket) -> u16 {
    match socket.address() {
        ListenAddress::Tcp(address) => address.port(),
        ListenAddress::Unix(_) => panic!("not by TCP"),
    }
}

impl ListeningSocket {
    fn has_waiting(&self) -> bool {
        let open = self.open.lock();
        match &open.as_ref().unwrap().socket {
            Bound::Tcp(socket) => socket.accept().is_ok(),
            Bound::Unix(socket) => socket.accept().is_ok(),
        }
    }
}

fn is_refused(port: u16) -> bool {
    net::TcpStream::connect(("127.0.0.1", port))
        .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[test]
fn a_private_unix_socket_is_its_owners_alone_and_its_file_goes_with_it() {
    let (_folder, path) = folder_and_path();
    let options = SocketOptions {
        is_private: true,
        ..OPTIONS
    };
    let address = ListenAddress::Unix(path.clone());
    let socket = ListeningSocket::bind(&address, options, &mut Inherited::default()).unwrap();
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    drop(socket);
    assert!(!path.exists());
}

#[test]
fn a_stale_file_is_replaced_and_a_live_one_and_what_is_no_socket_are_not() {
    let (_folder, path) = folder_and_path();
    drop(unix::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let address = ListenAddress::Unix(path.clone());
    let socket = bind(&address).unwrap();
    let error = bind(&address).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(unix::UnixStream::connect(&path).is_ok());
    drop(socket);
    fs::write(&path, "precious").unwrap();
    assert!(bind(&address).is_err());
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_file_that_was_handed_on_stays_until_its_new_owner_goes() {
    let (_folder, path) = folder_and_path();
    let address = ListenAddress::Unix(path.clone());
    let old = bind(&address).unwrap();
    let adopt = || ListeningSocket::bind(&address, OPTIONS, &mut handed_on(&old)).unwrap();
    // One that fails before it serves owns nothing.
    drop(adopt());
    assert!(unix::UnixStream::connect(&path).is_ok());
    let new = adopt();
    old.leave_file();
    new.own_file();
    drop(old);
    assert!(unix::UnixStream::connect(&path).is_ok());
    drop(new);
    assert!(!path.exists());
}

#[test]
fn a_file_that_somebody_else_put_there_stays() {
    let (_folder, path) = folder_and_path();
    let socket = bind(&ListenAddress::Unix(path.clone())).unwrap();
    // Moved, not removed: a free inode could be taken for the next file.
    fs::rename(&path, path.with_extension("old")).unwrap();
    let other = unix::UnixListener::bind(&path).unwrap();
    drop(socket);
    assert!(path.exists());
    drop(other);
}

#[test]
fn systemds_file_is_never_ours() {
    let (_folder, path) = folder_and_path();
    let systemds = unix::UnixListener::bind(&path).unwrap();
    let mut inherited = Inherited::new(vec![(systemds.into(), Binder::Systemd)]);
    let address = ListenAddress::Unix(path.clone());
    let socket = ListeningSocket::bind(&address, OPTIONS, &mut inherited).unwrap();
    socket.own_file();
    drop(socket);
    assert!(path.exists());
}

#[tokio::test]
async fn who_waits_in_the_queue_is_accepted_and_who_comes_later_is_refused() {
    let socket = bind(&tcp([127, 0, 0, 1], 0)).unwrap();
    let port = port_of(&socket);
    let waiting: Vec<_> = (0..3)
        .map(|_| net::TcpStream::connect(("127.0.0.1", port)).unwrap())
        .collect();
    socket.drain_queue();
    let late = TcpStream::connect(("127.0.0.1", port));
    let late = tokio::time::timeout(std::time::Duration::from_millis(100), late).await;
    assert!(late.is_err(), "nobody more is let into the queue");
    for _ in &waiting {
        let accepted = socket.accept_waiting().unwrap();
        assert!(matches!(accepted, Some(Accepted::Tcp(_, Some(_)))));
    }
    assert!(socket.accept_waiting().unwrap().is_none());
    socket.close();
    assert!(is_refused(port));
    socket.reopen().unwrap();
    assert!(!is_refused(port));
}

#[test]
fn a_unix_socket_that_is_closed_refuses_and_can_be_opened_again() {
    let (_folder, path) = folder_and_path();
    let socket = bind(&ListenAddress::Unix(path.clone())).unwrap();
    socket.close();
    assert!(unix::UnixStream::connect(&path).is_err());
    socket.reopen().unwrap();
    assert!(unix::UnixStream::connect(&path).is_ok());
}

#[test]
fn one_address_can_take_the_place_of_another_that_includes_it() {
    for (before, after) in [([0, 0, 0, 0], [127, 0, 0, 1]), ([127, 0, 0, 1], [0; 4])] {
        let old = bind(&tcp(before, 0)).unwrap();
        let port = port_of(&old);
        let wanted = tcp(after, port);
        assert_eq!(
            bind(&wanted).unwrap_err().kind(),
            io::ErrorKind::AddrInUse,
            "a process of its own must not"
        );
        let mut inherited = handed_on(&old);
        let new = ListeningSocket::bind(&wanted, OPTIONS, &mut inherited).unwrap();
        assert_eq!(inherited.unused().count(), 1);
        // Until it is to listen, clients are the old one's.
        let _client = net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert!(old.has_waiting());
        new.listen().unwrap();
        drop((inherited, old));
        assert!(!is_refused(port));
        drop(new);
        assert!(is_refused(port));
    }
}
