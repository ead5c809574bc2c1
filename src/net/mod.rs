//! Sockets below everything else: listening ones, their addresses, and the files of unix sockets.
//!
//! Nothing here knows HTTP, sessions or the configuration.

mod address;
mod listen;
mod overlap;
mod socket_file;

pub use address::ListenAddress;
pub use listen::{Accepted, Acceptor, Binder, Inherited, ListeningSocket, SocketOptions};
pub use overlap::overlap;
pub use socket_file::is_stale;
