//! A refused handshake that is answered as a session which ends at once, with a close code and a
//! reason.
//!
//! A browser's script sees nothing of a status: any refusal is "1006" to it. A code and a reason it
//! can read, so it knows whether to come again (1013), to log in (4401), or to give up (4403).

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora_proxy::Session;

use super::answer::Answer;
use super::exchange::{ByClose, Exchange};
use super::fields::{ResponseFields, variables};
use crate::forward::own_response_headers;
use crate::limits::RETRY_AFTER;
use crate::websocket::frames::{REASON_MAX, close_to_client};

/// Whoever proves who it is may come again.
const LOG_IN: u16 = 4401;

/// It may not come in.
const FORBIDDEN: u16 = 4403;

/// "Try again later". A gateway's own trouble has 1014, but to Chromium that is a broken frame.
const LATER: u16 = 1013;

/// Sends the answer as the route wants it.
pub async fn send(answer: Answer, session: &mut Session, exchange: &mut Exchange) -> Result<()> {
    let code = close_code(answer.status, exchange.outcome.is_denied());
    let (Some(by_close), Some(code)) = (exchange.by_close.take(), code) else {
        return answer.send(session, exchange).await;
    };
    exchange.outcome.close(answer.status, code);
    let reason = reason(code, &answer, exchange);
    close(&by_close, (code, reason), answer, session, exchange).await
}

/// `None`: an answer with this status refuses nobody. `is_denied`: by `allow`, `deny` or `auth`.
fn close_code(status: StatusCode, is_denied: bool) -> Option<u16> {
    match status.as_u16() {
        401 => Some(LOG_IN),
        // To where one logs in.
        300..400 if is_denied => Some(LOG_IN),
        429 | 500..600 => Some(LATER),
        403 => Some(FORBIDDEN),
        400..500 if is_denied => Some(FORBIDDEN),
        _ => None,
    }
}

/// As much of it as a Close frame has room for.
fn fitting(reason: &str) -> &str {
    let mut end = reason.len().min(REASON_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

fn reason(code: u16, answer: &Answer, exchange: &Exchange) -> String {
    if code != LATER {
        return exchange.outcome.reason().unwrap_or_default().to_owned();
    }
    let after = answer
        .fields
        .iter()
        .find(|(name, _)| *name == header::RETRY_AFTER);
    let seconds = after.and_then(|(_, after)| after.to_str().ok());
    format!("retry in {} s", seconds.unwrap_or(RETRY_AFTER))
}

/// Answers with a 101 and a Close frame. The client's answer to that is awaited elsewhere.
async fn close(
    by_close: &ByClose,
    (code, reason): (u16, String),
    answer: Answer,
    session: &mut Session,
    exchange: &Exchange,
) -> Result<()> {
    let mut head = ResponseHeader::build(StatusCode::SWITCHING_PROTOCOLS, Some(8))?;
    head.insert_header("Upgrade", "websocket")?;
    head.insert_header("Connection", "Upgrade")?;
    head.insert_header("Sec-WebSocket-Accept", &*by_close.accept)?;
    if let Some(protocol) = &by_close.protocol {
        head.insert_header("Sec-WebSocket-Protocol", protocol)?;
    }
    // The other fields are about an answer that is not sent.
    let is_cookie = |(name, _): &&(HeaderName, HeaderValue)| *name == header::SET_COOKIE;
    for (_, cookie) in answer.fields.iter().filter(is_cookie) {
        head.append_header("Set-Cookie", cookie)?;
    }
    if let Some(route) = exchange.route() {
        let variables = variables(session, exchange);
        let rules = &route.response_headers;
        own_response_headers(&mut ResponseFields(&mut head), &variables, rules);
    }
    session.write_response_header(Box::new(head), false).await?;
    let frame = Bytes::from(close_to_client(code, fitting(&reason)));
    session.write_response_body(Some(frame), false).await?;
    if let Some(connection) = exchange.connection() {
        connection.dismiss();
    }
    // The socket departs when it is read.
    session.as_mut().read_request_body().await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_code_and_an_answer_that_is_no_refusal_has_none() {
        for (status, code, code_if_denied) in [
            (200, None, None),
            (302, None, Some(4401)),
            (401, Some(4401), Some(4401)),
            (403, Some(4403), Some(4403)),
            (404, None, Some(4403)),
            (429, Some(1013), Some(1013)),
            (500, Some(1013), Some(1013)),
            (503, Some(1013), Some(1013)),
            (504, Some(1013), Some(1013)),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(close_code(status, false), code, "{status}");
            assert_eq!(close_code(status, true), code_if_denied, "{status}, denied");
        }
    }
}
