//! The answers of prusik itself: short, plain, and without internal details. If a route was found,
//! its rules for responses hold for them too.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora_proxy::Session;

use super::exchange::Exchange;
use super::fields::{ResponseFields, variables};
use crate::config::{HeaderRules, Page};
use crate::forward::own_response_headers;
use crate::http2::request::in_letters;
use crate::limits::RETRY_AFTER;

/// A response of our own.
pub struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
    pub fields: Vec<(HeaderName, HeaderValue)>,
    /// Whether a page of the route's `errors` may replace the body.
    pub may_be_page: bool,
}

impl Answer {
    /// An error with its reason as a line of text.
    pub fn error(status: StatusCode, reason: &str) -> Self {
        let value = HeaderValue::from_static;
        let mut fields = vec![(header::CACHE_CONTROL, value("no-store"))];
        if matches!(
            status,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
        ) {
            fields.push((header::RETRY_AFTER, value(RETRY_AFTER)));
        }
        if status == StatusCode::UPGRADE_REQUIRED {
            fields.push((header::UPGRADE, value("websocket")));
            fields.push((header::SEC_WEBSOCKET_VERSION, value("13")));
        }
        if status == StatusCode::METHOD_NOT_ALLOWED {
            fields.push((
                header::ALLOW,
                value("DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"),
            ));
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
            may_be_page: true,
        }
    }

    /// When the client should come back, in whole seconds.
    pub fn retry_after(mut self, wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        self.fields.retain(|(name, _)| *name != header::RETRY_AFTER);
        self.fields.push((header::RETRY_AFTER, seconds.into()));
        self
    }

    pub fn respond(status: StatusCode, body: String) -> Self {
        Self {
            status,
            may_be_page: body.is_empty(),
            body: body.into(),
            fields: Vec::new(),
        }
    }

    /// A `Location` is left out if it has bytes that no header may contain, which only a client can
    /// send.
    pub fn redirect(status: StatusCode, to: &[u8]) -> Self {
        let location = HeaderValue::from_bytes(to).ok();
        Self {
            status,
            body: Bytes::new(),
            fields: location
                .map(|to| (header::LOCATION, to))
                .into_iter()
                .collect(),
            may_be_page: false,
        }
    }

    pub async fn send(self, session: &mut Session, exchange: &Exchange) -> Result<()> {
        let head_only = session.req_header().method == Method::HEAD;
        let (content_type, body) = match self.page(exchange) {
            Some(page) => (page.content_type, page.body.clone()),
            None => ("text/plain; charset=utf-8", self.body),
        };
        let mut response = ResponseHeader::build(self.status, Some(self.fields.len() + 5))?;
        if self.status != StatusCode::NO_CONTENT {
            response.insert_header(header::CONTENT_LENGTH, body.len())?;
        }
        if !body.is_empty() {
            response.insert_header(header::CONTENT_TYPE, content_type)?;
        }
        for (name, value) in self.fields {
            response.insert_header(Bytes::from(in_letters(name.as_str())), value)?;
        }
        if response.headers.contains_key(header::UPGRADE)
            && let Some(connection) = exchange.connection()
        {
            connection.offer_upgrade();
        }
        let no_rules = HeaderRules::default();
        let rules = exchange.route().map(|route| &route.response_headers);
        own_response_headers(
            &mut ResponseFields(&mut response),
            &variables(session, exchange),
            rules.unwrap_or(&no_rules),
        );
        let has_body = !head_only && !body.is_empty();
        session
            .write_response_header(Box::new(response), !has_body)
            .await?;
        if has_body {
            session.write_response_body(Some(body), true).await?;
        }
        Ok(())
    }

    /// The page that an operator has written for this answer.
    fn page<'e>(&self, exchange: &'e Exchange) -> Option<&'e Page> {
        let pages = exchange.route().map(|route| &route.errors);
        let pages = pages.filter(|_| self.may_be_page);
        pages.and_then(|pages| pages.get(&self.status.as_u16()))
    }
}
