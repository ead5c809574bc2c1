//! Pingora's phases, each delegating to the part that knows.

use std::borrow::Cow;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::{StatusCode, Version, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::protocols::Digest;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, Result};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

use super::admission::{NO_WEBSOCKETS, admit, may_pass, settle_route, simplify, verify};
use super::answer::Answer;
use super::exchange::{Exchange, Stage};
use super::failure::{CLIENT_GONE, is_cut, reason_for, status_for, words_for};
use super::fields::{RequestFields, ResponseFields, location, render, set_path, variables};
use super::{peer, record};
use crate::config::{Action, Balance};
use crate::forward::proxy_protocol::Source;
use crate::forward::{self, Telling, Trust, request_id};
use crate::generation::Generation;
use crate::listener::{ClientStream, Connection, Reading, RejectedRequest};
use crate::observe::access_log::AccessLog;
use crate::observe::repeated::{self, Kind};
use crate::observe::trace::{TRACEPARENT, TraceContext};
use crate::phase::PhaseWatch;
use crate::session::drain::Drains;
use crate::session::registry::Registry;
use crate::upstream::{Dialer, Load, Pick, Repeatable, Shortage};
use crate::websocket::handshake::{self, Upgrade};

/// How long a request body that nobody wants is read, so that the connection can serve on.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// What a client is told that comes too late, or has waited until the end.
const STOPPING: &str = "this process is stopping";

/// Dead kept connections that one request may meet before it is a failure.
const MAX_STALE: usize = 3;

pub struct Gateway {
    pub(super) current: Arc<ArcSwap<Generation>>,
    pub(super) log: Arc<AccessLog>,
    pub(super) sessions: Arc<Registry>,
    pub(super) drains: Arc<Drains>,
    pub(super) phase: PhaseWatch,
}

impl Gateway {
    pub fn new(
        current: Arc<ArcSwap<Generation>>,
        log: Arc<AccessLog>,
        sessions: Arc<Registry>,
        drains: Arc<Drains>,
        phase: PhaseWatch,
    ) -> Self {
        Self {
            current,
            log,
            sessions,
            drains,
            phase,
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.phase.now().is_draining()
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Exchange;

    fn new_ctx(&self) -> Exchange {
        Exchange::new(self.current.load_full())
    }

    /// None: nothing is compressed or cached here, and Pingora's default module would be asked
    /// at every step.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn early_request_filter(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
    ) -> Result<()> {
        let connection = connection_of(session)?;
        connection.clear_deadline();
        // For what prusik does by itself: an answer of its own that the client does not take.
        connection.set_deadline(connection.stall());
        connection.set_server_apart();
        // Of several options Pingora sees no `keep-alive`, for which HTTP/1.0 has to ask.
        let request = session.req_header();
        let asks_to_stay = request.version == Version::HTTP_10
            && handshake::has_token(&request.headers, &header::CONNECTION, "keep-alive");
        if session.get_keepalive().is_some() || asks_to_stay {
            // For as long as it likes: the connection's own deadline ends the wait.
            session.set_keepalive(Some(0));
        }
        if self.is_stopping() || connection.is_to_end() {
            session.set_keepalive(None);
        }
        session.set_pipelining_enabled(true);
        session.set_total_drain_timeout(Some(DRAIN_LIMIT));
        let request = session.req_header();
        let upgrade = handshake::asked_upgrade(request.version, &request.headers);
        // Pingora looks at the first field of the name only, and not at one beyond ASCII.
        if handshake::has_token(&request.headers, &header::CONNECTION, "close") {
            session.set_keepalive(None);
        }
        if upgrade == Upgrade::Other {
            session.req_header_mut().remove_header(&header::UPGRADE);
        }
        exchange.refused = connection.take_refused();
        let has_body = !session.is_body_empty();
        simplify(session.req_header_mut(), has_body)?;
        connection.set_reading(match upgrade {
            _ if has_body => Reading::Body,
            Upgrade::WebSocket => Reading::Held,
            Upgrade::None | Upgrade::Other => Reading::Answered,
        });
        let headers = &session.req_header().headers;
        let (trust, client) = exchange.generation.who_asks(&connection, headers);
        (exchange.trust, exchange.client) = (trust, client);
        let is_trusted = exchange.trust == Trust::Trusted;
        exchange.identify(request_id::taken_over(headers).filter(|_| is_trusted));
        exchange.trace = self.log.trace(headers, exchange.trust);
        exchange.connection = Some(connection);
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, exchange: &mut Exchange) -> Result<bool> {
        if let Some(rejection) = settle_route(session, exchange) {
            // Who sends such a thing may have more of it on the way.
            session.set_keepalive(None);
            exchange.error = Some(rejection.reason.into());
            exchange.begin_own_answer();
            Answer::error(rejection.status, rejection.reason)
                .send(session, exchange)
                .await?;
            return Ok(true);
        }
        let generation = exchange.generation.clone();
        let Some(route) = exchange.route.map(|number| generation.route(number)) else {
            exchange.error = Some("no route matches".into());
            exchange.begin_own_answer();
            Answer::error(StatusCode::NOT_FOUND, "no route matches")
                .send(session, exchange)
                .await?;
            return Ok(true);
        };
        // The exchange's own deadline stands in for both.
        session.set_read_timeout(None);
        session.set_write_timeout(None);
        let answer = match admit(session, exchange, route) {
            Ok(()) => match &route.action {
                Action::Proxy { upstream, .. } => {
                    let group = generation.group(*upstream).clone();
                    if let Balance::ConsistentHash { key, .. } = &group.config().balance {
                        exchange.hash_key = render(key, session, exchange);
                    }
                    exchange.group = Some(group);
                    if exchange.handshake.is_none() || !self.is_stopping() {
                        // Connecting has a limit of its own.
                        exchange.clear_deadline();
                        return Ok(false);
                    }
                    exchange.is_too_late = true;
                    exchange.error = Some(STOPPING.into());
                    Answer::error(StatusCode::SERVICE_UNAVAILABLE, STOPPING)
                }
                Action::Redirect {
                    to,
                    status,
                    strip_prefix,
                } => {
                    let location = location(to, strip_prefix.as_deref(), session, exchange);
                    Answer::redirect(status_of(*status), &location)
                }
                Action::Respond { status, .. }
                    if exchange.is_extended_connect() && (200..300).contains(status) =>
                {
                    // To the client that would be an open session (RFC 8441 section 5).
                    exchange.error = Some(NO_WEBSOCKETS.into());
                    Answer::error(StatusCode::FORBIDDEN, NO_WEBSOCKETS)
                }
                Action::Respond { status, body } => {
                    Answer::respond(status_of(*status), body.clone())
                }
            },
            Err(rejection) => {
                exchange.error = Some(rejection.reason.into());
                Answer::error(rejection.status, rejection.reason)
            }
        };
        exchange.begin_own_answer();
        answer.send(session, exchange).await?;
        Ok(true)
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
    ) -> Result<Box<HttpPeer>> {
        // Let go of the server that failed before the next is counted.
        exchange.lease = None;
        let (Some(group), Some(route)) = (&exchange.group, exchange.route()) else {
            return Error::e_explain(ErrorType::InternalError, "no upstream was chosen");
        };
        let load = match exchange.handshake {
            Some(_) => Load::Session,
            None => Load::Request,
        };
        let lease = group.pick(Pick {
            load,
            key: &exchange.hash_key,
            tried: &exchange.tried,
        });
        let Some(lease) = lease else {
            let error = match exchange.tried.is_empty() {
                true => (
                    503,
                    format!("upstream {:?} has no server to take it", group.name()),
                ),
                false => (
                    502,
                    format!("upstream {:?} has no other server left", group.name()),
                ),
            };
            return Error::e_explain(ErrorType::HTTPStatus(error.0), error.1);
        };
        let address = lease.server().address;
        let client = match group.config().proxy_protocol {
            Some(_) => exchange.proxy_source(),
            None => Source::Unknown,
        };
        let (peer, connector) = match &exchange.handshake {
            Some(handshake) => {
                let tunnel = exchange.generation.config.server.tunnel;
                let dialer = Dialer {
                    drain_deadline: exchange.drain_deadline(),
                    ..group.dialer(client)
                };
                let stall = group.config().stall;
                let peer = peer::for_handshake(address, (dialer, stall), route, handshake, tunnel);
                (peer, None)
            }
            None => {
                // A body may be too long to be sent again.
                let is_safe =
                    session.req_header().method.is_idempotent() && session.is_body_empty();
                let repeatable = match is_safe {
                    true => Repeatable::Yes,
                    false => Repeatable::No,
                };
                let deadline = exchange.drain_deadline();
                let flow = exchange.flow();
                let connector = Arc::new(group.connector(repeatable, client, deadline, flow));
                let peer = peer::for_request(connector.clone(), address, &route.timeouts);
                (peer, Some(connector))
            }
        };
        exchange.connector = connector;
        exchange.tried.push(address);
        exchange.lease = Some(lease);
        Ok(peer)
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        let Some(route) = exchange.route() else {
            return Ok(());
        };
        let prefix = match &route.action {
            Action::Proxy { strip_prefix, .. } => strip_prefix.as_deref(),
            _ => None,
        };
        set_path(request, exchange.path.as_deref(), prefix)?;
        if let Some(traceparent) = exchange.trace.and_then(TraceContext::to_header) {
            request.insert_header(TRACEPARENT, traceparent)?;
        }
        forward::request_headers(
            &mut RequestFields(request),
            &variables(session, exchange),
            &route.request_headers,
            Telling {
                forwarded: route.forwarded,
                trust: exchange.trust,
                field: exchange.generation.config.client_address,
            },
        );
        if exchange.handshake.is_some() {
            // Pingora has written the name in small letters.
            request.insert_header("Upgrade", "websocket")?;
        }
        if !request.headers.contains_key(header::HOST) {
            // An HTTP/1.0 client need not name one; what goes on is HTTP/1.1 (RFC 9110 section 7.2).
            request.insert_header("Host", "")?;
        }
        Ok(())
    }

    /// Connecting has a limit of its own: only now the exchange's time begins.
    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        _reused: bool,
        _peer: &HttpPeer,
        _fd: RawFd,
        _digest: Option<&Digest>,
        exchange: &mut Exchange,
    ) -> Result<()> {
        exchange.stage = Stage::default();
        exchange.renew_deadline();
        Ok(())
    }

    /// Called for each part of the body, and with its end when the whole request is on its way.
    /// Must not await: before an upgrade that would let Pingora lose the session.
    async fn request_body_filter(
        &self,
        _session: &mut Session,
        _body: &mut Option<Bytes>,
        end_of_stream: bool,
        exchange: &mut Exchange,
    ) -> Result<()> {
        if exchange.live.is_some() {
            return Ok(());
        }
        exchange.stage.request_sent = end_of_stream;
        exchange.renew_deadline();
        if end_of_stream && let Some(connection) = &exchange.connection {
            // What comes now is the next request. Pingora would take a byte of it and then look
            // at the connection no more, nor at its deadline.
            connection.set_reading(match exchange.handshake {
                Some(_) => Reading::Held,
                None => Reading::Answered,
            });
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        verify(response, exchange)?;
        // What goes on is ours (RFC 9110 section 2.5), whatever the server speaks.
        response.set_version(Version::HTTP_11);
        if handshake::has_token(&response.headers, &header::CONNECTION, "close")
            && let Some(connector) = &exchange.connector
        {
            connector.mark_as_closing();
        }
        if response.headers.contains_key(header::TRANSFER_ENCODING) {
            exchange.flow().narrow_response();
        }
        if response.status.is_informational() && response.status != StatusCode::SWITCHING_PROTOCOLS
        {
            exchange.has_unwanted |= !may_pass(response, session.req_header());
            session.set_ignore_info_resp(exchange.has_unwanted);
        }
        let Some(route) = exchange.route() else {
            return Ok(());
        };
        let status = response.status;
        forward::response_headers(
            &mut ResponseFields(response),
            status,
            &variables(session, exchange),
            &route.response_headers,
        );
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            self.begin_session(session, response, exchange);
        } else {
            if session.req_header().version == Version::HTTP_10 {
                // It knows no chunks: the end of the connection ends the body
                // (RFC 9112 section 6.1).
                let removed = response.remove_header(&header::TRANSFER_ENCODING);
                if let (Some(_), Some(connection)) = (removed, &exchange.connection) {
                    connection.end_body_by_close();
                }
            }
            exchange.stage.answer_begun = !response.status.is_informational();
            if exchange.stage.answer_begun {
                // No session comes of it: who asks again at once must find the place free.
                exchange.permit = None;
            }
            exchange.renew_deadline();
            // The process may have begun to stop since the request came.
            let connection = exchange.connection.as_ref();
            if self.is_stopping() || connection.is_some_and(|connection| connection.is_to_end()) {
                session.set_keepalive(None);
            }
        }
        Ok(())
    }

    fn response_body_filter(
        &self,
        _session: &mut Session,
        _body: &mut Option<Bytes>,
        _end_of_stream: bool,
        exchange: &mut Exchange,
    ) -> Result<Option<Duration>> {
        if exchange.live.is_none() {
            exchange.renew_deadline();
        }
        Ok(None)
    }

    /// Nothing was sent: the next server may have it, whatever it is.
    fn fail_to_connect(
        &self,
        _session: &mut Session,
        peer: &HttpPeer,
        exchange: &mut Exchange,
        mut error: Box<Error>,
    ) -> Box<Error> {
        if is_cut(&error) {
            error.set_retry(false);
            return error;
        }
        // What this machine lacks says nothing of the server.
        if Shortage::of_connecting(&error).is_none() {
            exchange.record_server_failure();
            if let Some(lease) = &exchange.lease {
                lease.server().count_connect_error();
            }
        }
        error.set_retry(exchange.has_another_attempt());
        error.more_context(format!("connecting to {}", peer._address))
    }

    /// The connection failed after the request had begun to go out: only what may be repeated
    /// (RFC 9110 section 9.2.2) and has had no answer goes to another server.
    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        exchange: &mut Exchange,
        _reused: bool,
    ) -> Box<Error> {
        let connector = exchange.connector.as_ref();
        let reused = connector.is_some_and(|connector| connector.has_reused());
        let mut error = error.more_context(format!("server {}", peer._address));
        let repeatable = session.req_header().method.is_idempotent()
            && !session.as_ref().retry_buffer_truncated()
            && session.response_written().is_none();
        let lost = matches!(
            error.etype(),
            ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError
        );
        if is_cut(&error) {
            // It says nothing of the server.
            error.set_retry(false);
        } else if exchange.timed_out() {
            // The next one would get a request that its client has waited for long enough.
            error.set_retry(false);
            if exchange.awaited_server() && !exchange.stage.answer_begun {
                exchange.record_server_failure();
            }
        } else if *error.esource() != ErrorSource::Upstream {
            error.set_retry(false);
        } else if !reused || !lost {
            exchange.record_server_failure();
            error.set_retry(repeatable && lost && exchange.has_another_attempt());
        } else {
            // A kept connection that the server had just given up says nothing of the server.
            exchange.stale += 1;
            let again = repeatable && exchange.stale <= MAX_STALE;
            error.set_retry(again);
            if again {
                exchange.tried.pop();
            }
        }
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        exchange: &mut Exchange,
    ) -> FailToProxy {
        let connection = exchange.connection.as_ref();
        exchange.is_cut = is_cut(error);
        // It was a request until its body broke.
        let (status, reason, said) = match connection.and_then(|c| c.take_refused()) {
            Some(RejectedRequest { rejection, .. }) => (
                rejection.status.as_u16(),
                rejection.reason,
                rejection.reason.to_owned(),
            ),
            None => {
                let status = status_for(error, exchange);
                let reason = match exchange.is_cut {
                    true => STOPPING,
                    false => reason_for(status),
                };
                (status, reason, words_for(error, exchange))
            }
        };
        if let Ok(code) = StatusCode::from_u16(status)
            && status != CLIENT_GONE
            && session
                .response_written()
                .is_none_or(|response| response.status.is_informational())
            && !session.was_upgraded()
        {
            session.set_keepalive(None);
            exchange.permit = None;
            exchange.clear_deadline();
            exchange.begin_own_answer();
            if let Err(failed) = Answer::error(code, reason).send(session, exchange).await {
                log::debug!("the client is gone before it could be told {status}: {failed}");
            }
        }
        // A client that resets has left; one that takes nothing, or isn't there any more, has not.
        exchange.broke = *error.etype() == ErrorType::WriteTimedout
            || error
                .root_cause()
                .downcast_ref::<io::Error>()
                .is_some_and(|cause| cause.kind() == io::ErrorKind::TimedOut);
        if status >= 500 && !session.was_upgraded() && !exchange.is_cut {
            warn_of_failure(session, exchange, status, &said);
        }
        exchange.error = Some(Cow::Owned(said));
        FailToProxy {
            error_code: status,
            can_reuse_downstream: false,
        }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, exchange: &mut Exchange) {
        let connection = exchange.connection.clone();
        if let Some(connection) = &connection
            && exchange.live.is_some()
            && connection.has_departed()
            && let Some(upgraded) = exchange.take_upgraded()
        {
            connection.set_upgraded(upgraded);
            return;
        }
        record::ended(&self.log, session, exchange);
        if let Some(connection) = connection {
            if error.is_some() {
                connection.mark_as_failed();
            }
            connection.set_deadline_for_idle();
            connection.set_reading(Reading::Head);
        }
    }

    /// Always: [`Gateway::fail_to_proxy`] has said what an operator needs.
    fn suppress_error_log(&self, _: &Session, _: &Exchange, _: &Error) -> bool {
        true
    }

    /// Retries are in the access log (`attempts`), and servers that fail in the health log.
    fn suppress_proxy_warn_log(
        &self,
        _: &Session,
        _: &Exchange,
        _: &Error,
        _: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}

/// For the operator: a server that is out of order fails each request, and has a line for all of them.
fn warn_of_failure(session: &Session, exchange: &Exchange, status: u16, said: &str) {
    let upstream = exchange.group.as_ref().map(|group| group.name().to_owned());
    let server = exchange.tried.last().map(ToString::to_string);
    let place = match (&upstream, &server) {
        (Some(upstream), Some(server)) => format!("upstream {upstream:?}, server {server}: "),
        (Some(upstream), None) => format!("upstream {upstream:?}: "),
        (None, _) => String::new(),
    };
    let request = session.request_summary();
    let line = format!("{place}{status}: {said} ({} {request})", exchange.id);
    let what = status.to_string();
    let kind = Kind {
        what,
        upstream,
        server,
    };
    repeated::warn(kind, line);
}

/// What [`crate::listener`] knows of the connection that this request came in on.
fn connection_of(session: &Session) -> Result<Arc<Connection>> {
    session
        .as_http1()
        .and_then(|http1| http1.stream().as_any().downcast_ref::<ClientStream>())
        .map(|stream| stream.connection().clone())
        .ok_or_else(|| Error::explain(ErrorType::InternalError, "not a connection of ours"))
}

/// The configuration admits only valid ones.
fn status_of(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
