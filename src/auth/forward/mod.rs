//! `auth.forward`: another server, the auth server, is asked whether a request may come in.
//!
//! ```text
//! client's head ─► question ─► at most AT_ONCE at a time ─► a kept connection, or a new one
//!                                                                       │
//!          in: fields for the server, cookies for the client            ▼
//!          out: the answer is the client's             ◄──── verdict ◄── answer
//! ```
//!
//! Whatever goes wrong on this way is an [`AskError`], and lets nobody in.

mod connections;
mod question;
mod verdict;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

pub use question::may_be_listed;
pub use verdict::{Granted, Refusal, Verdict};

use crate::auth::endpoint::{ConnectError, Endpoint};
use crate::forward::ForwardingOptions;
use crate::forward::template::RequestVariables;
use crate::http1::response;
use connections::{Connection, Connections, connect};

/// How many questions may be under way. More wait, within their time.
const AT_ONCE: usize = 128;

/// The largest body of an answer.
const BODY_MAX: usize = 256 * 1024;

/// What the file says.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub endpoint: Endpoint,
    /// For everything from the wait for a connection to the end of the answer.
    pub timeout: Duration,
    /// `None`: all that mean something to it.
    pub request_headers: Option<Vec<HeaderName>>,
    /// The fields that servers have from the auth server alone, each also as the file writes it.
    pub response_headers: Vec<(HeaderName, String)>,
}

/// An auth server at work.
#[derive(Debug)]
pub struct Forward {
    settings: Settings,
    kept: Connections,
    at_once: Semaphore,
}

/// Why the auth server has given no answer that counts.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("{AT_ONCE} questions are under way, and this one waited for {0:?}")]
    Busy(Duration),
    #[error("no answer within {0:?}")]
    Late(Duration),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("no answer: {}", in_full(.0))]
    Exchange(#[from] hyper::Error),
    #[error("its answer breaks off: {0}")]
    CutShort(String),
    #[error("its answer has more than {} KiB", BODY_MAX / 1024)]
    TooLarge,
    #[error("its answer is not sound: {0}")]
    Unsound(&'static str),
    #[error("the path has bytes that no header field can have")]
    Unspeakable,
}

/// The error with its causes, which hyper does not print.
fn in_full(error: &hyper::Error) -> String {
    let mut said = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(found) = cause {
        said.push_str(": ");
        said.push_str(&found.to_string());
        cause = found.source();
    }
    said
}

impl PartialEq for Forward {
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings
    }
}

impl Forward {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            kept: Connections::default(),
            at_once: Semaphore::new(AT_ONCE),
        }
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What the auth server is asked about a request. `target`: path and query as the server gets
    /// them.
    pub fn question(
        &self,
        arrived: &RequestVariables<'_>,
        target: &[u8],
        options: ForwardingOptions<'_>,
    ) -> Result<Request<Empty<Bytes>>, AskError> {
        let listed = self.settings.request_headers.as_deref();
        question::question(&self.settings.endpoint, listed, arrived, target, options)
    }

    pub async fn ask(&self, question: Request<Empty<Bytes>>) -> Result<Verdict, AskError> {
        let time = self.settings.timeout;
        let deadline = Instant::now() + time;
        let Ok(Ok(_permit)) = timeout_at(deadline, self.at_once.acquire()).await else {
            return Err(AskError::Busy(time));
        };
        let answered = timeout_at(deadline, self.ask_now(question)).await;
        answered.unwrap_or(Err(AskError::Late(time)))
    }

    async fn ask_now(&self, question: Request<Empty<Bytes>>) -> Result<Verdict, AskError> {
        if let Some(kept) = self.kept.take().await {
            match self.converse(kept, question.clone()).await {
                // The auth server may just have closed it. The question changes nothing there, so
                // it can be asked again.
                Err(AskError::Exchange(error)) if !error.is_parse() => {}
                answered => return answered,
            }
        }
        let new = connect(&self.settings.endpoint).await?;
        self.converse(new, question).await
    }

    async fn converse(
        &self,
        mut connection: Connection,
        question: Request<Empty<Bytes>>,
    ) -> Result<Verdict, AskError> {
        let answer = connection.send_request(question).await?;
        let verdict = read(answer).await?;
        self.kept.keep(connection);
        Ok(verdict)
    }
}

/// Reads the answer to its end: one that breaks off lets nobody in.
async fn read(answer: Response<Incoming>) -> Result<Verdict, AskError> {
    let (head, body) = answer.into_parts();
    response::check(head.status, head.version, &head.headers).map_err(AskError::Unsound)?;
    // Two readings of where it ends (RFC 9112 section 6.3).
    if head.headers.contains_key(header::TRANSFER_ENCODING)
        && head.headers.contains_key(header::CONTENT_LENGTH)
    {
        return Err(AskError::Unsound("it has a length, and is chunked"));
    }
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(AskError::Unsound("it was not asked to switch protocols"));
    }
    let body = Limited::new(body, BODY_MAX).collect().await;
    let body = body.map_err(|error| match error.is::<LengthLimitError>() {
        true => AskError::TooLarge,
        false => AskError::CutShort(error.to_string()),
    })?;
    Ok(Verdict::of(head.status, head.headers, body.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_longer_than_it_may_for_its_turn_is_told_so() {
        let forward = Forward::new(Settings {
            endpoint: Endpoint {
                uri: "http://127.0.0.1:1/".parse().unwrap(),
                tls: None,
            },
            timeout: Duration::from_millis(10),
            request_headers: None,
            response_headers: Vec::new(),
        });
        let all = forward.at_once.acquire_many(AT_ONCE as u32).await;
        let refused = forward.ask(Request::new(Empty::new())).await.unwrap_err();
        assert!(matches!(refused, AskError::Busy(_)), "{refused}");
        drop(all);
        // It has its turn, and nobody is there.
        let refused = forward.ask(Request::new(Empty::new())).await.unwrap_err();
        assert!(!matches!(refused, AskError::Busy(_)), "{refused}");
        assert_eq!(forward.at_once.available_permits(), AT_ONCE);
    }
}
