//! The new process's side of an upgrade: proves itself, serves, and takes in what the old one
//! sends.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::{io, thread};

use bytes::BytesMut;
use log::{info, warn};
use tokio::runtime::Handle;

use super::descriptors::Named;
use super::packing;
use super::wire::{self, Frame, Message};
use crate::app::{App, manner};
use crate::listener::{Binder, Inherited};
use crate::session::live::Live;
use crate::session::transport::{Transport, TransportKind};

/// The process that this one takes over from.
#[derive(Debug)]
pub struct Predecessor {
    stream: UnixStream,
}

/// Tells the sockets that were inherited from the link to a predecessor.
pub fn sort(named: Vec<Named>) -> (Inherited, Option<Predecessor>) {
    let mut predecessor = None;
    let mut sockets: Vec<(OwnedFd, Binder)> = Vec::new();
    for (name, descriptor) in named {
        match name.as_str() {
            wire::SOCKET => {
                predecessor = Some(Predecessor {
                    stream: descriptor.into(),
                });
            }
            name => sockets.push((descriptor, wire::binder_of(name))),
        }
    }
    (Inherited::new(sockets), predecessor)
}

impl Predecessor {
    /// The old process goes on, and tells the operator why.
    pub fn refuse(&self, reason: &str) {
        let reason = reason.to_owned();
        if let Err(error) = wire::send(&self.stream, &Message::Failed { reason }) {
            warn!("cannot tell the old process why this one ends: {error}");
        }
    }

    /// Takes over what operators have done, then asks to serve. Blocks until the old process says
    /// so.
    pub fn ask_to_serve(&self, app: &App) -> io::Result<()> {
        match self.receive()?.message {
            Message::State { drained } => {
                let generation = app.generation();
                for (upstream, address) in drained {
                    if let Some(group) = generation.find_group(&upstream) {
                        group.server(address).set_drained(true);
                    }
                }
            }
            other => return Err(out_of_turn(&other)),
        }
        let ready = Message::Ready {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        wire::send(&self.stream, &ready)?;
        match self.receive()?.message {
            Message::Go => Ok(()),
            other => Err(out_of_turn(&other)),
        }
    }

    fn receive(&self) -> io::Result<Frame> {
        wire::receive(&self.stream)?
            .ok_or_else(|| io::Error::other("the old process has closed the link"))
    }

    /// This process serves: sessions and idle connections come in until the old one has no more.
    pub fn take_in(self, app: Arc<App>) -> io::Result<()> {
        wire::send(&self.stream, &Message::Serving)?;
        let runtime = Handle::current();
        thread::Builder::new()
            .name("upgrade-take".to_owned())
            .spawn(move || {
                let _inside = runtime.enter();
                let mut homeless = Vec::new();
                if let Err(error) = self.take_all(&app, &mut homeless) {
                    warn!("upgrade: {error}");
                }
                let what = "sessions whose route or server did not survive the upgrade";
                let manner = manner(&app.config(), what.to_owned());
                app.drains().start(homeless, manner);
                info!("upgrade: done, {} sessions live", app.sessions().len());
            })?;
        Ok(())
    }

    fn take_all(&self, app: &App, homeless: &mut Vec<Arc<Live>>) -> io::Result<()> {
        while let Some(mut frame) = wire::receive(&self.stream)? {
            let message = std::mem::replace(&mut frame.message, Message::End);
            let (number, taken) = match message {
                Message::Session { number, session } => {
                    (number, take_session(app, *session, frame, homeless))
                }
                Message::Idle {
                    number,
                    listener,
                    kind,
                } => (number, take_idle(app, &listener, kind, frame)),
                Message::End => return Ok(()),
                other => return Err(out_of_turn(&other)),
            };
            let answer = match taken {
                Ok(()) => Message::Adopted { number },
                Err(error) => Message::Refused {
                    number,
                    reason: error.to_string(),
                },
            };
            wire::send(&self.stream, &answer)?;
        }
        Ok(())
    }
}

fn take_session(
    app: &App,
    state: wire::Session,
    frame: Frame,
    homeless: &mut Vec<Arc<Live>>,
) -> io::Result<()> {
    let generation = app.generation();
    let session = packing::unpack(state, frame, &generation, app.sessions())?;
    let identity = &session.live.identity;
    let has_route = generation.labels.routes.contains(&identity.route);
    let has_server = match generation.find_group(&identity.upstream) {
        Some(group) => group.keeps_sessions_of(identity.server),
        None => false,
    };
    if !(has_route && has_server) {
        homeless.push(session.live.clone());
    }
    app.carrier().carry(session);
    Ok(())
}

fn take_idle(app: &App, listener: &str, kind: TransportKind, frame: Frame) -> io::Result<()> {
    let listening = app.listening();
    let index = listening
        .iter()
        .position(|(_, address)| address.to_string() == *listener);
    // A listener that is gone: whoever came in on it is served as by the first one, once.
    let index = index.unwrap_or(0);
    for descriptor in frame.descriptors {
        let transport = Transport::from_descriptor(kind, descriptor)?;
        app.serve(index, transport, BytesMut::from(&frame.to_server[..]));
    }
    Ok(())
}

fn out_of_turn(message: &Message) -> io::Error {
    io::Error::other(format!("the old process said {message:?} out of turn"))
}
