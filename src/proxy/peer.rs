//! Describes a server to Pingora's connector.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pingora::connectors::l4::Connect;
use pingora::upstreams::peer::{H1UpgradePolicy, HttpPeer, HttpUpstreamRequestPolicy, PeerOptions};

use super::exchange::Handshake;
use crate::config::{Route, Timeouts, Tunnel};
use crate::net::{TCP_KEEPALIVE, keepalive_with};
use crate::session::handshake::HandshakeConnector;
use crate::session::tunnel::{Limits, TunnelConnector};
use crate::upstream::{Dialer, PoolConnector};
use crate::websocket::jitter::jittered;

/// Pingora removes the hop-by-hop fields that it knows and renews the WebSocket ones. Our own
/// filter removes what the client's `Connection` names, because Pingora refuses requests that name
/// `X-Forwarded-For`, which RFC 9110 section 7.6.1 wants removed.
const REQUEST_POLICY: HttpUpstreamRequestPolicy = HttpUpstreamRequestPolicy {
    strip_hop_by_hop: true,
    strip_connection_nominated: false,
    reject_malformed_connection_nominations: false,
    h1_upgrade: H1UpgradePolicy::WebSocketOnly,
};

/// How long Pingora keeps an idle connection that must not be kept. Not zero: in its first
/// millisecond Pingora's timer rounds zero to never (pingora-timeout 0.9.1, timer.rs:45; a debug
/// build panics).
const AT_ONCE: Duration = Duration::from_millis(1);

/// For a plain request: over a kept connection if there is one.
pub fn for_request(
    connector: Arc<PoolConnector>,
    address: SocketAddr,
    timeouts: &Timeouts,
) -> Box<HttpPeer> {
    let mut peer = peer(address, timeouts);
    peer.options.tcp_keepalive = Some(TCP_KEEPALIVE);
    peer.options.custom_l4 = Some(connector);
    // The exchange has its own time limit for the request and the answer: see `upstream::flow`.
    peer
}

/// For a handshake: over a new connection, which can leave Pingora or stay in its tunnel. `stall`:
/// how long the server may take nothing of the bytes that wait for it.
pub fn for_handshake(
    address: SocketAddr,
    (dialer, stall): (Dialer, Duration),
    route: &Route,
    handshake: &Handshake,
    tunnel: Tunnel,
) -> Box<HttpPeer> {
    let mut peer = peer(address, &route.timeouts);
    let traffic = handshake.traffic().clone();
    let response = route.timeouts.response;
    let connector: Arc<dyn Connect + Send + Sync> = match tunnel {
        // The relay sets keep-alive itself.
        Tunnel::Relay => Arc::new(HandshakeConnector {
            response,
            dialer,
            traffic,
            server_end: handshake.server_end().clone(),
        }),
        Tunnel::Pingora => {
            // TCP measures how long the server takes nothing.
            peer.options.tcp_keepalive = Some(keepalive_with(stall));
            let websocket = route.websocket.as_ref();
            let limits = Limits {
                response,
                idle: websocket.and_then(|websocket| websocket.idle),
                max_session: websocket
                    .and_then(|websocket| websocket.max_session)
                    .map(jittered),
                messages_per_second: websocket.and_then(|websocket| websocket.messages_per_second),
            };
            Arc::new(TunnelConnector {
                limits,
                dialer,
                traffic,
            })
        }
    };
    // Pingora's pool cannot tell these connections apart. A random key means that nobody takes them
    // from the pool, and if the server declines they are dropped at once.
    peer.group_key = rand::random();
    peer.options.idle_timeout = Some(AT_ONCE);
    peer.options.custom_l4 = Some(connector);
    peer
}

fn peer(address: SocketAddr, timeouts: &Timeouts) -> Box<HttpPeer> {
    let mut peer = HttpPeer::new(address, false, String::new());
    let options: &mut PeerOptions = &mut peer.options;
    options.connection_timeout = Some(timeouts.connect);
    options.total_connection_timeout = Some(timeouts.connect);
    options.http_upstream_request_policy = REQUEST_POLICY;
    Box::new(peer)
}
