//! The API's socket: only its owner may use a unix one.

use std::io;

use crate::net::{Inherited, ListenAddress, ListeningSocket, SocketOptions};

const OPTIONS: SocketOptions = SocketOptions {
    // More callers than the API serves at a time.
    backlog: 128,
    is_private: true,
    prepare: |_| Ok(()),
};

/// Takes over the socket of this address if it was inherited, else binds one.
pub fn bind(address: &ListenAddress, inherited: &mut Inherited) -> io::Result<ListeningSocket> {
    ListeningSocket::bind(address, OPTIONS, inherited)
}
