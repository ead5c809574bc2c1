//! The relay of a session, whatever its two sides speak.

use std::pin::Pin;
use std::task::{Context, Poll};

use super::event_relay::EventRelay;
use super::expiry::{Alarm, Expiry};
use super::relay::{Clocks, Limits, Outcome, Relay};
use crate::transport::{Mobility, Transport};

#[derive(Debug)]
pub enum Relaying {
    /// Frames of WebSocket, in both directions.
    Frames(Relay),
    /// An event stream, from the server to the client.
    Events(EventRelay),
}

impl Relaying {
    /// How another process can continue the session.
    pub fn mobility(&self) -> Mobility {
        let [client, server] = self.transports().map(Transport::mobility);
        client.min(server)
    }

    /// The connections of the client and of the server.
    pub fn transports(&self) -> [&Transport; 2] {
        match self {
            Self::Frames(relay) => [&relay.client.transport, &relay.server.transport],
            Self::Events(relay) => [&relay.client.transport, &relay.server.transport],
        }
    }

    /// The bytes that wait for the client and for the server.
    pub fn waiting(&self) -> [&[u8]; 2] {
        match self {
            Self::Frames(relay) => [&relay.client.waiting, &relay.server.waiting],
            Self::Events(relay) => [&relay.client.waiting, &relay.server.waiting],
        }
    }

    pub fn limits(&self) -> Limits {
        match self {
            Self::Frames(relay) => relay.limits,
            Self::Events(relay) => relay.limits,
        }
    }

    /// The alarm of a credential that ends.
    pub fn alarm(&self) -> Option<&Alarm> {
        match self {
            Self::Frames(relay) => relay.alarm.as_deref(),
            Self::Events(relay) => relay.alarm.as_deref(),
        }
    }

    /// The session ends with its credential.
    pub fn expire(&mut self, expiry: Option<Expiry>) {
        let alarm = expiry.map(Alarm::new).map(Box::new);
        match self {
            Self::Frames(relay) => relay.alarm = alarm,
            Self::Events(relay) => relay.alarm = alarm,
        }
    }

    /// The times with which the session continues in another process.
    pub fn clocks(&self) -> Clocks {
        match self {
            Self::Frames(relay) => relay.clocks(),
            Self::Events(relay) => relay.clocks(),
        }
    }

    /// Prepares the relay for another task.
    pub fn suspend(&mut self) {
        match self {
            Self::Frames(relay) => relay.suspend(),
            Self::Events(relay) => relay.suspend(),
        }
    }

    /// Says the last word of both connections, which are about to be dropped.
    pub fn part(&mut self) {
        match self {
            Self::Frames(relay) => {
                relay.client.transport.part();
                relay.server.transport.part();
            }
            Self::Events(relay) => relay.part(),
        }
    }

    /// What went wrong, if anything did.
    pub fn failure(&self) -> Option<&'static str> {
        match self {
            Self::Frames(relay) => relay.failure,
            Self::Events(relay) => relay.failure,
        }
    }
}

impl Future for Relaying {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        match self.get_mut() {
            Self::Frames(relay) => Pin::new(relay).poll(cx),
            Self::Events(relay) => Pin::new(relay).poll(cx),
        }
    }
}
