//! How connections learn of the drain's deadline.
//!
//! At the deadline, whatever Pingora waits for fails: the client's stream, the server's, or a
//! connection to a server ([`DrainDeadline`]). So an answer that has begun is cut short, one that
//! has not begun is replaced by a short one of our own, and each exchange has its line in the log.
//! A future that is just dropped would leave no line.
//!
//! [`DrainDeadline`]: crate::limits::DrainDeadline

use std::future::pending;
use std::io;
use std::time::Duration;

use tokio::time::sleep;

use super::client_stream::ClientStream;
use super::edge::Edge;

/// How much time a connection gets for all of this after the deadline. After that it is dropped.
const LAST_MOMENT: Duration = Duration::from_millis(150);

/// The part of this time in which the client can take the last answer.
const LAST_ANSWER: Duration = Duration::from_millis(50);

/// While this value lives, exchanges are cut.
pub struct Cutting<'a>(&'a Edge);

impl Drop for Cutting<'_> {
    fn drop(&mut self) {
        self.0.drain_deadline.clear();
        self.0.cutting.send_replace(false);
    }
}

impl Edge {
    /// Ends every exchange that is under way, with its line in the log, as long as the returned
    /// value lives. (The process may serve again if its successor dies.) Sessions get an order of
    /// their own.
    pub fn cut(&self) -> Cutting<'_> {
        self.drain_deadline.strike();
        self.cutting.send_replace(true);
        Cutting(self)
    }

    /// Ready when the last moment is over. It also wakes its task at the deadline, so that what the
    /// task polls beside it sees that the deadline has struck.
    pub(super) fn last_moment(&self) -> impl Future<Output = ()> + use<> {
        let mut cutting = self.cutting.subscribe();
        async move {
            let is_cut = cutting.wait_for(|cuts| *cuts).await.is_ok();
            match is_cut {
                true => sleep(LAST_MOMENT).await,
                // The sender is gone, so nothing will be cut.
                false => pending().await,
            }
        }
    }
}

impl ClientStream {
    /// Returns an error once when the deadline has struck, and no error after that: a last answer
    /// may then be written, if the client takes it at once.
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
