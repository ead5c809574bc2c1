//! Packs and unpacks an event stream that has stopped.

use std::io;

use bytes::BytesMut;

use super::about::{self, Attachments, arrive, sockets};
use super::census::HeldCounts;
use super::protocol::wire;
use crate::app::App;
use crate::event_stream::{self, EventScanner};
use crate::http1::body::Body;
use crate::http1::chunked::{self, ChunkScanner};
use crate::session::event_relay::{ClientFraming, EventRelay, ServerStream};
use crate::session::leg::Leg;
use crate::session::live::SessionKind;
use crate::session::{Relaying, Session};

pub fn pack(about: wire::About, relay: &EventRelay) -> io::Result<wire::Stream> {
    let ServerStream { body, events } = &relay.server.scanner;
    Ok(wire::Stream {
        about,
        client: relay.client.transport.descriptor()?.0.into(),
        server: relay.server.transport.descriptor()?.0.into(),
        client_tls: about::tls(&relay.client.transport),
        server_tls: about::tls(&relay.server.transport),
        client_ended: relay.client.ended,
        to_chunks: relay.framing == ClientFraming::Chunked,
        chunks: match body {
            Body::Chunked(chunks) => Some(chunks.state().into()),
            Body::UntilClose => None,
        },
        events: events.map(|events| events.state().into()),
    })
}

/// Must be called inside the runtime.
pub fn unpack(
    state: wire::Stream,
    attachments: Attachments,
    app: &App,
    held: &mut HeldCounts,
) -> io::Result<Session> {
    let [client, server] = sockets(attachments.descriptors)?;
    let stream = unpack_position(state.chunks, state.events)
        .ok_or_else(|| io::Error::other("a stream is in a state that does not exist"))?;
    let keys = &attachments.client_tls;
    let client = about::transport(state.client, client, state.client_tls, keys)?;
    let mut client = Leg::with(client, ());
    client.ended = state.client_ended;
    client.waiting = BytesMut::from(&attachments.to_client[..]);
    let keys = &attachments.server_tls;
    let server = about::transport(state.server, server, state.server_tls, keys)?;
    let mut server = Leg::with(server, stream);
    server.waiting = BytesMut::from(&attachments.to_server[..]);
    let framing = match state.to_chunks {
        true => ClientFraming::Chunked,
        false => ClientFraming::UntilClose,
    };
    let transport = &client.transport;
    let arrived = arrive(SessionKind::Stream, state.about, transport, app, held);
    let (traffic, limits, clocks) = (arrived.traffic.clone(), arrived.limits, arrived.clocks);
    let relay = EventRelay::continued(client, server, framing, traffic, limits, clocks);
    Ok(arrived.begin(Relaying::Events(relay), app))
}

fn unpack_position(
    chunks: Option<wire::Chunks>,
    events: Option<wire::Events>,
) -> Option<ServerStream> {
    let body = match chunks {
        Some(chunks) => Body::Chunked(ChunkScanner::from_state(chunks.into())?),
        None => Body::UntilClose,
    };
    let events = match events {
        Some(events) => Some(EventScanner::from_state(events.into())?),
        None => None,
    };
    Some(ServerStream { body, events })
}

impl From<chunked::ScannerState> for wire::Chunks {
    fn from(state: chunked::ScannerState) -> Self {
        Self {
            position: state.position,
            digits: state.digits,
            size: state.size,
            length: state.length,
            content: state.content,
        }
    }
}

impl From<wire::Chunks> for chunked::ScannerState {
    fn from(state: wire::Chunks) -> Self {
        Self {
            position: state.position,
            digits: state.digits,
            size: state.size,
            length: state.length,
            content: state.content,
        }
    }
}

impl From<event_stream::ScannerState> for wire::Events {
    fn from(state: event_stream::ScannerState) -> Self {
        Self {
            position: state.position,
            has_crlf: state.has_crlf,
            has_data: state.has_data,
            events: state.events,
        }
    }
}

impl From<wire::Events> for event_stream::ScannerState {
    fn from(state: wire::Events) -> Self {
        Self {
            position: state.position,
            has_crlf: state.has_crlf,
            has_data: state.has_data,
            events: state.events,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cut anywhere, a stream goes on from what the other process was sent.
    #[test]
    fn a_stream_goes_on_from_every_byte() {
        let body = b"9\r\ndata: a\n\n\r\nb\r\nid: 1\r\ndata\r\n4\r\n\r\n\r\n\r\n0\r\n\r\n";
        for cut in 0..=body.len() {
            let (first, second) = body.split_at(cut);
            let mut stream = ServerStream {
                body: Body::Chunked(ChunkScanner::default()),
                events: Some(EventScanner::default()),
            };
            let read = |stream: &mut ServerStream, bytes: &[u8]| {
                let mut bytes = bytes.to_vec();
                let length = stream.body.unframe(&mut bytes).unwrap();
                stream.events.as_mut().unwrap().feed(&bytes[..length]);
            };
            read(&mut stream, first);
            let Body::Chunked(chunks) = stream.body else {
                panic!("it was chunked");
            };
            let events = stream.events.unwrap().state();
            let mut moved =
                unpack_position(Some(chunks.state().into()), Some(events.into())).unwrap();
            assert_eq!(moved, stream);
            read(&mut moved, second);
            assert!(moved.body.is_done(), "cut at {cut}");
            assert_eq!(moved.events.unwrap().events(), 2, "cut at {cut}");
        }
    }
}
