//! The three kinds of check, each a Pingora `HealthCheck`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{SinkExt, StreamExt};
use http::Extensions;
use pingora::connectors::l4::Connect;
use pingora::http::RequestHeader;
use pingora::protocols::l4::socket::SocketAddr as PeerAddress;
use pingora::{Error, ErrorType, OrErr};
use pingora_load_balancing::Backend;
use pingora_load_balancing::health_check::{HealthCheck, HttpHealthCheck, TcpHealthCheck};
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

use super::Check;
use crate::config::{self, HealthCheckKind};
use crate::upstream::{Connecting, Way};

/// The check of one server, and the server as Pingora names it.
pub fn build(address: SocketAddr, config: &config::HealthCheck, way: Way) -> (Backend, Check) {
    let backend = Backend {
        addr: PeerAddress::Inet(address),
        weight: 1,
        ext: Extensions::new(),
    };
    let check: Check = match &config.kind {
        HealthCheckKind::Tcp => Box::new(tcp(config.timeout, way)),
        HealthCheckKind::Http { path, host, expect } => Box::new(http(
            address,
            path,
            host.as_deref(),
            expect.clone(),
            config.timeout,
            way,
        )),
        HealthCheckKind::WebSocket { path, host } => Box::new(WebSocketCheck {
            url: format!(
                "ws://{}{path}",
                host.clone().unwrap_or_else(|| address.to_string())
            ),
            way,
        }),
    };
    (backend, check)
}

fn tcp(timeout: Duration, way: Way) -> TcpHealthCheck {
    let mut check = TcpHealthCheck::default();
    check.peer_template.options.custom_l4 = by(way);
    check.peer_template.options.connection_timeout = Some(timeout);
    check
}

fn http(
    address: SocketAddr,
    path: &str,
    host: Option<&str>,
    expect: Vec<std::ops::RangeInclusive<u16>>,
    timeout: Duration,
    way: Way,
) -> HttpHealthCheck {
    let host = host.map_or_else(|| address.to_string(), str::to_owned);
    let mut check = HttpHealthCheck::new(&host, false);
    check.peer_template.options.custom_l4 = by(way);
    check.peer_template.options.connection_timeout = Some(timeout);
    check.peer_template.options.read_timeout = Some(timeout);
    let mut request = RequestHeader::build("GET", path.as_bytes(), Some(3))
        .expect("the configuration admits only paths that begin with / and are printable");
    for (name, value) in [
        ("Host", host.as_str()),
        ("User-Agent", AGENT),
        ("Connection", "close"),
    ] {
        request
            .insert_header(name, value)
            .expect("the configuration admits only hosts that fit a header");
    }
    check.req = request;
    check.validator = Some(Box::new(move |answer| {
        let status = answer.status.as_u16();
        if expect.iter().any(|range| range.contains(&status)) {
            return Ok(());
        }
        Error::e_explain(
            ErrorType::HTTPStatus(status),
            "the health check expects another status",
        )
    }));
    check
}

fn by(way: Way) -> Option<Arc<dyn Connect + Send + Sync>> {
    Some(Arc::new(Connecting(way)))
}

const AGENT: &str = concat!("prusik/", env!("CARGO_PKG_VERSION"), " (health check)");

/// A whole round: handshake, a ping, its pong, a Close.
struct WebSocketCheck {
    url: String,
    way: Way,
}

#[async_trait]
impl HealthCheck for WebSocketCheck {
    async fn check(&self, target: &Backend) -> pingora::Result<()> {
        let address = target
            .addr
            .as_inet()
            .expect("built above from an internet address");
        let stream = self.way.connect(*address).await?;
        let (mut socket, _) = client_async(&self.url, stream)
            .await
            .or_err(ErrorType::HandshakeError, "websocket handshake")?;
        let payload = rand::random::<[u8; 8]>().to_vec();
        socket
            .send(Message::Ping(payload.clone().into()))
            .await
            .or_err(ErrorType::WriteError, "sending a ping")?;
        while let Some(message) = socket.next().await {
            match message.or_err(ErrorType::ReadError, "waiting for the pong")? {
                Message::Pong(answer) if answer == payload => {
                    // The verdict stands; a server that is slow to say goodbye isn't unhealthy.
                    let _ = socket.close(None).await;
                    return Ok(());
                }
                _ => {}
            }
        }
        Error::e_explain(
            ErrorType::ConnectionClosed,
            "the server closed before it sent a pong",
        )
    }

    /// Unused: prusik counts by its own [`super::counter::Counter`].
    fn health_threshold(&self, _success: bool) -> usize {
        1
    }
}
