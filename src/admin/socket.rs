//! The API's socket. A unix socket is only for its owner.

use std::io;

use crate::net::{Inherited, ListenAddress, ListeningSocket, SocketOptions};

const OPTIONS: SocketOptions = SocketOptions {
    // More callers than are served at a time.
    backlog: 128,
    is_private: true,
    prepare: |_| Ok(()),
};

/// Takes the inherited socket for this address, or else binds one.
pub fn bind(address: &ListenAddress, inherited: &mut Inherited) -> io::Result<ListeningSocket> {
    ListeningSocket::bind(address, OPTIONS, inherited)
}
