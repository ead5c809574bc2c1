//! Where clients come in: bound sockets, the accept loop, and the link to Pingora.
//!
//! The accept loop is ours and not Pingora's listening service, for three reasons: a socket that
//! cannot be bound is an error before anything is served; every connection is wrapped in a
//! [`ClientStream`] without another buffer below; and the process stops when it is empty, not
//! after a fixed time. See `docs/decisions.md`.

mod accept;
mod body_rate;
pub mod client_stream;
mod connection;
mod cut;
mod deadlines;
mod edge;
mod http2;
mod refuse;
mod rejected;
mod request_body;
mod request_reader;
mod setup;
mod socket;
mod state;
mod tunnel;
mod upgrade_offer;

use http::StatusCode;

use crate::http1::Rejection;

pub use accept::{serve, take_last};
pub use client_stream::{Arrival, ClientStream};
pub use connection::{Connection, Reading};
pub use edge::{ConnectionTasks, Edge, HttpApp};
pub use rejected::RejectedRequest;
pub use request_reader::LARGE_BODY;
pub use socket::{BindError, BoundListener, bind};
pub use state::{ListenerSettings, ListenerState};

/// For a request on a connection that has not shown what its listener now demands. The client may
/// repeat the request on a new connection (RFC 9110 section 15.5.20).
pub const OUTDATED: Rejection = Rejection::new(
    StatusCode::MISDIRECTED_REQUEST,
    "this connection was made before its listener asked for what it asks for now: connect again",
);
