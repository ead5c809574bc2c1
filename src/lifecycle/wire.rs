//! What the old and the new process tell each other at an upgrade, over a socket that only they
//! have.
//!
//! ```text
//!   old                                   new
//!    │                                Ready │  adopted the listeners, servers checked, a request
//!    │                                      │  of its own answered; nothing can fail from here on
//!    │  Go (what operators have done, …)    │
//!    │                              Serving │  accepts; the old one no longer does
//!    │  Session, Idle … (descriptors)       │
//!    │                            Adopted … │  said before a byte of it is read there
//!    │  Drain …, Moved                      │  what is under way goes on there
//!    │  End                                 │
//! ```
//!
//! A frame is a header of three lengths (big endian, 32 bits), JSON, and the bytes that wait to
//! go to the client and to the server. Descriptors ride on the header. Both sides may be of
//! different versions: fields may be added, and must then have a default.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::forward::proxy_protocol::Ends;
use crate::listener::Binder;
use crate::observe::operations::Tally;
use crate::session::frames::FrameScanner;
use crate::session::live::Identity;
use crate::session::traffic::Counts;
use crate::session::transport::TransportKind;
use crate::upstream::Knowledge;

/// The name of the socket among the inherited descriptors.
pub const SOCKET: &str = "prusik-upgrade";

/// The name of a listening socket that prusik has bound; systemd's have any other.
const OURS: &str = "prusik-listener";

/// What a listening socket is called on the way to the new process.
pub fn name_of(binder: Binder) -> &'static str {
    match binder {
        Binder::Us => OURS,
        Binder::Systemd => "systemd",
    }
}

/// Who has bound a listening socket of this name.
pub fn binder_of(name: &str) -> Binder {
    match name {
        OURS => Binder::Us,
        _ => Binder::Systemd,
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    Ready {
        pid: u32,
        version: String,
        /// Addresses of inherited sockets that its file no longer has.
        #[serde(default)]
        unused: Vec<String>,
    },
    /// The new process gives up.
    Failed {
        reason: String,
    },
    Go {
        /// Servers that operators have taken out: upstream and address.
        drained: Vec<(String, SocketAddr)>,
        #[serde(default)]
        tally: Tally,
        /// By the upstream's name.
        #[serde(default)]
        known: Vec<(String, Knowledge)>,
    },
    Serving,
    /// With two descriptors: the client's, then the server's.
    Session {
        number: u64,
        session: Box<Session>,
    },
    /// With one descriptor. `listener`: the address that it came in on.
    Idle {
        number: u64,
        listener: String,
        kind: TransportKind,
        /// As a PROXY header has named them.
        #[serde(default)]
        proxied: Option<Ends>,
    },
    Adopted {
        number: u64,
    },
    Refused {
        number: u64,
        reason: String,
    },
    /// Sessions that were told to go, or about to be.
    Drain(Drain),
    /// All that could move at once has. What comes now is a handshake or request that took longer.
    Moved,
    /// Nothing more comes.
    End,
}

/// A part of a drain that goes on: one message has room for so many sessions.
#[derive(Debug, Serialize, Deserialize)]
pub struct Drain {
    pub what: String,
    pub code: u16,
    /// What is left of both.
    pub window: Duration,
    pub deadline: Duration,
    pub sessions: Vec<Uuid>,
}

/// A session at rest. Times are relative: the clocks of two processes need not agree.
#[derive(Debug, Serialize, Deserialize)]
pub struct Session {
    pub identity: Identity,
    pub age: Duration,
    pub counts: Counts,
    pub client: Leg,
    pub server: Leg,
    pub idle: Option<Duration>,
    /// Until `max_session`.
    pub left: Option<Duration>,
    pub ping: Option<Duration>,
    /// Since the last byte.
    pub quiet: Duration,
    /// The ends of the client's connection, as a PROXY header has named them.
    #[serde(default)]
    pub proxied: Option<Ends>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Leg {
    pub kind: TransportKind,
    pub scanner: FrameScanner,
    pub ended: bool,
    pub shut: bool,
}

/// A message with what comes along.
#[derive(Debug)]
pub struct Frame {
    pub message: Message,
    pub to_client: Vec<u8>,
    pub to_server: Vec<u8>,
    pub descriptors: Vec<OwnedFd>,
}

const HEADER: usize = 12;
const JSON_MAX: usize = 4 << 20;
const WAITING_MAX: usize = 1 << 20;
const DESCRIPTORS_MAX: usize = 2;

pub fn send(stream: &UnixStream, message: &Message) -> io::Result<()> {
    send_with(stream, message, [&[], &[]], &[])
}

/// `waiting`: what is to go to the client and to the server.
pub fn send_with(
    mut stream: &UnixStream,
    message: &Message,
    waiting: [&[u8]; 2],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let json = serde_json::to_vec(message)?;
    let mut header = Vec::with_capacity(HEADER);
    for length in [json.len(), waiting[0].len(), waiting[1].len()] {
        let length = u32::try_from(length).map_err(io::Error::other)?;
        header.extend_from_slice(&length.to_be_bytes());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors in one message"));
    }
    let sent = sendmsg(
        stream,
        &[IoSlice::new(&header)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    // The descriptors went with the first byte.
    stream.write_all(&header[sent..])?;
    stream.write_all(&json)?;
    stream.write_all(waiting[0])?;
    stream.write_all(waiting[1])
}

/// `None`: the other side has closed.
pub fn receive(mut stream: &UnixStream) -> io::Result<Option<Frame>> {
    let mut header = [0; HEADER];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut header)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    if received.bytes == 0 {
        return Ok(None);
    }
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    stream.read_exact(&mut header[received.bytes..])?;
    let lengths = lengths(&header)?;
    let mut parts = lengths.map(|length| vec![0; length]);
    for part in &mut parts {
        stream.read_exact(part)?;
    }
    let [json, to_client, to_server] = parts;
    Ok(Some(Frame {
        message: decode(&json)?,
        to_client,
        to_server,
        descriptors,
    }))
}

fn lengths(header: &[u8; HEADER]) -> io::Result<[usize; 3]> {
    let length = |at: usize| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&header[at..at + 4]);
        u32::from_be_bytes(bytes) as usize
    };
    let lengths = [length(0), length(4), length(8)];
    if lengths[0] > JSON_MAX || lengths[1] > WAITING_MAX || lengths[2] > WAITING_MAX {
        return Err(invalid("a message of the upgrade is too long"));
    }
    Ok(lengths)
}

/// A message that cannot be acted on is an error here, not later.
pub fn decode(json: &[u8]) -> io::Result<Message> {
    let message: Message = serde_json::from_slice(json)?;
    if let Message::Session { session, .. } = &message
        && !(session.client.scanner.is_consistent() && session.server.scanner.is_consistent())
    {
        return Err(invalid(
            "a session's parser is in a state that does not exist",
        ));
    }
    Ok(message)
}

fn invalid(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_message_arrives_with_its_bytes_and_descriptors() {
        let (old, new) = UnixStream::pair().unwrap();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let message = Message::Idle {
            number: 7,
            listener: "127.0.0.1:9090".to_owned(),
            kind: TransportKind::Unix,
            proxied: None,
        };
        send_with(&old, &message, [b"", b"early"], &[theirs.as_fd()]).unwrap();
        send(&old, &Message::End).unwrap();
        drop((old, theirs));
        let mut frame = receive(&new).unwrap().unwrap();
        assert!(matches!(frame.message, Message::Idle { number: 7, .. }));
        assert_eq!(frame.to_server, b"early");
        let received = UnixStream::from(frame.descriptors.pop().unwrap());
        assert!(frame.descriptors.is_empty());
        ours.write_all(b"through").unwrap();
        drop(ours);
        let mut said = String::new();
        (&received).read_to_string(&mut said).unwrap();
        assert_eq!(said, "through");
        assert!(matches!(
            receive(&new).unwrap().unwrap().message,
            Message::End
        ));
        assert!(receive(&new).unwrap().is_none());
    }

    #[test]
    fn what_an_older_version_does_not_send_is_nothing() {
        let message = decode(br#"{"go": {"drained": []}}"#).unwrap();
        let Message::Go { known, .. } = message else {
            panic!("{message:?}");
        };
        assert!(known.is_empty());
        let message = decode(br#"{"ready": {"pid": 7, "version": "0.0.9"}}"#).unwrap();
        let Message::Ready { unused, .. } = message else {
            panic!("{message:?}");
        };
        assert!(unused.is_empty());
    }

    #[test]
    fn a_message_that_is_too_long_or_no_message_is_an_error() {
        let (mut old, new) = UnixStream::pair().unwrap();
        old.write_all(&[0xff; HEADER]).unwrap();
        assert_eq!(
            receive(&new).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        assert!(decode(b"{\"session\": 1}").is_err());
        assert!(decode(b"").is_err());
    }
}
