//! Connections to an auth server: made, and kept for the next question.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;

use super::AskError;
use crate::auth::endpoint::Endpoint;

/// How large the head of an answer may be. hyper wants 8 KiB at least.
const HEAD_MAX: usize = 64 * 1024;

/// As many header fields as an answer to a request may have.
const FIELDS_MAX: usize = 256;

/// For one question after the other.
pub type Connection = http1::SendRequest<Empty<Bytes>>;

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

pub async fn connect(endpoint: &Endpoint) -> Result<Connection, AskError> {
    let stream = endpoint.connect().await?;
    let (sender, connection) = http1::Builder::new()
        .title_case_headers(true)
        .max_header_size(HEAD_MAX)
        .max_buf_size(HEAD_MAX)
        .max_headers(FIELDS_MAX)
        .handshake(TokioIo::new(stream))
        .await?;
    // It ends when the sender is dropped. What fails is told to whoever waits for an answer.
    tokio::spawn(connection);
    Ok(sender)
}
