//! Pingora's phases, each delegating to the part that knows.

use std::os::fd::RawFd;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::StatusCode;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::protocols::Digest;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, Result};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

use super::exchange::{Attempts, Exchange};
use super::retry::{During, Failure, Retry, Verdict, decide};
use super::shared::Gateway;
use super::{choose, failure, fields, record, refuse, response};
use crate::listener::Reading;

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Exchange;

    fn new_ctx(&self) -> Exchange {
        Exchange::new(self.current.load_full())
    }

    /// No modules: nothing is compressed or cached here, and Pingora would ask its default module
    /// at every step.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn early_request_filter(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
    ) -> Result<()> {
        self.take_in(session, exchange)
    }

    async fn request_filter(&self, session: &mut Session, exchange: &mut Exchange) -> Result<bool> {
        let Some(answer) = self.answer_here(session, exchange).await else {
            return Ok(false);
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
        choose::next_server(session, exchange)
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        fields::for_server(session, request, exchange)
    }

    /// Connecting has its own time limit, so the exchange's time begins now.
    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        _reused: bool,
        _peer: &HttpPeer,
        _fd: RawFd,
        _digest: Option<&Digest>,
        exchange: &mut Exchange,
    ) -> Result<()> {
        exchange.answering.start();
        exchange.renew_deadline();
        Ok(())
    }

    /// Called for each part of the body, and at its end when the whole request is sent. Must not
    /// await: before an upgrade Pingora would then lose the session.
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
        exchange.answering.send(end_of_stream);
        exchange.renew_deadline();
        if end_of_stream && let Some(connection) = exchange.connection() {
            // The next bytes belong to the next request. Pingora would read one byte of it, and
            // after that ignore the connection and its deadline.
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
        response::take(session, response, exchange)
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
            self.begin_answer(session, response, exchange);
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

    fn fail_to_connect(
        &self,
        session: &mut Session,
        peer: &HttpPeer,
        exchange: &mut Exchange,
        mut error: Box<Error>,
    ) -> Box<Error> {
        let failure = failure::while_connecting(&error);
        let verdict = retry_if_useful(session, &mut error, failure, During::Connecting, exchange);
        if verdict.blames_server
            && let Some(lease) = exchange.attempts.as_ref().and_then(Attempts::lease)
        {
            lease.server().count_connect_error();
        }
        if failure == Failure::Cut {
            return error;
        }
        error.more_context(format!("connecting to {}", peer._address))
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        exchange: &mut Exchange,
        _reused: bool,
    ) -> Box<Error> {
        let mut error = error.more_context(format!("server {}", peer._address));
        if exchange.refused_stream.is_some() || exchange.has_left_with_stream() {
            error.set_retry(false);
            return error;
        }
        let failure = failure::in_exchange(&error, exchange);
        retry_if_useful(session, &mut error, failure, During::Exchange, exchange);
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        exchange: &mut Exchange,
    ) -> FailToProxy {
        refuse::end(session, error, exchange).await
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, exchange: &mut Exchange) {
        let connection = exchange.connection().cloned();
        if let Some(connection) = &connection
            && exchange.live.is_some()
            && connection.has_departed()
        {
            match exchange.take_upgraded() {
                Some(upgraded) => return connection.set_upgraded(upgraded),
                // Nobody may read a request from it any more.
                None => drop(connection.take_departed()),
            }
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

    /// Always suppressed: [`Gateway::fail_to_proxy`] has logged what an operator needs.
    fn suppress_error_log(&self, _: &Session, _: &Exchange, _: &Error) -> bool {
        true
    }

    /// Retries are counted in the access log (`attempts`), and failing servers are logged by the
    /// health checks.
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

/// Does what [`retry`](super::retry) has decided.
fn retry_if_useful(
    session: &Session,
    error: &mut Error,
    failure: Failure,
    during: During,
    exchange: &mut Exchange,
) -> Verdict {
    let stage = exchange.stage();
    let Some(attempts) = &mut exchange.attempts else {
        error.set_retry(false);
        return Verdict::default();
    };
    let request = attempts.request(failure::is_repeatable(session));
    let verdict = decide(failure, during, stage, request);
    if verdict.blames_server {
        attempts.record_failure();
    }
    attempts.prepare(verdict.retry);
    error.set_retry(verdict.retry != Retry::No);
    if verdict.retry != Retry::No && matches!(failure, Failure::Deadline { .. }) {
        exchange.forget_timeout();
    }
    verdict
}
