//! Whether a request goes out again after a failure, whom the failure counts against, and which
//! status the client gets when it does not.
//!
//! Values in, a verdict out: nothing here knows of sockets, clocks, or Pingora.
//!
//! ```text
//!                    no connection        connection lost             anything else
//!                    came about       kept one        new one      (deadline, odd answer)
//!  goes out again    other server   new connection  other server          never
//!  server is blamed  yes, unless         no             yes         when its move was awaited
//!                    we lack a port
//! ```

/// What nginx calls it: the client left before it got anything. It is in the log only, as nobody is
/// there to be told.
pub const CLIENT_GONE: u16 = 499;

/// Dead kept connections that one request may meet before it is a failure.
const MAX_STALE: usize = 3;

/// How far request and answer have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stage {
    pub request_sent: bool,
    pub answer_begun: bool,
}

/// When an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum During {
    /// Nothing of the request was sent.
    Connecting,
    Exchange,
}

/// What ended an attempt, or the exchange as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It was under way for longer than a process that stops waits.
    Cut,
    /// The exchange's own deadline has struck.
    Deadline {
        /// The server took nothing of what waited for it.
        server_stalled: bool,
    },
    /// This machine has no port or descriptor left to connect with.
    Shortage,
    By(Side, Fault),
}

/// On whose side something went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
    Proxy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Whoever found it has said which status it is.
    Status(u16),
    ConnectTimedOut,
    ReadTimedOut,
    WriteTimedOut,
    /// The connection was closed, or can be neither read nor written.
    Lost,
    Other,
}

/// What must be known of the request that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Its method is idempotent (RFC 9110 section 9.2.2), its body is still here as a whole, and
    /// the client has had nothing of an answer.
    pub is_repeatable: bool,
    /// It went out over a connection that had served before.
    pub on_kept_connection: bool,
    /// Kept connections that were found to be dead before this failure.
    pub stale: usize,
    /// A server is left that it has not been tried on.
    pub has_another_server: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verdict {
    pub retry: Retry,
    /// The failure counts for the passive ejection of the server.
    pub blames_server: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Retry {
    #[default]
    No,
    /// As if this attempt had not been: the same server may have it again.
    NewConnection,
    OtherServer,
}

/// What becomes of a request whose attempt has failed.
pub fn decide(failure: Failure, during: During, stage: Stage, request: Request) -> Verdict {
    match during {
        During::Connecting => after_connecting(failure, request),
        During::Exchange => after_sending(failure, stage, request),
    }
}

/// Nothing was sent: the next server may have it, whatever it is.
fn after_connecting(failure: Failure, request: Request) -> Verdict {
    Verdict {
        retry: match failure {
            Failure::Cut => Retry::No,
            _ => other_server_if(request.has_another_server),
        },
        // What this machine lacks says nothing of the server.
        blames_server: !matches!(failure, Failure::Cut | Failure::Shortage),
    }
}

/// The connection failed after the request had begun to go out: only what may be repeated and has
/// had no answer goes to another server.
fn after_sending(failure: Failure, stage: Stage, request: Request) -> Verdict {
    let (retry, blames_server) = match failure {
        // It says nothing of the server.
        Failure::Cut | Failure::Shortage => (Retry::No, false),
        // The next one would get a request that its client has waited for long enough.
        Failure::Deadline { server_stalled } => {
            let awaited_server = stage.request_sent || server_stalled;
            (Retry::No, awaited_server && !stage.answer_begun)
        }
        Failure::By(Side::Client | Side::Proxy, _) => (Retry::No, false),
        // A kept connection that the server had just given up says nothing of the server.
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
            let again = request.is_repeatable && fault == Fault::Lost && request.has_another_server;
            (other_server_if(again), true)
        }
    };
    Verdict {
        retry,
        blames_server,
    }
}

fn other_server_if(again: bool) -> Retry {
    if again { Retry::OtherServer } else { Retry::No }
}

/// The status of an exchange that ends with a failure.
pub fn status(failure: Failure, stage: Stage) -> u16 {
    match failure {
        // Only what the server has not had in full may be asked again without a thought.
        Failure::Cut if stage.request_sent => 504,
        Failure::Cut => 503,
        // The server's move was awaited, or the client's.
        Failure::Deadline { server_stalled }
            if server_stalled || stage.request_sent || stage.answer_begun =>
        {
            504
        }
        Failure::Deadline { .. } => 408,
        Failure::Shortage => 502,
        Failure::By(_, Fault::Status(status)) => status,
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
