//! The lowest layer of sockets: listening and connected ones, their addresses and files.
//!
//! Nothing here knows HTTP, sessions or the configuration.

mod address;
mod keepalive;
pub mod linger;
mod listen;
mod overlap;
pub mod pages;
pub mod pingora;
mod socket;
mod socket_file;

pub use address::ListenAddress;
pub use keepalive::{TCP_KEEPALIVE, keepalive_with};
pub use listen::{
    Accepted, AsyncListener, Binder, BoundId, Inherited, ListeningSocket, SocketOptions,
};
pub use overlap::overlap;
pub use socket::{Socket, SocketKind};
pub use socket_file::is_stale;
