//! The connections to an auth server that wait for the next question.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::endpoint::Connection;

/// How many wait.
const MOST: usize = 32;

/// How long one may have waited when it is used again.
const LONGEST: Duration = Duration::from_secs(60);

/// The one that was used last is behind, and is used first, so that the others grow old.
#[derive(Debug, Default)]
pub struct Connections(Mutex<VecDeque<(Connection, Instant)>>);

impl Connections {
    /// A connection that can be used. It may still turn out to be dead.
    pub async fn take(&self) -> Option<Connection> {
        loop {
            let (mut connection, since) = self.0.lock().pop_back()?;
            if since.elapsed() < LONGEST && connection.ready().await.is_ok() {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection whose answer was read to its end.
    pub fn keep(&self, connection: Connection) {
        let mut kept = self.0.lock();
        kept.retain(|(connection, since)| !connection.is_closed() && since.elapsed() < LONGEST);
        if kept.len() < MOST {
            kept.push_back((connection, Instant::now()));
        }
    }
}
