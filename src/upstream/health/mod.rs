//! Active health checks: what one check of a server is, and what its results make of the server.
//! When a server is checked is for [`super::tasks`] to say.

pub mod check;
pub mod counter;
