//! Clients that are refused: what they are told, and what the log says.

use std::net::SocketAddr;
use std::time::Duration;
use std::{fmt, io};

use http::{StatusCode, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::time::timeout;
use uuid::Uuid;

use super::edge::Edge;
use super::state::ListenerState;
use crate::forward::client_address::ClientAddress;
use crate::http1::Rejection;
use crate::limits::RETRY_AFTER;
use crate::net::Socket;
use crate::net::linger::{LINGER, LINGER_BYTES};
use crate::observe::entry::{Entry, Kind};
use crate::observe::repeated;
use crate::transport::Transport;

pub(super) const TOO_MANY: Rejection = Rejection::new(
    StatusCode::SERVICE_UNAVAILABLE,
    "this listener has as many connections as it may",
);
pub(super) const TOO_MANY_OF_CLIENT: Rejection = Rejection::new(
    StatusCode::TOO_MANY_REQUESTS,
    "this client has as many connections as it may",
);
pub(super) const NO_DESCRIPTORS: Rejection = Rejection::new(
    StatusCode::SERVICE_UNAVAILABLE,
    "this process has no descriptors for more connections",
);
pub(super) const NOT_A_PROXY: Rejection =
    Rejection::bad("who is not in trusted_proxies may not send a PROXY header");
pub(super) const LATE_TLS: Rejection = Rejection::new(
    StatusCode::REQUEST_TIMEOUT,
    "the TLS handshake was not done in time",
);
pub(super) const NO_HEADER: Rejection =
    Rejection::bad("the connection does not begin with a PROXY header");

impl Edge {
    /// Closes without an answer: a client that sends no PROXY header, or may not send one, speaks
    /// another language.
    pub(super) fn shut_out(
        &self,
        state: &ListenerState,
        peer: Option<SocketAddr>,
        rejection: Rejection,
    ) {
        let who = peer.map_or("a unix socket".to_owned(), |peer| peer.to_string());
        let line = format!("{who} is shut out: {}", rejection.reason);
        self.warn_of(state, rejection.reason, &line);
        self.record(state, peer, rejection);
    }

    /// Warns of something that each new connection may cause. Lines with the same `what` are
    /// merged.
    pub(super) fn warn_of(&self, state: &ListenerState, what: &str, line: &str) {
        let settings = state.settings();
        let name = &settings.name;
        let kind = repeated::Kind::of(format!("listener {name:?}: {what}"));
        repeated::warn(kind, format!("listener {name:?}: {line}"));
    }

    /// Refuses with an answer, unless TLS would have to come first.
    pub(super) fn turn_away(
        &self,
        state: &ListenerState,
        socket: Socket,
        peer: Option<SocketAddr>,
        rejection: Rejection,
    ) {
        self.record(state, peer, rejection);
        if state.settings().tls.is_some() {
            return;
        }
        let mut transport = Transport::from(socket);
        transport.send_at_once(&answer(rejection));
        self.linger_and_close(transport);
    }

    /// Closes a connection whose client has not read the last answer yet, or is still sending.
    pub(super) fn linger_and_close(&self, mut transport: Transport) {
        let Ok(permit) = self.lingering.clone().try_acquire_owned() else {
            return;
        };
        // There is no runtime when the process ends.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let last_moment = self.last_moment();
        let going = async move {
            let read_out = async {
                transport.shutdown().await?;
                let mut received = transport.take(LINGER_BYTES);
                while received.read(&mut [0; 4096]).await? > 0 {}
                io::Result::Ok(())
            };
            // A client that takes longer is cut.
            tokio::select! {
                _ = timeout(LINGER, read_out) => {}
                () = last_moment => {}
            }
            drop(permit);
        };
        self.connections.spawn_on(going, &runtime);
    }

    /// Something that has to come before HTTP did not come.
    pub(super) fn fail(
        &self,
        state: &ListenerState,
        peer: Option<SocketAddr>,
        what: &str,
        why: &dyn fmt::Display,
    ) {
        let reason = format!("{what} failed: {why}");
        self.record_as(state, peer, StatusCode::BAD_REQUEST, &reason);
    }

    pub(super) fn record(
        &self,
        state: &ListenerState,
        peer: Option<SocketAddr>,
        rejection: Rejection,
    ) {
        self.record_as(state, peer, rejection.status, rejection.reason);
    }

    /// Called for every connection that is refused or fails before HTTP.
    fn record_as(
        &self,
        state: &ListenerState,
        peer: Option<SocketAddr>,
        status: StatusCode,
        reason: &str,
    ) {
        let settings = state.settings();
        settings
            .unrouted
            .count_request(status.as_u16(), Duration::ZERO);
        if !self.log.is_on() {
            return;
        }
        let client = peer.map_or(ClientAddress::Unix, |peer| {
            ClientAddress::Ip(peer.ip().to_canonical())
        });
        self.log.write(&Entry {
            kind: Kind::Request,
            id: Uuid::now_v7(),
            request_id: None,
            trace: None,
            listener: &settings.name,
            route: None,
            upstream: None,
            server: None,
            client: client.to_string(),
            method: "",
            host: None,
            path: "",
            version: Version::HTTP_11,
            status: status.as_u16(),
            user: None,
            duration_ms: 0.0,
            handshake_ms: None,
            bytes_in: 0,
            bytes_out: 0,
            messages_in: None,
            messages_out: None,
            events_out: None,
            close_code: None,
            closed_by: None,
            attempts: 0,
            user_agent: None,
            referer: None,
            error: Some(reason),
        });
    }
}

/// The text that a client reads which is turned away.
pub(super) fn words(rejection: Rejection) -> String {
    let status = rejection.status.as_u16();
    let name = rejection.status.canonical_reason().unwrap_or_default();
    let name = name.to_ascii_lowercase();
    format!("{status} {name}: {}\n", rejection.reason)
}

fn answer(rejection: Rejection) -> Vec<u8> {
    let status = rejection.status.as_u16();
    let name = rejection.status.canonical_reason().unwrap_or_default();
    let body = words(rejection);
    let length = body.len();
    format!(
        "HTTP/1.1 {status} {name}\r\nContent-Length: {length}\r\nContent-Type: text/plain; \
         charset=utf-8\r\nCache-Control: no-store\r\nRetry-After: {RETRY_AFTER}\r\nConnection: \
         close\r\n\r\n{body}"
    )
    .into_bytes()
}
