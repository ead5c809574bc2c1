//! Groups of servers: who is in them, who can be used now, and who is next.
//!
//! ```text
//!  config::Upstream ──► Group ──► Members (swapped whole when addresses change)
//!                         │          ├─ primary ─ balancer ─► Lease on a Server
//!       health checks ────┤          └─ backup  ─ balancer
//!       name resolution ──┘
//! ```
//!
//! A [`Server`] is the lasting part: its counts and its health outlive reloads as long as the
//! address stays in the upstream. A [`Member`] is what one configuration says of it.

pub mod balance;
mod connect;
mod connection;
mod eject;
mod group;
pub mod health;
pub mod history;
mod keys_in_use;
mod resolve;
mod server;
mod tasks;

pub use connect::{Shortage, Sources, Way};
pub use connection::{KeptConnector, Repeatable, TCP_KEEPALIVE};
pub use group::{Departed, Departure, Departures, Group, Knowledge, Pick};
pub use server::{Lease, Load, Member, Server};
