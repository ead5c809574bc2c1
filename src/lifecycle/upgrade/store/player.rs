//! Says to the side of an upgrade that takes over what a process has written down that is gone.
//!
//! The bundle is emptied only when this process is ready to serve. Before that it may fail, and
//! systemd gives the bundle to the next one. After that the sessions are read here, so what was
//! written down is out of date and nobody else may use it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use log::{info, warn};

use super::record::{Record, Spoken, messages};
use super::{BUNDLE, bundle};
use crate::lifecycle::systemd;
use crate::lifecycle::upgrade::link::{Heard, Link};
use crate::lifecycle::upgrade::protocol::frame::{Beside, Decoded, Framing};
use crate::lifecycle::upgrade::protocol::{Message, name_of, wire};
use crate::net::Binder;

/// A bundle from systemd's store, and the link by which it is said.
#[derive(Debug)]
pub struct Player {
    stream: UnixStream,
    bundle: OwnedFd,
}

impl Player {
    /// Returns the other end of the link too.
    pub fn new(bundle: OwnedFd) -> io::Result<(Self, UnixStream)> {
        let (stream, theirs) = UnixStream::pair()?;
        Ok((Self { stream, bundle }, theirs))
    }

    /// Ends when the other side has everything, or has given up.
    pub async fn play(self) {
        if let Err(error) = self.say_all().await {
            warn!("restart: what the process before has kept is lost in part: {error}");
        }
    }

    async fn say_all(self) -> io::Result<()> {
        let mut link = Link::new(self.stream)?;
        loop {
            match link.hear().await? {
                Heard::Message(Decoded::Frame(frame), _) => match frame.message {
                    Message::Ready(_) => break,
                    // The process ends, and the bundle is for the next one.
                    Message::Failed { .. } => return Ok(()),
                    _ => {}
                },
                Heard::Message(Decoded::Unknown { .. }, _) => {}
                Heard::Closed => return Ok(()),
            }
        }
        for spoken in unpack(self.bundle)? {
            let with = spoken.with.map(|given| given as _);
            link.pass(spoken.bytes, with);
        }
        link.set_framing(Framing::Second);
        loop {
            match link.hear().await? {
                Heard::Message(Decoded::Frame(frame), _) => match frame.message {
                    Message::End => return Ok(()),
                    Message::Refused { reason, .. } => {
                        warn!("restart: a kept connection cannot be served: {reason}");
                    }
                    _ => {}
                },
                Heard::Message(Decoded::Unknown { .. }, _) => {}
                Heard::Closed => return Ok(()),
            }
        }
    }
}

/// The point of no return: from here on only this process has what was kept.
fn unpack(bundle: OwnedFd) -> io::Result<Vec<Spoken>> {
    let unpacked = bundle::empty(&bundle);
    drop(bundle);
    systemd::forget(BUNDLE);
    systemd::forget(name_of(Binder::Us));
    let kept = unpacked.and_then(|(bytes, descriptors)| {
        let count = descriptors.len();
        let messages = messages(&bytes, descriptors)?;
        info!("restart: taking over what was kept, with {count} sockets");
        Ok(messages)
    });
    kept.or_else(|error| {
        warn!("restart: the sessions that were kept cannot be used, and are closed: {error}");
        nothing()
    })
}

/// Without the messages the new process would not serve.
fn nothing() -> io::Result<Vec<Spoken>> {
    let mut record = Record::begin(wire::Go::empty(), Vec::new(), Vec::new(), Beside::default())?;
    record.say(&Message::Moved {
        sessions: 0,
        told: 0,
    })?;
    record.say(&Message::End)?;
    messages(&record.bytes, Vec::new())
}
