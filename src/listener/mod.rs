//! Where clients come in: bound sockets, the accept loop, and the door to Pingora.
//!
//! The accept loop is ours and not Pingora's listening service, for three reasons: a socket that
//! cannot be bound is an error before anything is served; every connection is wrapped in a
//! [`ClientStream`] without another buffer below; and the process stops when it is empty, not
//! after a fixed time. See `docs/decisions.md`.

mod accept;
mod door;
mod entrance;
pub mod head;
mod http2;
mod pace;
mod reading;
mod socket;
pub mod stream;

pub use accept::{Accepting, Arrival, Connections, Edge, serve};
pub use entrance::{Entrance, Ticket};
pub use reading::Refused;
pub use socket::{BindError, Binder, BoundListener, Inherited, bind, is_stale, open, shut};
pub use stream::{ClientEnd, ClientStream, Connection, Reading};
