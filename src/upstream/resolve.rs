//! Names to addresses, again and again.
//!
//! A name stands for all its addresses. A failed lookup keeps the last answer and is told once;
//! an answer of no addresses counts as failed, as an empty zone is more often a fault than a wish.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Weak;
use std::time::Duration;

use futures_util::future::join_all;
use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use log::{info, warn};
use serde::{Deserialize, Serialize};

use super::group::Group;

/// How often names among `servers` are looked up.
pub const REFRESH: Duration = Duration::from_secs(10);

/// How long one lookup may take.
pub const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Name {
    pub host: String,
    pub port: u16,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[derive(Debug, thiserror::Error)]
enum LookupError {
    #[error("the resolver cannot be set up: {0}")]
    Setup(NetError),
    #[error("{0}")]
    Lookup(NetError),
    #[error("no answer within {TIMEOUT:?}")]
    Timeout,
    #[error("the name has no address")]
    Empty,
}

/// Looks all names up each `refresh`, until the group is gone.
pub async fn run(group: Weak<Group>, names: Vec<Name>, refresh: Duration) {
    let mut failing = vec![false; names.len()];
    loop {
        let answers = join_all(names.iter().map(|name| look_up(&name.host))).await;
        let Some(group) = group.upgrade() else { return };
        for ((name, failing), answer) in names.iter().zip(&mut failing).zip(answers) {
            match answer {
                Ok(addresses) => {
                    if std::mem::take(failing) {
                        info!("upstream {:?}: {name} resolves again", group.name());
                    }
                    let with_port = |ip| SocketAddr::new(ip, name.port);
                    group.set_resolved(name, addresses.into_iter().map(with_port).collect());
                }
                Err(error) if !*failing => {
                    *failing = true;
                    warn!(
                        "upstream {:?}: cannot resolve {name}: {error}; keeping the last answer \
                         and trying again every {refresh:?}",
                        group.name()
                    );
                }
                Err(_) => {}
            }
        }
        group.names_are_tried();
        drop(group);
        tokio::time::sleep(refresh).await;
    }
}

/// Reads resolv.conf and the hosts file anew each time: both may change while prusik runs.
async fn look_up(host: &str) -> Result<Vec<IpAddr>, LookupError> {
    let resolver = TokioResolver::builder_tokio()
        .and_then(|builder| builder.build())
        .map_err(LookupError::Setup)?;
    let answer = tokio::time::timeout(TIMEOUT, resolver.lookup_ip(host))
        .await
        .map_err(|_| LookupError::Timeout)?
        .map_err(LookupError::Lookup)?;
    let addresses: Vec<IpAddr> = answer.iter().collect();
    if addresses.is_empty() {
        Err(LookupError::Empty)
    } else {
        Ok(addresses)
    }
}
