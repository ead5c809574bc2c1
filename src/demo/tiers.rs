//! The two tiers of the demo: the shipped files with the addresses of this run.

use std::net::SocketAddr;
use std::sync::Arc;
use std::{fmt, io};

use super::{DemoBackends, DemoPorts};
use crate::admin::{self, Access};
use crate::app::{App, StartError, Stop};
use crate::config::{self, Config, ConfigErrors};
use crate::lifecycle::{Process, supervise};
use crate::net::{Inherited, ListenAddress, ListeningSocket};
use crate::phase::{Phase, Stopping};

const CLIENT_LB: &str = include_str!("../../conf/client-lb.yaml");
const SERVER_LB: &str = include_str!("../../conf/server-lb.yaml");

/// The addresses in both files, in the order of [`addresses`].
const SHIPPED: [&str; 6] = [
    "127.0.0.1:9090",
    "127.0.0.1:9091",
    "127.0.0.1:7080",
    "127.0.0.1:8080",
    "127.0.0.1:9080",
    "127.0.0.1:9081",
];

#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error("the demo's servers cannot start: {0}")]
    Backends(#[source] io::Error),
    #[error("a shipped file is not valid:\n{0}")]
    Config(ConfigErrors),
    #[error("{0}; `--port` moves the demo to other ports")]
    Start(#[from] StartError),
    #[error(
        "--port {0} leaves no ports for the server LB, which takes the next one, and the two admin \
         APIs, from {ADMIN_OFFSET} above"
    )]
    Port(u16),
    #[error("signals cannot be waited for: {0}")]
    Signal(#[source] io::Error),
}

/// The offset of the server LB's admin port from the client LB's port: 9900 and 9090. The client
/// LB's admin port is the next one.
const ADMIN_OFFSET: u16 = 810;

/// Serves until Ctrl-C. The client LB takes `port`, the server LB the next one.
pub async fn run(port: u16) -> Result<(), DemoError> {
    let above = |offset| port.checked_add(offset).filter(|_| port > 0);
    let ports = [1, ADMIN_OFFSET, ADMIN_OFFSET + 1].map(above);
    let [Some(next), Some(server_admin), Some(client_admin)] = ports else {
        return Err(DemoError::Port(port));
    };
    let anywhere = DemoPorts {
        client_apps: [0; 2],
        chat_servers: [0; 2],
    };
    let backends = DemoBackends::start(anywhere)
        .await
        .map_err(DemoError::Backends)?;
    let ours = addresses(port, next, &backends);
    let admins = [admin_socket(server_admin)?, admin_socket(client_admin)?];
    let server_lb = App::start(
        shipped("server-lb.yaml", SERVER_LB, &ours)?,
        &mut Inherited::default(),
    )?;
    let client_lb = App::start(
        shipped("client-lb.yaml", CLIENT_LB, &ours)?,
        &mut Inherited::default(),
    )?;
    // The client LB checks the server LB, so that one must start first.
    for tier in [&server_lb, &client_lb] {
        tier.warm_up().await;
        tier.accept();
    }
    let tiers = [Arc::new(server_lb), Arc::new(client_lb)];
    println!("{}", Welcome(ours, [server_admin, client_admin].map(local)));
    for (tier, admin) in tiers.iter().zip(admins) {
        let admin = vec![Arc::new(admin)];
        let (process, inbox) =
            Process::new(tier.clone(), None, None, (admin, None), Access::new(None));
        tokio::spawn(supervise(process, inbox));
    }
    tokio::signal::ctrl_c().await.map_err(DemoError::Signal)?;
    for tier in tiers.iter().rev() {
        tier.phases().enter(Phase::Stopping(Stopping::Draining));
        tier.stop(Stop::Now).await;
        tier.close_log().await;
    }
    Ok(())
}

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn admin_socket(port: u16) -> Result<ListeningSocket, StartError> {
    let address = ListenAddress::Tcp(local(port));
    admin::bind(&address, &mut Inherited::default())
        .map_err(|cause| StartError::Admin { address, cause })
}

fn addresses(port: u16, next: u16, backends: &DemoBackends) -> [SocketAddr; 6] {
    let [app_one, app_two] = backends.client_apps();
    let chat = backends.chat_servers();
    [local(port), local(next), app_one, app_two, chat[0], chat[1]]
}

fn shipped(name: &str, text: &str, ours: &[SocketAddr; 6]) -> Result<Config, DemoError> {
    // In two steps, so that a new address is not replaced as another old one.
    let mut text = text.to_owned();
    for (index, old) in SHIPPED.iter().enumerate() {
        text = text.replace(old, &format!("<{index}>"));
    }
    for (index, new) in ours.iter().enumerate() {
        text = text.replace(&format!("<{index}>"), &new.to_string());
    }
    text.push_str("\naccess_log: off\n");
    config::parse(name, &text).map_err(DemoError::Config)
}

/// The addresses of the tiers and servers, and the admin APIs of server LB and client LB.
struct Welcome([SocketAddr; 6], [SocketAddr; 2]);

impl fmt::Display for Welcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [client_lb, server_lb, app_one, app_two, chat_one, chat_two] = self.0;
        writeln!(f, "prusik demo: open http://{client_lb}/IMS/")?;
        writeln!(f)?;
        let trunk = format!("  browser ─► client LB {client_lb} ─");
        let below = " ".repeat(trunk.chars().count());
        writeln!(f, "{trunk}┬─► client app  {app_one}, {app_two}")?;
        writeln!(f, "{below}└─► server LB   {server_lb}")?;
        writeln!(f, "{below}      └─► chat  {chat_one}, {chat_two}")?;
        writeln!(f)?;
        let [admin, client_admin] = self.1;
        writeln!(
            f,
            "  http://{admin}/, http://{client_admin}/      the status pages of server LB and client LB"
        )?;
        writeln!(
            f,
            "  prusik status --admin {admin}      what the server LB has; also sessions,"
        )?;
        writeln!(
            f,
            "  prusik drain ims_svr/{chat_one} --admin {admin}      drain, enable, close"
        )?;
        writeln!(f)?;
        write!(f, "Ctrl-C stops it.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_files_name_every_address_that_the_demo_replaces() {
        for address in SHIPPED {
            assert!(
                CLIENT_LB.contains(address) || SERVER_LB.contains(address),
                "{address}"
            );
        }
        let ours: [SocketAddr; 6] =
            [1, 2, 3, 4, 5, 6].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        for (name, text) in [("client-lb.yaml", CLIENT_LB), ("server-lb.yaml", SERVER_LB)] {
            let config = shipped(name, text, &ours).expect("shipped files are valid");
            let text = format!("{config:?}");
            assert!(!text.contains(":90") && !text.contains(":80"), "{text}");
        }
    }
}
