//! The drain's deadline, as connections are told of it.
//!
//! What is under way then ends by an error of whatever Pingora waits for: the client's stream, the
//! server's, or a connection to one ([`DrainDeadline`]). So an answer that has begun is cut short,
//! one that has not is a last short one of our own, and each has its line in the log: a future that
//! is just dropped leaves none.
//!
//! [`DrainDeadline`]: crate::limits::DrainDeadline

use std::future::pending;
use std::io;
use std::time::Duration;

use tokio::time::sleep;

use super::client_stream::ClientStream;
use super::edge::Edge;

/// What a connection gets from the deadline on for all of this. What is left then is dropped.
const LAST_MOMENT: Duration = Duration::from_millis(150);

/// How much of it is for a client to take the last answer.
const LAST_ANSWER: Duration = Duration::from_millis(50);

/// Exchanges are cut.
pub struct Cutting<'a>(&'a Edge);

impl Drop for Cutting<'_> {
    fn drop(&mut self) {
        self.0.drain_deadline.clear();
        self.0.cutting.send_replace(false);
    }
}

impl Edge {
    /// Ends every exchange that is still under way, with its line in the log, for as long as the
    /// returned value lives: the process may serve on, if the one that has replaced it dies.
    /// Sessions have their own order.
    pub fn cut(&self) -> Cutting<'_> {
        self.drain_deadline.strike();
        self.cutting.send_replace(true);
        Cutting(self)
    }

    /// Ready when the last moment is over. It wakes its task at the deadline, so that what the task
    /// does beside it is polled then and sees that it has struck.
    pub(super) fn last_moment(&self) -> impl Future<Output = ()> + use<> {
        let mut cutting = self.cutting.subscribe();
        async move {
            let is_cut = cutting.wait_for(|cuts| *cuts).await.is_ok();
            match is_cut {
                true => sleep(LAST_MOMENT).await,
                // Nobody is left who could cut.
                false => pending().await,
            }
        }
    }
}

impl ClientStream {
    /// An error once the deadline has struck, and only one: then a last answer may be written, if
    /// the client takes it at once.
    pub(super) fn check_drain_deadline(&mut self) -> io::Result<()> {
        if self.is_cut {
            return Ok(());
        }
        self.connection.drain_deadline().check().inspect_err(|_| {
            self.is_cut = true;
            self.connection.clear_deadline();
            self.connection.set_end(LAST_ANSWER);
        })
    }
}
