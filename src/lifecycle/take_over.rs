//! The new process's side of an upgrade: proves itself, serves, and takes in what the old one
//! sends.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::{io, thread};

use bytes::BytesMut;
use log::{info, warn};
use tokio::runtime::Handle;
use uuid::Uuid;

use super::descriptors::Named;
use super::packing;
use super::wire::{self, Frame, Message};
use crate::admin::view::State;
use crate::app::{App, manner};
use crate::config::ListenAddress;
use crate::forward::proxy_protocol::Ends;
use crate::listener::{Binder, ClientEnd, Inherited};
use crate::observe::operations::Operation;
use crate::session::Session;
use crate::session::drain::Manner;
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

    /// Asks to serve, and takes over what operators have done and what was found out of servers. Blocks until the old process says
    /// so.
    pub fn ask_to_serve(&self, app: &App, unused: &[ListenAddress]) -> io::Result<()> {
        let ready = Message::Ready {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            unused: unused.iter().map(ListenAddress::to_string).collect(),
        };
        wire::send(&self.stream, &ready)?;
        let answer = wire::receive(&self.stream)?
            .ok_or_else(|| io::Error::other("the old process has closed the link"))?;
        let Message::Go {
            drained,
            tally,
            known,
        } = answer.message
        else {
            return Err(out_of_turn(&answer.message));
        };
        let generation = app.generation();
        for (upstream, knowledge) in known {
            if let Some(group) = generation.find_group(&upstream) {
                group.learn(knowledge);
            }
        }
        for (upstream, address) in drained {
            if let Some(group) = generation.find_group(&upstream) {
                group.set_drained(address, true);
            }
        }
        app.operations().go_on_from(tally);
        let (pid, version) = (std::process::id(), env!("CARGO_PKG_VERSION"));
        let outcome = format!("version {version} has taken over as {pid}");
        app.operations().record(Operation::Upgrade, Ok(outcome));
        Ok(())
    }

    /// This process serves: sessions and idle connections come in until the old one has no more.
    /// `done` is called then. Without the old process the new one serves on all the same.
    pub fn take_in(self, app: Arc<App>, done: impl FnOnce() + Send + 'static) {
        let runtime = Handle::current();
        let taking = thread::Builder::new()
            .name("upgrade-take".to_owned())
            .spawn(move || {
                let _inside = runtime.enter();
                let mut newcomers = Newcomers::default();
                if let Err(error) = self.take_all(&app, &mut newcomers) {
                    warn!("upgrade: {error}");
                }
                newcomers.see_off(&app);
                info!("upgrade: done, {} sessions live", app.sessions().len());
                done();
            });
        if let Err(error) = taking {
            // Closed with the thread that was not: the old process keeps what it has.
            warn!("upgrade: no session can move: {error}");
        }
    }

    fn take_all(&self, app: &App, newcomers: &mut Newcomers) -> io::Result<()> {
        wire::send(&self.stream, &Message::Serving)?;
        while let Some(mut frame) = wire::receive(&self.stream)? {
            let message = std::mem::replace(&mut frame.message, Message::End);
            let (number, taken) = match message {
                Message::Session { number, session } => (number, session_of(app, *session, frame)),
                Message::Idle {
                    number,
                    listener,
                    kind,
                    proxied,
                } => (number, idle_of(app, &listener, (kind, proxied), frame)),
                Message::Drain(drain) => {
                    newcomers.go_on(app, drain);
                    continue;
                }
                Message::Moved => {
                    newcomers.see_off(app);
                    continue;
                }
                Message::End => return Ok(()),
                other => return Err(out_of_turn(&other)),
            };
            match taken {
                Ok(taken) => {
                    // Before a byte of it is read: until it is said the old process may take it back.
                    wire::send(&self.stream, &Message::Adopted { number })?;
                    if let Taken::Session(session) = &taken
                        && !has_home(app, &session.live)
                    {
                        newcomers.homeless.push(session.live.clone());
                    }
                    taken.serve(app);
                }
                Err(error) => {
                    let reason = error.to_string();
                    wire::send(&self.stream, &Message::Refused { number, reason })?;
                }
            }
        }
        Ok(())
    }
}

/// Here, and not served yet.
enum Taken {
    Session(Box<Session>),
    Idle(usize, ClientEnd),
}

impl Taken {
    fn serve(self, app: &App) {
        match self {
            Self::Session(session) => app.carrier().carry(*session),
            Self::Idle(listener, client) => app.serve(listener, client),
        }
    }
}

fn session_of(app: &App, state: wire::Session, frame: Frame) -> io::Result<Taken> {
    if app.state() == State::Draining {
        return Err(io::Error::other("it stops already"));
    }
    let session = packing::unpack(state, frame, app)?;
    Ok(Taken::Session(Box::new(session)))
}

fn idle_of(
    app: &App,
    listener: &str,
    (kind, proxied): (TransportKind, Option<Ends>),
    frame: Frame,
) -> io::Result<Taken> {
    let listening = app.listening();
    let index = listening
        .iter()
        .position(|(_, address)| address.to_string() == *listener);
    let descriptor = frame.descriptors.into_iter().next();
    let descriptor =
        descriptor.ok_or_else(|| io::Error::other("a connection came without its socket"))?;
    // A listener that is gone: whoever came in on it is served as by the first one.
    let index = index.unwrap_or(0);
    let transport = Transport::from_descriptor(kind, descriptor)?;
    let ticket = app.adopt(index, &transport, proxied);
    let client = ClientEnd {
        transport,
        early: BytesMut::from(&frame.to_server[..]),
        ended: false,
        ticket,
    };
    Ok(Taken::Idle(index, client))
}

/// Whether this process would let such a session begin: its route is there, and its server is
/// neither gone nor down nor drained, as far as that matters.
fn has_home(app: &App, live: &Live) -> bool {
    let generation = app.generation();
    match generation.find_group(&live.identity.upstream) {
        Some(group) => generation.keeps_late(&live.identity, group),
        None => false,
    }
}

/// Sessions that have come and must go.
#[derive(Default)]
struct Newcomers {
    homeless: Vec<Arc<Live>>,
    /// In drains that go on.
    told: HashSet<Uuid>,
}

impl Newcomers {
    /// Tells those that have no place here and have not been told yet.
    fn see_off(&mut self, app: &App) {
        let mut homeless = std::mem::take(&mut self.homeless);
        homeless.retain(|live| !self.told.contains(&live.identity.id));
        let what = "sessions whose route or server did not survive the upgrade";
        let manner = manner(&app.config(), what.to_owned());
        app.drains().start(homeless, manner);
    }

    /// A drain of the old process, with those of its sessions that are here now.
    fn go_on(&mut self, app: &App, drain: wire::Drain) {
        self.told.extend(&drain.sessions);
        let sessions = drain.sessions.into_iter();
        let sessions = sessions.filter_map(|id| app.sessions().find(id));
        app.drains().start(
            sessions.collect(),
            Manner {
                what: drain.what,
                code: drain.code,
                window: drain.window,
                deadline: drain.deadline,
            },
        );
    }
}

fn out_of_turn(message: &Message) -> io::Error {
    io::Error::other(format!("the old process said {message:?} out of turn"))
}
