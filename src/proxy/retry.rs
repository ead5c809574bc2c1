//! Decides whether a request is sent again after a failure, whether the failure counts against the
//! server, and which status the client gets if it is not sent again.
//!
//! A pure function: no sockets, no clock, nothing of Pingora.
//!
//! ```text
//!                    no connection        connection lost          deadline     an answer    odd
//!                    came about       kept one        new one                  of retry_on  answer
//!  goes out again    other server   new connection  other server  other server other server never
//!                                                                 if retry_on
//!                                                                 has timeout
//!  server is blamed  yes, unless         no             yes         when its        no       yes
//!                    we lack a port                                move was
//!                                                                  awaited
//! ```

use crate::config::RetryOn;

/// nginx's status for a client that left before it got anything. It appears only in the log, as
/// nobody reads the answer.
pub const CLIENT_GONE: u16 = 499;

/// How many dead kept connections one request may meet before it fails.
const MAX_STALE: usize = 3;

/// How far request and answer have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stage {
    pub request_sent: bool,
    pub answer_begun: bool,
}

/// At which moment an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum During {
    /// Nothing of the request was sent.
    Connecting,
    Exchange,
}

/// What ended an attempt or the whole exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The exchange took longer than a stopping process waits.
    Cut,
    /// The deadline of the exchange has struck.
    Deadline {
        /// The server took nothing of the bytes that waited for it.
        server_stalled: bool,
    },
    /// This machine has no free port or descriptor to connect with.
    Shortage,
    /// The server has answered with this status, and the client has got nothing of it.
    Answered(u16),
    By(Side, Fault),
}

/// The side on which something went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
    Proxy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The status is already decided.
    Status(u16),
    ConnectTimedOut,
    ReadTimedOut,
    WriteTimedOut,
    /// The connection was closed, or cannot be read or written.
    Lost,
    Other,
}

/// What must be known of the failed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Its method is idempotent (RFC 9110 section 9.2.2), its body is still here completely, and
    /// the client has got nothing of an answer.
    pub is_repeatable: bool,
    /// It was sent over a connection that had been used before.
    pub on_kept_connection: bool,
    /// How many dead kept connections it met before this failure.
    pub stale: usize,
    /// There is a server that was not tried.
    pub has_another_server: bool,
    /// What the upstream tries again.
    pub retry_on: RetryOn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verdict {
    pub retry: Retry,
    /// Whether the failure counts for the passive ejection of the server.
    pub blames_server: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Retry {
    #[default]
    No,
    /// This attempt does not count: the same server may be tried again.
    NewConnection,
    OtherServer,
}

/// Decides what happens with a request whose attempt has failed.
pub fn decide(failure: Failure, during: During, stage: Stage, request: Request) -> Verdict {
    match during {
        During::Connecting => after_connecting(failure, request),
        During::Exchange => after_sending(failure, stage, request),
    }
}

/// Nothing was sent, so the next server may get any request.
fn after_connecting(failure: Failure, request: Request) -> Verdict {
    Verdict {
        retry: match failure {
            Failure::Cut => Retry::No,
            _ => other_server_if(request.has_another_server),
        },
        // A shortage on this machine says nothing about the server.
        blames_server: !matches!(failure, Failure::Cut | Failure::Shortage),
    }
}

/// The connection failed after a part of the request was sent. Another server gets the request only
/// if it may be repeated and has no answer yet.
fn after_sending(failure: Failure, stage: Stage, request: Request) -> Verdict {
    let (retry, blames_server) = match failure {
        // This says nothing about the server.
        Failure::Cut | Failure::Shortage => (Retry::No, false),
        // The client has already waited long enough for this request, unless the operator wants it
        // to wait for another server too.
        Failure::Deadline { server_stalled } => {
            let awaited_server = (stage.request_sent || server_stalled) && !stage.answer_begun;
            // A body that was cut off by the deadline cannot go on to another server.
            let again = awaited_server && stage.request_sent && request.retry_on.timeout;
            (request.other_server_if(again), awaited_server)
        }
        // Nothing is wrong with a server that says no.
        Failure::Answered(status) => {
            let again = request.retry_on.has(status) && !stage.answer_begun;
            (request.other_server_if(again), false)
        }
        Failure::By(Side::Client | Side::Proxy, _) => (Retry::No, false),
        // The server had just closed this kept connection. That says nothing about the server.
        Failure::By(Side::Server, Fault::Lost) if request.on_kept_connection => {
            let again = request.is_repeatable && request.stale < MAX_STALE;
            (
                if again {
                    Retry::NewConnection
                } else {
                    Retry::No
                },
                false,
            )
        }
        Failure::By(Side::Server, fault) => {
            let is_timeout = matches!(fault, Fault::ReadTimedOut | Fault::WriteTimedOut);
            let again = fault == Fault::Lost || is_timeout && request.retry_on.timeout;
            (request.other_server_if(again), true)
        }
    };
    Verdict {
        retry,
        blames_server,
    }
}

impl Request {
    /// For a request of which a part was sent.
    fn other_server_if(self, again: bool) -> Retry {
        other_server_if(again && self.is_repeatable && self.has_another_server)
    }
}

fn other_server_if(again: bool) -> Retry {
    if again { Retry::OtherServer } else { Retry::No }
}

/// The status of an exchange that ends with a failure.
pub fn status(failure: Failure, stage: Stage) -> u16 {
    match failure {
        // Only a request that the server has not got completely can be safely repeated.
        Failure::Cut if stage.request_sent => 504,
        Failure::Cut => 503,
        // Either the server's move or the client's was awaited.
        Failure::Deadline { server_stalled }
            if server_stalled || stage.request_sent || stage.answer_begun =>
        {
            504
        }
        Failure::Deadline { .. } => 408,
        Failure::Shortage => 502,
        Failure::Answered(status) | Failure::By(_, Fault::Status(status)) => status,
        Failure::By(
            Side::Server,
            Fault::ConnectTimedOut | Fault::ReadTimedOut | Fault::WriteTimedOut,
        ) => 504,
        Failure::By(Side::Server, _) => 502,
        Failure::By(Side::Client, Fault::ReadTimedOut) => 408,
        Failure::By(Side::Client, Fault::Lost | Fault::WriteTimedOut) => CLIENT_GONE,
        Failure::By(Side::Client, _) => 400,
        Failure::By(Side::Proxy, _) => 500,
    }
}

#[cfg(test)]
mod tests;
