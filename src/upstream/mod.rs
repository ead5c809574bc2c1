//! Groups of servers: which servers belong to them, can be used now, and are next.
//!
//! ```text
//!  config::Upstream ──► Group ──► Members (swapped whole when addresses change)
//!                         │          ├─ primary ─ balancer ─► Lease on a Server
//!       health checks ────┤          └─ backup  ─ balancer
//!       name resolution ──┴── Membership (who belongs to it, and for how long)
//! ```
//!
//! A [`Server`] is the lasting part: its counts and its health outlive reloads as long as the
//! address stays in the upstream. A [`Member`] is what one configuration says of it.

mod affinity;
mod answer_head;
pub mod balance;
mod dial;
mod eject;
mod flow;
mod follow;
mod group;
pub mod health;
pub mod history;
mod keys_in_use;
mod learned;
mod members;
mod membership;
mod news;
mod outgoing;
mod own_key;
pub mod pacing;
mod pool;
mod pool_connector;
mod request_end;
mod resolve;
mod roster;
mod server;
mod stream_offer;
mod tags;
mod tasks;
mod turn;
mod warm_state;
mod warm_up;
mod window;

pub use dial::{Dialer, Shortage, Sources};
pub use flow::{Flow, MOST_OF_REQUEST_IN_CHUNKS};
pub use group::{Gone, Group, Pick};
pub use members::Servers;
pub use membership::Name;
pub use news::{Departed, Departure, Departures};
pub use own_key::{export_key, import_key};
pub use pool_connector::{PoolConnector, Repeatable};
pub use request_end::RequestBody;
pub use server::{Ejected, Lease, Load, Member, Server, ServerState};
pub use stream_offer::{ServerSide, StreamOffer};
pub use turn::{QueueFull, Slot, Turn, Waiting};
pub use warm_state::WarmState;
pub use warm_up::warm_up;
