//! The content of a line in the access log.

use http::Version;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::trace::{TraceContext, as_trace_id};

/// What has ended or begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An exchange ended.
    Request,
    /// The 101, or the head of an event stream, is sent.
    SessionOpen,
    SessionClose,
}

/// One line. Every field is always present; `null` means unknown, or not for this kind.
#[derive(Debug, Serialize)]
pub struct Entry<'a> {
    pub kind: Kind,
    pub id: Uuid,
    /// The id from a trusted proxy, if it is not a UUID or another session has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<&'a str>,
    /// Only if tracing is on.
    #[serde(
        rename = "trace_id",
        serialize_with = "as_trace_id",
        skip_serializing_if = "Option::is_none"
    )]
    pub trace: Option<TraceContext>,
    pub listener: &'a str,
    pub route: Option<&'a str>,
    pub upstream: Option<&'a str>,
    pub server: Option<String>,
    pub client: String,
    pub method: &'a str,
    /// The HTTP version. This and the next field are only in the combined format.
    #[serde(skip)]
    pub version: Version,
    #[serde(skip)]
    pub referer: Option<&'a str>,
    pub host: Option<&'a str>,
    pub path: &'a str,
    /// The status for the client, or 499 if it left before it got anything.
    pub status: u16,
    /// Whose request or session it is.
    pub user: Option<&'a str>,
    pub duration_ms: f64,
    /// The time from the request's head to the 101, or to the head of an event stream.
    pub handshake_ms: Option<f64>,
    /// From the client.
    pub bytes_in: u64,
    /// To the client.
    pub bytes_out: u64,
    pub messages_in: Option<u64>,
    pub messages_out: Option<u64>,
    /// Only of event streams: how many events went to the client, 0 if they cannot be seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events_out: Option<u64>,
    pub close_code: Option<u32>,
    pub closed_by: Option<&'static str>,
    /// How many servers were tried.
    pub attempts: usize,
    pub user_agent: Option<&'a str>,
    /// Why prusik itself has answered, or why the exchange failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'a str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    Reload,
    Upgrade,
    /// A drain of a server, with one line at its begin and one at its end.
    Drain,
    Enable,
    /// The end of one session, or of all of a user.
    Close,
    /// The stop of the process, with one line at its begin and one at its end.
    Stop,
}

impl Operation {
    pub const ALL: [Self; 6] = [
        Self::Reload,
        Self::Upgrade,
        Self::Drain,
        Self::Enable,
        Self::Close,
        Self::Stop,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Reload => "reload",
            Self::Upgrade => "upgrade",
            Self::Drain => "drain",
            Self::Enable => "enable",
            Self::Close => "close",
            Self::Stop => "stop",
        }
    }

    /// Scripts may close thousands of sessions, which must not push other operations out.
    pub(super) fn is_remembered(self) -> bool {
        self != Self::Close
    }
}

/// An operation that was done or refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// RFC 3339.
    pub time: String,
    pub operation: Operation,
    /// Who has asked for it: a caller of the API, or a signal. Empty: unknown.
    #[serde(default)]
    pub by: String,
    /// The server, the session or the file. `None`: the process itself.
    #[serde(default)]
    pub of: Option<String>,
    pub succeeded: bool,
    /// The result, or why nothing was done.
    pub outcome: String,
}
