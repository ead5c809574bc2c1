//! Start, reload, upgrade and stop of the process that `prusik run` is.
//!
//! ```text
//!   signals ───────────┐
//!   admin API: control ┴─► run ◄──► supervisor     what is done next: a value without I/O
//!                           │
//!                           ├── app                one configuration after the other
//!                           └── upgrade            the old process and the new one
//! ```
//!
//! [`process`] is what the API sees of the process, [`admin_thread`] serves the API, and
//! [`primary_tasks`] holds the tasks of the process that serves.

mod admin_thread;
mod control;
mod drain_watch;
mod pid_file;
mod primary_tasks;
mod process;
mod run;
mod server_views;
mod session_list;
mod shell;
mod signals;
mod start;
mod supervisor;
mod systemd;
pub mod upgrade;
mod visits;

pub use process::Process;
pub use run::{Origin, run, supervise};
pub use upgrade::{exec, store::mark};
