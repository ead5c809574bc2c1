//! prusik: a reverse proxy and load balancer on Pingora whose reason to exist is the long-lived
//! WebSocket session.
//!
//! # The life of a session, and the map of the modules
//!
//! ```text
//!   client
//!     │  TCP or unix socket
//!  [listener]   accepts, wraps the connection: no byte is read too early
//!     │  └─ [hygiene]   refuses what could be read in two ways
//!     │
//!  [proxy]      Pingora's phases; validates the handshake
//!     │  ├─ [route]     host and path → route: the first match serves
//!     │  ├─ [upstream]  route → server: balancing, health, counts, retries
//!     │  └─ [forward]   headers: templates, client address, hop-by-hop
//!     │
//!  [session]    after the 101: a relay; frames counted, limits watched, Close frames put in
//!     │
//!  [observe]    one line in the access log when it opens, one when it closes
//!     │
//!   server
//! ```
//!
//! [tls] stands on both ends, where the file has it: between the sockets and everything else.
//! [limits] count what clients take, before it costs anything.
//! [config] is where it all comes from, [app] joins the parts, [lifecycle] starts, reloads, upgrades
//! and stops them, [admin] is the operator's API, [cli] the command line, and [demo] the two-tier
//! example in one process.
//! `docs/life-of-a-session.md` tells the same at more length.

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod demo;
pub mod forward;
pub mod http2;
pub mod hygiene;
pub mod lifecycle;
pub mod limits;
pub mod listener;
pub mod net;
pub mod observe;
mod pages;
pub mod phase;
pub mod proxy;
pub mod route;
pub mod session;
pub mod tls;
pub mod upstream;
