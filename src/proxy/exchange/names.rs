//! What a request is called, by us and by others.

use http::HeaderValue;
use uuid::Uuid;

use crate::forward::request_id;
use crate::observe::trace::TraceContext;

/// Settled when the request arrives, and the same ever after.
pub struct Names {
    /// In the log and, of a session, in the registry.
    id: Uuid,
    /// What server and client know it by: `id`, or what a trusted proxy calls it.
    request_id: HeaderValue,
    /// Its place in a trace, where tracing is on.
    trace: Option<TraceContext>,
}

impl Names {
    /// Before anything has arrived.
    pub fn new() -> Self {
        Self {
            id: Uuid::now_v7(),
            request_id: HeaderValue::from_static(""),
            trace: None,
        }
    }

    /// Takes over what a trusted proxy calls it, and its place in a trace.
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

    /// What a trusted proxy calls it, where that cannot be the id.
    pub fn foreign_id(&self) -> Option<&str> {
        let is_foreign = request_id::as_uuid(&self.request_id) != Some(self.id);
        self.request_id.to_str().ok().filter(|_| is_foreign)
    }

    pub fn trace(&self) -> Option<TraceContext> {
        self.trace
    }
}
