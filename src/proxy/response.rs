//! Checks a server's answer, lets nothing pass that has two readings, and adapts the rest.

use http::{HeaderMap, StatusCode, Version, header};
use itertools::Itertools;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::{Error, ErrorType, Result};
use pingora_proxy::Session;

use super::admission::enter_stream;
use super::affinity;
use super::exchange::{Attempts, Exchange, Handshake, StreamAnswer};
use super::failure::{Discarded, is_repeatable};
use super::fields::{ResponseFields, variables};
use super::retry::{During, Failure, Retry, decide};
use super::shared::Gateway;
use crate::forward;
use crate::http1::response;
use crate::upstream::StreamOffer;
use crate::upstream::pacing::Ended;
use crate::websocket::handshake::{self, Upgrade};

/// Checks the head that a server sent, and changes it into the one that the client gets.
pub fn take(
    session: &mut Session,
    response: &mut ResponseHeader,
    exchange: &mut Exchange,
) -> Result<()> {
    verify(response, exchange)?;
    leave_to_another(session, response.status, exchange)?;
    // The answer that we send has our own version (RFC 9110 section 2.5), whatever the server's is.
    response.set_version(Version::HTTP_11);
    if handshake::has_token(&response.headers, &header::CONNECTION, "close")
        && let Some(attempts) = &exchange.attempts
    {
        attempts.mark_as_closing();
    }
    if response.headers.contains_key(header::TRANSFER_ENCODING) {
        exchange.flow().narrow_response();
    }
    if response.status.is_informational() && response.status != StatusCode::SWITCHING_PROTOCOLS {
        let may_pass = may_pass(response.status, session.req_header());
        session.set_ignore_info_resp(exchange.answering.hold_interim(may_pass));
    }
    if response.status == StatusCode::SWITCHING_PROTOCOLS {
        choose_subprotocol(response, exchange)?;
    }
    begin_stream(session, response, exchange)?;
    affinity::learn(response, exchange);
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
    affinity::set_cookie(session, response, exchange);
    Ok(())
}

/// An answer with a status of the upstream's `retry_on` is dropped, together with its connection,
/// if another server can be asked.
fn leave_to_another(
    session: &Session,
    answered: StatusCode,
    exchange: &mut Exchange,
) -> Result<()> {
    let status = answered.as_u16();
    let Some(attempts) = &exchange.attempts else {
        return Ok(());
    };
    if !attempts.upstream().retry_on.has(status) {
        return Ok(());
    }
    let request = attempts.request(is_repeatable(session));
    let failure = Failure::Answered(status);
    match decide(failure, During::Exchange, exchange.stage(), request).retry {
        Retry::No => Ok(()),
        Retry::OtherServer | Retry::NewConnection => {
            exchange.end_handshake(handshake_end(answered));
            let kind = ErrorType::HTTPStatus(status);
            let context = "another server may answer better";
            Err(Error::because(kind, context, Discarded(status)))
        }
    }
}

/// What an answer other than 101 says of how much its server can take.
fn handshake_end(status: StatusCode) -> Ended {
    match status {
        StatusCode::TOO_MANY_REQUESTS => Ended::Failed,
        status if status.is_server_error() => Ended::Failed,
        _ => Ended::Neutral,
    }
}

/// A browser that has offered subprotocols wants one in the answer (WHATWG WebSockets), and the
/// server may have been offered none: then it is the word before the token.
fn choose_subprotocol(response: &mut ResponseHeader, exchange: &Exchange) -> Result<()> {
    let withdrawn = exchange.withdrawn.as_ref();
    let bearer = withdrawn.and_then(|withdrawn| withdrawn.subprotocol.as_ref());
    match bearer {
        Some(bearer)
            if !response
                .headers
                .contains_key(header::SEC_WEBSOCKET_PROTOCOL) =>
        {
            response.insert_header("Sec-WebSocket-Protocol", bearer)
        }
        _ => Ok(()),
    }
}

/// Decides whether an event stream becomes a session, or refuses it because there are too many.
fn begin_stream(
    session: &Session,
    response: &ResponseHeader,
    exchange: &mut Exchange,
) -> Result<()> {
    let offer = exchange.attempts.as_ref().and_then(Attempts::stream_offer);
    if !offer.is_some_and(StreamOffer::is_made) {
        return Ok(());
    }
    // A stream of a given length is a download.
    let is_endless = !response.headers.contains_key(header::CONTENT_LENGTH);
    let limits = exchange.route().and_then(|route| route.stream.as_ref());
    let (Some(limits), Some(id), true, true) = (
        limits,
        exchange.route_id(),
        is_endless,
        exchange.stage().request_sent,
    ) else {
        exchange.attempts.iter().for_each(Attempts::decline_stream);
        return Ok(());
    };
    match enter_stream(exchange, id, &limits.bounds) {
        Ok(permit) => {
            let stream = StreamAnswer::new(session, &response.headers, permit);
            exchange.stream = Some(Box::new(stream));
            Ok(())
        }
        Err(rejection) => {
            let status = ErrorType::HTTPStatus(rejection.status.as_u16());
            exchange.refused_stream = Some(rejection);
            Error::e_explain(status, rejection.reason)
        }
    }
}

impl Gateway {
    /// An answer other than a 101 goes to the client, interim or final.
    pub(super) fn begin_answer(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        exchange: &mut Exchange,
    ) {
        if session.req_header().version == Version::HTTP_10 {
            // An HTTP/1.0 client knows no chunks: the end of the connection ends the body (RFC 9112
            // section 6.1).
            let removed = response.remove_header(&header::TRANSFER_ENCODING);
            if let (Some(_), Some(connection)) = (removed, exchange.connection()) {
                connection.end_body_by_close();
            }
        }
        let is_final = !response.status.is_informational();
        exchange.answering.begin(is_final);
        if is_final && exchange.stream.is_some() {
            return self.open_stream(session, exchange);
        }
        if is_final {
            exchange.free_permit();
            exchange.end_handshake(handshake_end(response.status));
        }
        exchange.renew_deadline();
        // The process may have begun to stop since the request came.
        let connection = exchange.connection();
        if self.is_stopping() || connection.is_some_and(|connection| connection.is_to_end()) {
            session.set_keepalive(None);
        }
    }
}

/// Refuses an answer that has two readings, and too many interim answers.
fn verify(response: &ResponseHeader, exchange: &mut Exchange) -> Result<()> {
    if exchange.is_extended_connect() && response.status.is_success() {
        // A browser would take this answer for an open session (RFC 8441 section 5). It does not
        // count as a failure of the server, which may answer so to a request for a page.
        let failure = "the server answered an extended CONNECT with success and without a switch";
        return Error::e_explain(ErrorType::HTTPStatus(502), failure);
    }
    let mut failure = response::check(response.status, response.version, &response.headers).err();
    if response.status == StatusCode::SWITCHING_PROTOCOLS {
        let expected = exchange.handshake.as_ref().map(Handshake::expected_accept);
        failure = failure.or_else(|| verify_switch(&response.headers, expected).err());
    } else if response.status.is_informational() && !exchange.answering.count_interim() {
        failure = Some("the server sends interim answers without end");
    }
    match failure {
        None => Ok(()),
        Some(failure) => {
            exchange.record_server_failure();
            Error::e_explain(ErrorType::HTTPStatus(502), failure)
        }
    }
}

/// A server that answers 101 must have understood the request (RFC 6455 section 4.1).
fn verify_switch(headers: &HeaderMap, expected: Option<&str>) -> Result<(), &'static str> {
    let Some(expected) = expected else {
        return Err("the server answered 101 to a request without an upgrade");
    };
    if !handshake::has_token(headers, &header::CONNECTION, "upgrade")
        || handshake::upgrade_of(headers) != Upgrade::WebSocket
    {
        return Err("the server answered 101 without saying that it speaks websocket now");
    }
    let accepts = headers.get_all(header::SEC_WEBSOCKET_ACCEPT);
    match accepts.iter().exactly_one() {
        Ok(accept) if accept == expected => Ok(()),
        _ => Err("the server's Sec-WebSocket-Accept is not the answer to the client's key"),
    }
}

/// Interim answers pass if the client has asked for them (Pingora checks this for a 100) or can use
/// them (early hints), and if the server has sent no others: Pingora decides for several at once.
fn may_pass(status: StatusCode, request: &RequestHeader) -> bool {
    match status {
        StatusCode::EARLY_HINTS => request.version == Version::HTTP_11,
        StatusCode::CONTINUE => request.headers.contains_key(header::EXPECT),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn switch(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_switch_passes_only_as_the_answer_to_the_handshake_that_was_sent() {
        let good = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-accept", "key"),
        ];
        let verdict = |fields: &[_]| verify_switch(&switch(fields), Some("key"));
        assert_eq!(verdict(&good), Ok(()));
        assert!(verify_switch(&switch(&good), None).is_err());
        assert!(verify_switch(&switch(&good), Some("other key")).is_err());
        for missing in 0..good.len() {
            let mut fields = good.to_vec();
            fields.remove(missing);
            assert!(verdict(&fields).is_err(), "{fields:?}");
        }
        let twice = [&good[..], &good[2..]].concat();
        assert!(verdict(&twice).is_err());
        let other = [good[0], ("upgrade", "h2c"), good[2]];
        assert!(verdict(&other).is_err());
    }

    #[test]
    fn interim_answers_pass_to_who_can_use_them() {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        let passes = |status: u16, request: &RequestHeader| {
            may_pass(StatusCode::from_u16(status).unwrap(), request)
        };
        assert!(passes(103, &request));
        assert!(!passes(100, &request));
        assert!(!passes(102, &request));
        request.insert_header("Expect", "100-continue").unwrap();
        assert!(passes(100, &request));
        request.set_version(Version::HTTP_10);
        assert!(!passes(103, &request));
    }
}
