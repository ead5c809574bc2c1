//! The demo's chat servers as a set: which are up, killing one, and bringing it back after a while.
//!
//! This stands for whoever runs those servers. prusik is not told, and must notice.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use log::warn;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::chat_server::{ChatServer, Sessions};
use super::room::Room;

/// The pause before a killed server tries again to bind its address, if that is taken.
const BIND_AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct ChatServers {
    slots: Vec<Slot>,
    downtime: Duration,
    /// One task for each slot owns its server; dropping the set drops the servers.
    _supervisors: JoinSet<()>,
}

/// The address of a chat server, and its present state.
#[derive(Debug)]
struct Slot {
    address: SocketAddr,
    state: watch::Sender<State>,
}

#[derive(Debug)]
enum State {
    Up(Sessions),
    /// The server was told to die, and is not dead yet.
    Dying,
    Down {
        back: Instant,
    },
}

/// One chat server as [`ChatServers::list`] shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    Up { sessions: usize },
    Down { back_in: Duration },
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KillError {
    #[error("the demo has no chat server {0:?}")]
    Unknown(String),
    #[error("chat server {0} is down already; wait until it is back")]
    Down(SocketAddr),
}

impl ChatServers {
    /// All of them share one room. A killed one comes back after `downtime`.
    pub fn start(listeners: Vec<TcpListener>, downtime: Duration) -> io::Result<Self> {
        let room = Arc::new(Room::default());
        let mut supervisors = JoinSet::new();
        let mut slots = Vec::new();
        for listener in listeners {
            let server = ChatServer::start(listener, room.clone())?;
            let slot = Slot {
                address: server.address(),
                state: watch::Sender::new(State::Up(server.sessions().clone())),
            };
            supervisors.spawn(supervise(
                server,
                room.clone(),
                slot.state.clone(),
                downtime,
            ));
            slots.push(slot);
        }
        Ok(Self {
            slots,
            downtime,
            _supervisors: supervisors,
        })
    }

    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.slots.iter().map(|slot| slot.address)
    }

    pub fn list(&self) -> impl Iterator<Item = (SocketAddr, Health)> {
        self.slots.iter().map(|slot| {
            let health = match &*slot.state.borrow() {
                State::Up(sessions) => Health::Up {
                    sessions: sessions.open(),
                },
                State::Dying => Health::Down {
                    back_in: self.downtime,
                },
                State::Down { back } => Health::Down {
                    back_in: back.saturating_duration_since(Instant::now()),
                },
            };
            (slot.address, health)
        })
    }

    /// Kills a server. Returns the time until it is back, once its sockets are closed.
    pub async fn kill(&self, server: &str) -> Result<Duration, KillError> {
        let slot = self
            .slots
            .iter()
            .find(|slot| slot.address.to_string() == server)
            .ok_or_else(|| KillError::Unknown(server.to_owned()))?;
        let mut state = slot.state.subscribe();
        let told = slot.state.send_if_modified(|state| {
            let up = matches!(state, State::Up(_));
            if up {
                *state = State::Dying;
            }
            up
        });
        if !told {
            return Err(KillError::Down(slot.address));
        }
        // We own the sender, so waiting cannot fail.
        let _ = state.wait_for(|state| !matches!(state, State::Dying)).await;
        Ok(self.downtime)
    }
}

/// Owns the server of one slot: kills it when told to, and starts its successor.
async fn supervise(
    mut server: ChatServer,
    room: Arc<Room>,
    state: watch::Sender<State>,
    downtime: Duration,
) {
    let address = server.address();
    let mut told = state.subscribe();
    while told
        .wait_for(|state| matches!(state, State::Dying))
        .await
        .is_ok()
    {
        server.kill().await;
        let back = Instant::now() + downtime;
        state.send_replace(State::Down { back });
        tokio::time::sleep_until(back).await;
        server = start_again(address, &room).await;
        state.send_replace(State::Up(server.sessions().clone()));
    }
}

/// Tries until the address is free, because another process may have taken it.
async fn start_again(address: SocketAddr, room: &Arc<Room>) -> ChatServer {
    loop {
        let started = TcpListener::bind(address)
            .await
            .and_then(|listener| ChatServer::start(listener, room.clone()));
        match started {
            Ok(server) => return server,
            Err(error) => warn!("chat server {address} cannot come back yet: {error}"),
        }
        tokio::time::sleep(BIND_AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;
    use tokio::time::timeout;

    use super::*;

    async fn start(downtime: Duration) -> ChatServers {
        let mut listeners = Vec::new();
        for _ in 0..2 {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        ChatServers::start(listeners, downtime).unwrap()
    }

    #[tokio::test]
    async fn a_killed_server_is_down_and_comes_back_after_its_rest() {
        let servers = start(Duration::from_millis(50)).await;
        let [one, two] = servers.addresses().collect::<Vec<_>>()[..] else {
            panic!("two servers")
        };
        servers.kill(&one.to_string()).await.unwrap();
        assert!(TcpStream::connect(one).await.is_err());
        assert!(TcpStream::connect(two).await.is_ok());
        timeout(Duration::from_secs(5), async {
            while TcpStream::connect(one).await.is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("it is back");
    }

    #[tokio::test]
    async fn the_list_tells_when_a_server_is_back() {
        let servers = start(Duration::from_secs(60)).await;
        let two = servers.addresses().nth(1).unwrap();
        servers.kill(&two.to_string()).await.unwrap();
        let list: Vec<Health> = servers.list().map(|(_, health)| health).collect();
        assert_eq!(list[0], Health::Up { sessions: 0 });
        let Health::Down { back_in } = list[1] else {
            panic!("{list:?}")
        };
        assert!(back_in > Duration::from_secs(50), "{back_in:?}");
    }

    #[tokio::test]
    async fn neither_a_stranger_nor_a_dead_server_is_killed() {
        let servers = start(Duration::from_secs(60)).await;
        let one = servers.addresses().next().unwrap();
        servers.kill(&one.to_string()).await.unwrap();
        assert_eq!(
            servers.kill(&one.to_string()).await,
            Err(KillError::Down(one))
        );
        assert_eq!(
            servers.kill("10.0.0.1:22").await,
            Err(KillError::Unknown("10.0.0.1:22".into()))
        );
    }

    #[tokio::test]
    async fn dropping_the_set_closes_the_listeners() {
        let servers = start(Duration::from_secs(60)).await;
        let one = servers.addresses().next().unwrap();
        drop(servers);
        timeout(Duration::from_secs(5), async {
            while TcpStream::connect(one).await.is_ok() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the listener is gone");
    }
}
