//! `prusik demo`: the servers behind the two tiers, and the page that shows what happens to a
//! session when its server dies.
//!
//! ```text
//! browser ── client LB ─┬─ client application × 2     the page, at /IMS/
//!                       └─ server LB ── chat server × 2   the sessions, at /IMS_SVR/websocket
//! ```
//!
//! This folder has the four servers on the right; the two tiers are prusik itself. Everything
//! listens on loopback only.

mod chat_server;
mod chat_servers;
mod client_app;
mod room;
mod server;
mod tiers;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

pub use tiers::{DemoError, run};

use chat_servers::ChatServers;
use client_app::ClientApp;

/// A killed chat server stays down for several health intervals, long enough to watch.
const REST: Duration = Duration::from_secs(8);

/// The ports to listen on. 0 takes any free port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DemoPorts {
    pub client_apps: [u16; 2],
    pub chat_servers: [u16; 2],
}

impl Default for DemoPorts {
    /// The ports in `conf/client-lb.yaml` and `conf/server-lb.yaml`.
    fn default() -> Self {
        Self {
            client_apps: [7080, 8080],
            chat_servers: [9080, 9081],
        }
    }
}

/// The running servers. Dropping this stops them and closes their sockets.
#[derive(Debug)]
pub struct DemoBackends {
    client_apps: [ClientApp; 2],
    chat_servers: Arc<ChatServers>,
}

impl DemoBackends {
    /// Serves at once. An error names the port that is in use, and then nothing is left running.
    pub async fn start(ports: DemoPorts) -> io::Result<Self> {
        let [chat_one, chat_two] = ports.chat_servers;
        let [app_one, app_two] = ports.client_apps;
        let chat = vec![
            bind("chat server", chat_one).await?,
            bind("chat server", chat_two).await?,
        ];
        let apps = [
            bind("client application", app_one).await?,
            bind("client application", app_two).await?,
        ];
        let chat_servers = Arc::new(ChatServers::start(chat, REST)?);
        let [app_one, app_two] =
            apps.map(|listener| ClientApp::start(listener, chat_servers.clone()));
        Ok(Self {
            client_apps: [app_one?, app_two?],
            chat_servers,
        })
    }

    /// The addresses of the page.
    pub fn client_apps(&self) -> [SocketAddr; 2] {
        self.client_apps.each_ref().map(ClientApp::address)
    }

    /// The addresses of the chat servers, in the order of the ports.
    pub fn chat_servers(&self) -> Vec<SocketAddr> {
        self.chat_servers.addresses().collect()
    }
}

async fn bind(what: &str, port: u16) -> io::Result<TcpListener> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpListener::bind(address).await.map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot listen on {address} for the demo's {what}: {error}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    const ANY: DemoPorts = DemoPorts {
        client_apps: [0; 2],
        chat_servers: [0; 2],
    };

    #[tokio::test]
    async fn all_four_servers_listen_on_loopback() {
        let demo = DemoBackends::start(ANY).await.unwrap();
        let addresses = [&demo.client_apps()[..], &demo.chat_servers()].concat();
        assert_eq!(addresses.len(), 4);
        for address in addresses {
            assert!(address.ip().is_loopback());
            TcpStream::connect(address).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let ports = DemoPorts {
            chat_servers: [0, address.port()],
            ..ANY
        };
        let error = DemoBackends::start(ports).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}
