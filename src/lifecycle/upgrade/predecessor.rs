//! The process from which this one takes over: how it was met, and what is known of its life.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use log::warn;
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::process::{PidfdFlags, pidfd_open};

use super::exec::Pidfd;
use super::link::shut;
use super::protocol::frame::{Beside, Framing, encode};
use super::protocol::{self, Message};
use super::store::{self, player::Player};
use crate::net::{Binder, Inherited};

/// The descriptors that a process got at its start, with their names.
pub type Named = (String, OwnedFd);

/// The process from which this one takes over.
#[derive(Debug)]
pub struct Predecessor {
    stream: UnixStream,
    /// Opened while the old process lives, because its number may be reused later.
    pidfd: Result<OwnedFd, Errno>,
    /// For a process that is gone: says what it has left behind.
    player: Option<Player>,
}

/// What is known of the old process's life.
#[derive(Debug)]
pub(super) enum Life {
    Known(Pidfd),
    /// It was already dead.
    Dead,
    /// The kernel does not say.
    Unknown,
}

/// Separates the inherited sockets from the link to a predecessor.
pub fn sort(named: Vec<Named>) -> (Inherited, Option<Predecessor>) {
    let mut predecessor = None;
    let mut sockets: Vec<(OwnedFd, Binder)> = Vec::new();
    for (name, descriptor) in named {
        match name.as_str() {
            protocol::LINK => predecessor = Some(Predecessor::new(descriptor.into())),
            store::BUNDLE => match Predecessor::gone(descriptor) {
                Ok(gone) => predecessor = Some(gone),
                Err(error) => warn!("restart: what was kept cannot be read: {error}"),
            },
            name => sockets.push((descriptor, protocol::binder_of(name))),
        }
    }
    (Inherited::new(sockets), predecessor)
}

impl Predecessor {
    fn new(stream: UnixStream) -> Self {
        // The link's credentials are those of the process that made it.
        let old = socket_peercred(&stream).map(|old| old.pid);
        let pidfd = old.and_then(|old| pidfd_open(old, PidfdFlags::empty()));
        Self {
            stream,
            pidfd,
            player: None,
        }
    }

    /// A process that has ended and has left this bundle behind.
    fn gone(bundle: OwnedFd) -> io::Result<Self> {
        let (player, stream) = Player::new(bundle)?;
        Ok(Self {
            stream,
            pidfd: Err(Errno::SRCH),
            player: Some(player),
        })
    }

    /// A process that has not started this one. `pidfd`: the descriptor that it has sent for this.
    pub(super) fn met(stream: UnixStream, pidfd: Option<OwnedFd>) -> Self {
        Self {
            stream,
            pidfd: pidfd.ok_or(Errno::NOSYS),
            player: None,
        }
    }

    /// Refuses to take over. The old process continues, and tells the operator the reason.
    pub fn refuse(&self, reason: &str) {
        let failed = Message::Failed {
            reason: reason.to_owned(),
            stops: false,
        };
        let said = encode(Framing::First, &failed, Beside::default(), 0);
        let said = said.and_then(|bytes| io::Write::write_all(&mut &self.stream, &bytes));
        if let Err(error) = said {
            warn!("cannot tell the old process why this one ends: {error}");
        }
        shut(&self.stream);
    }

    /// Its end of the link, and what is known of its life. What it has left behind if it is gone is
    /// said there from now on. Must be called inside the runtime.
    pub(super) fn meet(self) -> io::Result<(UnixStream, Life)> {
        let life = match self.pidfd {
            Ok(pidfd) => Life::Known(Pidfd::watch(pidfd)?),
            Err(Errno::SRCH) => Life::Dead,
            Err(error) => {
                warn!("upgrade: it cannot be seen whether the old process lives: {error}");
                Life::Unknown
            }
        };
        if let Some(player) = self.player {
            tokio::spawn(player.play());
        }
        Ok((self.stream, life))
    }
}
