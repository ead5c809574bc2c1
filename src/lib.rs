//! prusik: a reverse proxy and load balancer on Pingora whose reason to exist is the long-lived
//! WebSocket session.
//!
//! ```text
//!   client
//!     │  TCP or unix socket, perhaps TLS, perhaps a stream of HTTP/2
//!  [listener]   accepts, counts, and gives Pingora no byte too early
//!     │  └─ [http1]     refuses what could be read in two ways
//!     │
//!  [proxy]      Pingora's phases; under one [generation], a configuration at work
//!     │  ├─ [route]     host and path → route: the first match serves
//!     │  ├─ [auth]      who may come in, and as whom
//!     │  ├─ [upstream]  route → server: balancing, health, counts, connections
//!     │  └─ [forward]   headers: templates, client address, hop-by-hop
//!     │
//!  [session]    after the 101: a relay; [websocket] frames counted, limits watched, goodbyes said;
//!     │         an [event_stream] is a session too
//!     │
//!  [observe]    one line in the access log when it opens, one when it closes
//!     │
//!   server
//! ```
//!
//! `docs/life-of-a-session.md` tells what happens, `docs/architecture.md` which folder may import
//! which, what is pure, and in which order to read the files.

pub mod admin;
pub mod affinity;
pub mod app;
pub mod auth;
pub mod cli;
pub mod config;
pub mod demo;
pub mod event_stream;
pub mod forward;
pub mod generation;
pub mod http1;
pub mod http2;
pub mod import;
pub mod lifecycle;
pub mod limits;
pub mod listener;
pub mod net;
pub mod observe;
pub mod phase;
pub mod proxy;
pub mod route;
pub mod session;
pub mod tls;
pub mod transport;
pub mod upstream;
pub mod websocket;
