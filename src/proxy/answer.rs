//! Answers that prusik gives by itself: short, plain, and without anything of the inside.

use bytes::Bytes;
use http::{Method, StatusCode, header};
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora_proxy::Session;

/// What a client is to do when there is no server now: come back in so many seconds.
const RETRY_AFTER: &str = "2";

/// A response of our own.
pub struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
    pub fields: Vec<(header::HeaderName, String)>,
}

impl Answer {
    /// An error with its reason as a line of text.
    pub fn error(status: StatusCode, reason: &str) -> Self {
        let mut fields = vec![(header::CACHE_CONTROL, "no-store".to_owned())];
        if status == StatusCode::SERVICE_UNAVAILABLE {
            fields.push((header::RETRY_AFTER, RETRY_AFTER.to_owned()));
        }
        if status == StatusCode::UPGRADE_REQUIRED {
            fields.push((header::UPGRADE, "websocket".to_owned()));
            fields.push((header::SEC_WEBSOCKET_VERSION, "13".to_owned()));
        }
        let name = status
            .canonical_reason()
            .unwrap_or("error")
            .to_ascii_lowercase();
        let body = format!("{} {name}: {reason}\n", status.as_u16());
        Self {
            status,
            body: body.into(),
            fields,
        }
    }

    pub fn respond(status: StatusCode, body: String) -> Self {
        Self {
            status,
            body: body.into(),
            fields: Vec::new(),
        }
    }

    pub fn redirect(status: StatusCode, to: String) -> Self {
        Self {
            status,
            body: Bytes::new(),
            fields: vec![(header::LOCATION, to)],
        }
    }

    pub async fn send(self, session: &mut Session) -> Result<()> {
        let head_only = session.req_header().method == Method::HEAD;
        let mut response = ResponseHeader::build(self.status, Some(self.fields.len() + 4))?;
        if self.status != StatusCode::NO_CONTENT {
            response.insert_header(header::CONTENT_LENGTH, self.body.len())?;
        }
        if !self.body.is_empty() {
            response.insert_header(header::CONTENT_TYPE, "text/plain; charset=utf-8")?;
        }
        for (name, value) in self.fields {
            response.insert_header(name, value)?;
        }
        let has_body = !head_only && !self.body.is_empty();
        session
            .write_response_header(Box::new(response), !has_body)
            .await?;
        if has_body {
            session.write_response_body(Some(self.body), true).await?;
        }
        Ok(())
    }
}
