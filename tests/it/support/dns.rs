//! A DNS server whose answers, and how long they take, are in the test's hand.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::task::{JoinHandle, JoinSet};

use super::Prusik;
use super::origin::own_address;
use super::process::FILE;

#[derive(Debug, Default)]
struct Zone {
    /// `None`: no answer is ever given. A name that is not here does not exist.
    names: HashMap<String, Option<Vec<Ipv4Addr>>>,
    delay: Duration,
    asked: HashSet<String>,
}

/// Answers for as long as it lives.
pub struct Dns {
    address: Ipv4Addr,
    zone: Arc<Mutex<Zone>>,
    serving: JoinHandle<()>,
}

impl Dns {
    /// `None` without the right to listen on port 53, or to give a process a resolv.conf of its
    /// own.
    pub async fn listen() -> Option<Self> {
        let allowed = Command::new("unshare").args(["--mount", "true"]).output();
        if !allowed.is_ok_and(|output| output.status.success()) {
            return None;
        }
        let address = own_address();
        let socket = UdpSocket::bind((address, 53)).await.ok()?;
        let zone = Arc::default();
        let serving = tokio::spawn(serve(socket, Arc::clone(&zone)));
        Some(Self {
            address,
            zone,
            serving,
        })
    }

    /// Answers take so long from now on.
    pub fn set_delay(&self, delay: Duration) {
        self.zone().delay = delay;
    }

    pub fn set(&self, name: &str, addresses: &[SocketAddr]) {
        let addresses = addresses.iter().filter_map(|address| match address {
            SocketAddr::V4(address) => Some(*address.ip()),
            SocketAddr::V6(_) => None,
        });
        let addresses = addresses.collect();
        self.zone().names.insert(name.to_owned(), Some(addresses));
    }

    /// Who asks for it waits in vain.
    pub fn silence(&self, name: &str) {
        self.zone().names.insert(name.to_owned(), None);
    }

    pub fn has_been_asked(&self, name: &str) -> bool {
        self.zone().asked.contains(name)
    }

    /// Runs prusik where this is the only name server.
    pub async fn prusik(&self, config: impl Display) -> Prusik {
        let files = self.files();
        let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
        Prusik::start_by(self.command(), &config.to_string(), &files).await
    }

    /// As [`Dns::prusik`], of a process that need not become ready. The folder is its own.
    pub fn start(&self, config: impl Display, folder: &Path) -> Child {
        let config = (FILE, config.to_string());
        for (name, text) in self.files().into_iter().chain([config]) {
            fs::write(folder.join(name), text).expect("the file can be written");
        }
        let mut command = self.command();
        command.current_dir(folder).stderr(Stdio::null());
        command.spawn().expect("the binary runs")
    }

    fn files(&self) -> [(&'static str, String); 2] {
        let resolv = format!("nameserver {}\n", self.address);
        let hosts = "127.0.0.1 localhost\n".to_owned();
        [("hosts", hosts), ("resolv.conf", resolv)]
    }

    fn command(&self) -> Command {
        let script = "mount --bind hosts /etc/hosts && mount --bind resolv.conf /etc/resolv.conf \
                      && exec \"$0\" run --config \"$1\"";
        let mut command = Command::new("unshare");
        let program = env!("CARGO_BIN_EXE_prusik");
        command.args(["--mount", "sh", "-c", script, program, FILE]);
        command
    }

    fn zone(&self) -> std::sync::MutexGuard<'_, Zone> {
        self.zone.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(socket: UdpSocket, zone: Arc<Mutex<Zone>>) {
    let socket = Arc::new(socket);
    let mut answering = JoinSet::new();
    let mut query = [0; 1024];
    while let Ok((length, client)) = socket.recv_from(&mut query).await {
        let (answer, delay) = {
            let mut zone = zone.lock().unwrap_or_else(PoisonError::into_inner);
            (answer(&query[..length], &mut zone), zone.delay)
        };
        let socket = socket.clone();
        answering.spawn(async move {
            // A server that is slow is what the zone asks for.
            tokio::time::sleep(delay).await;
            if let Some(answer) = answer {
                // Who has asked may be gone.
                let _ = socket.send_to(&answer, client).await;
            }
        });
    }
}

/// RFC 1035 section 4: one question, of whose name every answer is an address.
fn answer(query: &[u8], zone: &mut Zone) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    let mut labels = Vec::new();
    let mut at = HEADER;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_lowercase());
        at += length;
    }
    let question = query.get(HEADER..at + 4)?;
    let is_for_ipv4 = query[at..at + 2] == [0, 1];
    let name = labels.join(".");
    zone.asked.insert(name.clone());
    let (code, addresses) = match zone.names.get(&name) {
        Some(Some(addresses)) if is_for_ipv4 => (0, addresses.as_slice()),
        Some(Some(_)) => (0, &[][..]),
        Some(None) => return None,
        None => (3, &[][..]),
    };
    let mut answer = query[..2].to_vec();
    // An answer with recursion, and what came of it.
    answer.extend([
        0x81,
        0x80 | code,
        0,
        1,
        0,
        addresses.len() as u8,
        0,
        0,
        0,
        0,
    ]);
    answer.extend(question);
    for address in addresses {
        // The question's name, an address of the internet, good for a second.
        answer.extend([0xc0, HEADER as u8, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}
