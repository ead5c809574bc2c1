//! The paths of the API: which call a request is, and what it answers.
//!
//! No sockets: [`super::server`] passes the requests on.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body;
use log::error;
use percent_encoding::percent_decode_str;
use serde_json::json;
use tokio::task::JoinError;
use tokio::time::timeout;
use uuid::Uuid;

use super::answer::{Answer, Problem, json, metrics, page, text};
use super::guard::Access;
use super::{Command, Control, Request as Order, ServerName, params};

/// No order needs a hundredth of this.
const LARGEST_BODY: usize = 64 * 1024;
/// How long a body may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// Answers the requests of one socket.
#[derive(Clone)]
pub struct Api {
    control: Arc<dyn Control>,
    access: Access,
    /// Who calls, in words, as far as the connection tells.
    caller: Arc<str>,
}

/// What a path names. Each one has one method, but for the list of sessions.
#[derive(Debug, PartialEq, Eq)]
enum Resource {
    Page,
    Health,
    Readiness,
    Metrics,
    Status,
    Upstreams,
    Sessions,
    /// By `DELETE`.
    SessionsOfUser,
    Session(Uuid),
    Reload,
    Upgrade,
    Drain(ServerName),
    Enable(ServerName),
}

impl Api {
    pub fn new(control: Arc<dyn Control>, access: Access) -> Self {
        Self {
            control,
            access,
            caller: "an unknown caller".into(),
        }
    }

    /// A copy for the calls of one connection.
    pub fn for_caller(&self, caller: String) -> Self {
        Self {
            caller: caller.into(),
            ..self.clone()
        }
    }

    pub async fn answer<B>(&self, request: Request<B>) -> Answer
    where
        B: Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.try_answer(request).await.unwrap_or_else(Answer::from)
    }

    async fn try_answer<B>(&self, request: Request<B>) -> Result<Answer, Problem>
    where
        B: Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let has_token = self.access.check(&head)?;
        let resource = match Resource::find(head.uri.path())? {
            Resource::Sessions if head.method == Method::DELETE => Resource::SessionsOfUser,
            resource => resource,
        };
        resource.check_method(&head.method)?;
        let query = head.uri.query();
        match resource {
            // Probes may add parameters, for example to bypass a cache.
            Resource::Health => return Ok(text(StatusCode::OK, "ok")),
            Resource::Readiness if self.control.is_ready() => {
                return Ok(text(StatusCode::OK, "ok"));
            }
            Resource::Readiness => {
                return Ok(text(StatusCode::SERVICE_UNAVAILABLE, "not ready"));
            }
            Resource::Page => return Ok(page()),
            _ => {}
        }
        if !resource.has_query() {
            params::none(query)?;
        }
        let command = match resource {
            Resource::Session(id) => Command::Close(id, params::close_code(query)?),
            Resource::SessionsOfUser => {
                let (user, code) = params::close_user(query)?;
                let closed = 0;
                Command::CloseUser { user, code, closed }
            }
            Resource::Reload => Command::Reload,
            Resource::Upgrade => Command::Upgrade,
            Resource::Drain(server) => {
                Command::Drain(server, params::drain_order(&collect(body).await?)?)
            }
            Resource::Enable(server) => {
                // A script may send the same body to both calls. To enable needs no window and no
                // code.
                params::drain_order(&collect(body).await?)?;
                Command::Enable(server)
            }
            resource => return self.show(&resource, query).await,
        };
        let by = match has_token {
            true => format!("{} with the token", self.caller),
            false => self.caller.to_string(),
        };
        let outcome = self.control.command(Order { command, by }).await?;
        Ok(json(StatusCode::OK, &outcome))
    }

    /// Answers calls that change nothing. A process that was replaced has no current answers.
    async fn show(&self, resource: &Resource, query: Option<&str>) -> Result<Answer, Problem> {
        if let Some(pid) = self.control.successor() {
            return Err(Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("{pid} has taken over"),
                "ask again: it answers from now on",
            )
            .with(CONNECTION, "close"));
        }
        match resource {
            Resource::Metrics => {
                // On a thread of its own, so that other callers and the traffic are not delayed.
                let control = Arc::clone(&self.control);
                let gathered = tokio::task::spawn_blocking(move || control.metrics()).await;
                Ok(metrics(gathered.map_err(|panic| ended_badly(&panic))?))
            }
            Resource::Upstreams => {
                let upstreams = self.control.upstreams();
                Ok(json(
                    StatusCode::OK,
                    &json!({ "upstreams": upstreams, "next": null }),
                ))
            }
            Resource::Sessions => {
                let page = self.control.sessions(&params::filter(query)?)?;
                Ok(json(StatusCode::OK, &page))
            }
            _ => Ok(json(StatusCode::OK, &self.control.status())),
        }
    }
}

impl Resource {
    fn find(path: &str) -> Result<Self, Problem> {
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let resource = match segments[..] {
            [""] => Self::Page,
            ["healthz"] => Self::Health,
            ["readyz"] => Self::Readiness,
            ["metrics"] => Self::Metrics,
            ["api", "v1", "status"] => Self::Status,
            ["api", "v1", "upstreams"] => Self::Upstreams,
            ["api", "v1", "sessions"] => Self::Sessions,
            ["api", "v1", "sessions", id] => Self::Session(params::session_id(&decoded(id)?)?),
            ["api", "v1", "reload"] => Self::Reload,
            ["api", "v1", "upgrade"] => Self::Upgrade,
            ["api", "v1", "upstreams", upstream, "servers", address, what] => {
                let server = ServerName {
                    upstream: decoded(upstream)?,
                    address: decoded(address)?,
                };
                match what {
                    "drain" => Self::Drain(server),
                    "enable" => Self::Enable(server),
                    _ => return Err(unknown(path)),
                }
            }
            _ => return Err(unknown(path)),
        };
        Ok(resource)
    }

    fn has_query(&self) -> bool {
        matches!(
            self,
            Self::Metrics | Self::Sessions | Self::SessionsOfUser | Self::Session(_)
        )
    }

    fn check_method(&self, method: &Method) -> Result<(), Problem> {
        let (allowed, is_allowed) = match self {
            Self::Page
            | Self::Health
            | Self::Readiness
            | Self::Metrics
            | Self::Status
            | Self::Upstreams => ("GET, HEAD", matches!(*method, Method::GET | Method::HEAD)),
            Self::Sessions | Self::SessionsOfUser => (
                "GET, HEAD, DELETE",
                matches!(*method, Method::GET | Method::HEAD | Method::DELETE),
            ),
            Self::Session(_) => ("DELETE", method == Method::DELETE),
            Self::Reload | Self::Upgrade | Self::Drain(_) | Self::Enable(_) => {
                ("POST", method == Method::POST)
            }
        };
        if is_allowed {
            return Ok(());
        }
        Err(Problem::new(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("{method} is not what this path takes"),
            format!("use {allowed}"),
        )
        .with(ALLOW, allowed))
    }
}

fn unknown(path: &str) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        format!("no such path: {path}"),
        "the API's paths begin with /api/v1/; beside them there are /, /metrics, /healthz and /readyz",
    )
}

fn decoded(segment: &str) -> Result<String, Problem> {
    match percent_decode_str(segment).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(Problem::bad_request(
            format!("\"{segment}\" in the path is not UTF-8"),
            "encode the name as UTF-8, and that by percent signs",
        )),
    }
}

fn ended_badly(panic: &JoinError) -> Problem {
    error!("admin: a call ended badly: {panic}");
    Problem::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "the call ended badly",
        "see prusik's log",
    )
}

/// If the body is refused, the rest of it is not read: the connection closes.
async fn collect<B>(body: B) -> Result<Bytes, Problem>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let body = Limited::new(body, LARGEST_BODY).collect();
    match timeout(BODY_DEADLINE, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body is longer than {LARGEST_BODY} bytes"),
            "an order is a small JSON object",
        )
        .with(CONNECTION, "close")),
        Ok(Err(error)) => Err(broken(&error).with(CONNECTION, "close")),
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body has not come within {BODY_DEADLINE:?}"),
            "send it in one piece",
        )
        .with(CONNECTION, "close")),
    }
}

fn broken(error: &impl Display) -> Problem {
    Problem::bad_request(
        format!("the body cannot be read: {error}"),
        "send it with its Content-Length",
    )
}

#[cfg(test)]
mod tests;
