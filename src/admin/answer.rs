//! What the API answers with: JSON, plain text, and problems that say what to do about them.

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

use super::view::Failure;
use super::{ControlError, ControlErrorKind};
use crate::observe::terminal;

pub type Answer = Response<Full<Bytes>>;

/// A call that is refused, and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub status: StatusCode,
    pub failure: Failure,
    /// The field that a status requires: `Allow` with 405, `WWW-Authenticate` with 401.
    pub field: Option<(HeaderName, &'static str)>,
}

impl Problem {
    pub fn new(status: StatusCode, error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            status,
            failure: Failure {
                error: error.into(),
                hint: hint.into(),
            },
            field: None,
        }
    }

    pub fn bad_request(error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error, hint)
    }

    pub fn with(self, name: HeaderName, value: &'static str) -> Self {
        Self {
            field: Some((name, value)),
            ..self
        }
    }
}

impl From<ControlError> for Problem {
    fn from(refusal: ControlError) -> Self {
        let status = match refusal.kind {
            ControlErrorKind::NotFound => StatusCode::NOT_FOUND,
            ControlErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ControlErrorKind::Refused => StatusCode::CONFLICT,
        };
        Self::new(status, refusal.error, refusal.hint)
    }
}

impl From<Problem> for Answer {
    fn from(problem: Problem) -> Self {
        let mut answer = json(problem.status, &problem.failure);
        if let Some((name, value)) = problem.field {
            let value = HeaderValue::from_static(value);
            answer.headers_mut().insert(name, value);
        }
        answer
    }
}

pub fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    let mut body = Vec::new();
    match terminal::write_json(&mut body, value) {
        Ok(()) => answer(status, "application/json", body),
        Err(error) => {
            log::error!("admin: cannot write an answer as JSON: {error}");
            text(StatusCode::INTERNAL_SERVER_ERROR, "internal error")
        }
    }
}

pub fn text(status: StatusCode, body: &'static str) -> Answer {
    answer(status, "text/plain; charset=utf-8", body)
}

/// `text` is in Prometheus' text format.
pub fn metrics(text: String) -> Answer {
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    answer(StatusCode::OK, content_type, text)
}

/// The status page, which contains no data itself. Only its own script runs, and it calls only this
/// API.
pub fn page() -> Answer {
    let nonce = format!("{:032x}", rand::random::<u128>());
    let html = include_str!("page.html").replace("NONCE", &nonce);
    let mut answer = answer(StatusCode::OK, "text/html; charset=utf-8", html);
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src \
         'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        let headers = answer.headers_mut();
        headers.insert(CONTENT_SECURITY_POLICY, policy);
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    }
    answer
}

fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}
