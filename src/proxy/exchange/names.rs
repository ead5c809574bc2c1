//! The names of a request: its id, and those that others gave it.

use http::HeaderValue;
use uuid::Uuid;

use crate::forward::request_id;
use crate::observe::trace::TraceContext;

/// Set when the request arrives, and never changed after that.
pub struct Names {
    /// The name in the log, and of a session also in the registry.
    id: Uuid,
    /// The name for server and client: `id`, or the one that a trusted proxy gave.
    request_id: HeaderValue,
    /// The position in a trace, if tracing is on.
    trace: Option<TraceContext>,
}

impl Names {
    /// The state before anything has arrived.
    pub fn new() -> Self {
        Self {
            id: Uuid::now_v7(),
            request_id: HeaderValue::from_static(""),
            trace: None,
        }
    }

    /// Takes over the name and the trace that a trusted proxy gave.
    pub fn settle(&mut self, theirs: Option<&HeaderValue>, trace: Option<TraceContext>) {
        self.request_id = match theirs {
            Some(theirs) => theirs.clone(),
            None => request_id::from_uuid(self.id),
        };
        if let Some(id) = theirs.and_then(request_id::as_uuid) {
            self.id = id;
        }
        self.trace = trace;
    }

    pub fn id(&self) -> Uuid {
        self.id
    }

    pub fn request_id(&self) -> &HeaderValue {
        &self.request_id
    }

    /// The name that a trusted proxy gave, if it cannot be the id.
    pub fn foreign_id(&self) -> Option<&str> {
        let is_foreign = request_id::as_uuid(&self.request_id) != Some(self.id);
        self.request_id.to_str().ok().filter(|_| is_foreign)
    }

    pub fn trace(&self) -> Option<TraceContext> {
        self.trace
    }
}
