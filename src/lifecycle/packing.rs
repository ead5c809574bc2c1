//! A session at rest, as it goes through the wire and comes out of it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::time::Instant;

use super::wire::{self, Frame};
use crate::app::App;
use crate::listener::Ticket;
use crate::session::Session;
use crate::session::leg::Leg;
use crate::session::live::Live;
use crate::session::relay::{Limits, Relay};
use crate::session::traffic::Traffic;
use crate::session::transport::Transport;
use crate::upstream::{Lease, Server};

pub fn pack(session: &Session) -> io::Result<wire::Session> {
    let Session {
        relay,
        live,
        ticket,
        ..
    } = session;
    let Limits { idle, end, ping } = relay.limits;
    let leg = |leg: &Leg| {
        Ok::<_, io::Error>(wire::Leg {
            kind: leg.transport.descriptor()?.0,
            scanner: leg.scanner.clone(),
            ended: leg.ended,
            shut: leg.shut,
        })
    };
    Ok(wire::Session {
        identity: live.identity.clone(),
        age: live.age(),
        counts: live.traffic.counts(),
        client: leg(&relay.client)?,
        server: leg(&relay.server)?,
        idle,
        left: end.map(|end| end.saturating_duration_since(Instant::now())),
        ping,
        quiet: relay.last_activity.elapsed(),
        proxied: ticket.proxied.as_deref().copied(),
    })
}

/// Must run inside the runtime. `frame`: what came with the session.
pub fn unpack(state: wire::Session, frame: Frame, app: &App) -> io::Result<Session> {
    let generation = app.generation();
    let Ok([client, server]) = <[OwnedFd; 2]>::try_from(frame.descriptors) else {
        return Err(io::Error::other("a session came without its two sockets"));
    };
    let now = Instant::now();
    let mut identity = state.identity;
    // One name for all its sessions, as before.
    let labels = &generation.labels;
    for (name, known) in [
        (&mut identity.listener, &labels.listeners),
        (&mut identity.route, &labels.routes),
    ] {
        if let Some(known) = known.iter().find(|known| *known == name) {
            *name = known.clone();
        }
    }
    let group = generation.find_group(&identity.upstream);
    let lease = match group {
        Some(group) => {
            identity.upstream = group.label().clone();
            group.adopt(identity.server)
        }
        None => Lease::of_session(Arc::new(Server::new(identity.server))),
    };
    let client = leg(state.client, client, &frame.to_client)?;
    // One that came in on a listener which is gone counts on none.
    let mut listeners = labels.listeners.iter();
    let bound = listeners
        .position(|name| *name == identity.listener)
        .and_then(|number| generation.bound(number));
    let ticket = match bound {
        Some(number) => app.adopt(number, &client.transport, state.proxied),
        None => Ticket {
            seat: None,
            proxied: state.proxied.map(Box::new),
        },
    };
    let place = generation.adopt(&identity);
    let traffic = Arc::new(Traffic::continued(state.age, state.counts));
    let relay = Relay::continued(
        client,
        leg(state.server, server, &frame.to_server)?,
        traffic.clone(),
        Limits {
            idle: state.idle,
            end: state.left.map(|left| now + left),
            ping: state.ping,
        },
        now.checked_sub(state.quiet).unwrap_or(now),
    );
    let live = app.sessions().adopt(Live {
        identity,
        traffic,
        server: lease.server().clone(),
    });
    Ok(Session {
        relay,
        live,
        lease,
        ticket,
        place,
    })
}

fn leg(state: wire::Leg, descriptor: OwnedFd, waiting: &[u8]) -> io::Result<Leg> {
    Ok(Leg {
        transport: Transport::from_descriptor(state.kind, descriptor)?,
        waiting: BytesMut::from(waiting),
        scanner: state.scanner,
        ended: state.ended,
        shut: state.shut,
    })
}
