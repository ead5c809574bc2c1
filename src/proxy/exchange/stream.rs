//! An answer that becomes a session because it is an event stream.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http::{HeaderMap, Version, header};
use pingora_proxy::Session;

use crate::event_stream::EventScanner;
use crate::http1::body::Body;
use crate::http1::chunked::ChunkScanner;
use crate::limits::Permit;
use crate::session::event_relay::{ClientFraming, ServerStream};
use crate::session::traffic::Traffic;

/// Made when the head of the answer has come, and the route has room for the session.
pub struct StreamAnswer {
    pub traffic: Arc<Traffic>,
    /// Counts the session on its route.
    pub permit: Permit,
    pub stream: ServerStream,
    pub framing: ClientFraming,
}

impl StreamAnswer {
    /// `headers`: of the server's answer.
    pub fn new(session: &Session, headers: &HeaderMap, permit: Permit) -> Self {
        let body = match headers.contains_key(header::TRANSFER_ENCODING) {
            true => Body::Chunked(ChunkScanner::default()),
            false => Body::UntilClose,
        };
        let encodings = headers.get_all(header::CONTENT_ENCODING);
        let is_encoded = encodings.iter().any(|encoding| encoding != "identity");
        let traffic = Traffic::default();
        traffic.establish();
        let asked = session.body_bytes_read() as u64;
        traffic.bytes_in.store(asked, Relaxed);
        Self {
            traffic: Arc::new(traffic),
            permit,
            stream: ServerStream {
                body,
                events: (!is_encoded).then(EventScanner::default),
            },
            framing: match session.req_header().version {
                Version::HTTP_10 => ClientFraming::UntilClose,
                _ => ClientFraming::Chunked,
            },
        }
    }
}
