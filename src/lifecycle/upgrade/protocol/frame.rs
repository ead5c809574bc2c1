//! The bytes of a message, in both protocols.
//!
//! The first protocol (0.1.0): three lengths of 32 bits, big endian, then so many bytes of JSON, of
//! bytes for the client and of bytes for the server.
//!
//! The second protocol, used after [`Message::Ready`] and [`Message::Go`]:
//!
//! ```text
//!   0        4      6   7   8                16
//!   ┌────────┬──────┬───┬───┬────────────────┬──────────────────────────────┐
//!   │ length │ kind │ d │ 0 │ number         │ sections: tag 2, 0 2, length 4, │
//!   │ of all │      │   │   │ of the parcel  │ bytes; so many as fit        │
//!   └────────┴──────┴───┴───┴────────────────┴──────────────────────────────┘
//! ```
//!
//! `d` is the number of descriptors. An unknown kind or section is skipped by its length. In both
//! protocols the descriptors come with the first byte of the header.

use std::io;

use zeroize::Zeroizing;

use super::Message;

/// A longer body is an error.
const BODY_MAX: usize = 8 << 20;
const FIRST_HEADER: usize = 12;
const SECOND_HEADER: usize = 16;
const SECTION_HEADER: usize = 8;

/// How messages are framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    First,
    Second,
}

/// The content of a section in the second framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
enum Section {
    Json = 1,
    ToClient = 2,
    ToServer = 3,
    ClientTls = 4,
    ServerTls = 5,
    Tickets = 6,
    Affinity = 7,
}

/// The bytes that are sent beside a message.
#[derive(Debug, Clone, Copy, Default)]
pub struct Beside<'a> {
    /// What waits for the client and for the server.
    pub to_client: &'a [u8],
    pub to_server: &'a [u8],
    /// Secrets: the states of TLS of both connections, the keys of tickets, and the key of cookies.
    /// They never stand in the message itself, which may be printed.
    pub client_tls: &'a [u8],
    pub server_tls: &'a [u8],
    pub tickets: &'a [u8],
    pub affinity: &'a [u8],
}

/// A message together with what came beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    pub message: Message,
    pub to_client: Vec<u8>,
    pub to_server: Vec<u8>,
    pub client_tls: Secret,
    pub server_tls: Secret,
    pub tickets: Secret,
    pub affinity: Secret,
}

/// Bytes that are overwritten when they are dropped, and never printed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(pub Zeroizing<Vec<u8>>);

impl Secret {
    pub fn of(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

/// What was decoded.
#[derive(Debug, Clone, PartialEq)]
pub enum Decoded {
    Frame(Box<Frame>),
    /// This version does not know the message. One with a number is refused by that number.
    Unknown {
        number: Option<u64>,
        why: String,
    },
}

/// The part before the body of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    framing: Framing,
    /// How many bytes follow.
    pub body: usize,
    /// How many descriptors come with it. Used in the second framing.
    pub descriptors: usize,
    /// Used in the first framing.
    lengths: [usize; 3],
    /// Used in the second framing.
    kind: u16,
    number: u64,
}

impl From<Message> for Frame {
    fn from(message: Message) -> Self {
        Self {
            message,
            to_client: Vec::new(),
            to_server: Vec::new(),
            client_tls: Secret::default(),
            server_tls: Secret::default(),
            tickets: Secret::default(),
            affinity: Secret::default(),
        }
    }
}

impl Framing {
    pub fn header_len(self) -> usize {
        match self {
            Self::First => FIRST_HEADER,
            Self::Second => SECOND_HEADER,
        }
    }
}

/// The bytes of a message, with secrets in them perhaps.
pub fn encode(
    framing: Framing,
    message: &Message,
    beside: Beside<'_>,
    descriptors: usize,
) -> io::Result<Zeroizing<Vec<u8>>> {
    let bytes = match framing {
        Framing::First => encode_first(message, beside)?,
        Framing::Second => encode_second(message, beside, descriptors)?,
    };
    Ok(Zeroizing::new(bytes))
}

fn encode_first(message: &Message, beside: Beside<'_>) -> io::Result<Vec<u8>> {
    let secrets = [
        beside.client_tls,
        beside.server_tls,
        beside.tickets,
        beside.affinity,
    ];
    if secrets.iter().any(|secret| !secret.is_empty()) {
        return Err(invalid("the first protocol has no place for secrets"));
    }
    let json = match message {
        // In the first framing this message has no content.
        Message::Moved { .. } => b"\"moved\"".to_vec(),
        message => serde_json::to_vec(message)?,
    };
    let parts = [&json[..], beside.to_client, beside.to_server];
    let mut bytes = Vec::with_capacity(FIRST_HEADER + parts.iter().map(|p| p.len()).sum::<usize>());
    for part in parts {
        bytes.extend_from_slice(&length_of(part)?);
    }
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
    Ok(bytes)
}

fn encode_second(message: &Message, beside: Beside<'_>, descriptors: usize) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(message)?;
    let sections = [
        (Section::Json, &json[..]),
        (Section::ToClient, beside.to_client),
        (Section::ToServer, beside.to_server),
        (Section::ClientTls, beside.client_tls),
        (Section::ServerTls, beside.server_tls),
        (Section::Tickets, beside.tickets),
        (Section::Affinity, beside.affinity),
    ];
    let length: usize = sections
        .iter()
        .map(|(_, part)| SECTION_HEADER + part.len())
        .sum();
    // Reserved at once: a buffer that grows would leave copies of secrets behind.
    let mut bytes = Vec::with_capacity(SECOND_HEADER + length);
    bytes.extend_from_slice(&[0; SECOND_HEADER]);
    for (tag, content) in sections {
        if !content.is_empty() {
            bytes.extend_from_slice(&(tag as u16).to_be_bytes());
            bytes.extend_from_slice(&[0; 2]);
            bytes.extend_from_slice(&length_of(content)?);
            bytes.extend_from_slice(content);
        }
    }
    let length = length_of(&bytes[SECOND_HEADER..])?;
    bytes[..4].copy_from_slice(&length);
    bytes[4..6].copy_from_slice(&message.kind().to_be_bytes());
    bytes[6] = u8::try_from(descriptors).map_err(io::Error::other)?;
    bytes[8..16].copy_from_slice(&message.number().unwrap_or(0).to_be_bytes());
    Ok(bytes)
}

fn length_of(part: &[u8]) -> io::Result<[u8; 4]> {
    let length = u32::try_from(part.len()).map_err(io::Error::other)?;
    Ok(length.to_be_bytes())
}

/// `bytes`: as many as [`Framing::header_len`] returns.
pub fn read_header(framing: Framing, bytes: &[u8]) -> io::Result<Header> {
    let word = |at: usize| match bytes.get(at..at + 4) {
        Some(&[a, b, c, d]) => Ok(u32::from_be_bytes([a, b, c, d]) as usize),
        _ => Err(invalid("a message of the upgrade has no whole header")),
    };
    let header = match framing {
        Framing::First => {
            let lengths = [word(0)?, word(4)?, word(8)?];
            Header {
                framing,
                body: lengths.iter().sum(),
                descriptors: 0,
                lengths,
                kind: 0,
                number: 0,
            }
        }
        Framing::Second => Header {
            framing,
            body: word(0)?,
            descriptors: word(4)? >> 8 & 0xff,
            lengths: [0; 3],
            kind: (word(4)? >> 16) as u16,
            number: (word(8)? as u64) << 32 | word(12)? as u64,
        },
    };
    if header.body > BODY_MAX {
        return Err(invalid("a message of the upgrade is too long"));
    }
    Ok(header)
}

/// `body`: as many bytes as the header says.
pub fn decode(header: &Header, body: &[u8]) -> io::Result<Decoded> {
    if body.len() != header.body {
        return Err(invalid("a message of the upgrade is cut short"));
    }
    let (json, beside) = match header.framing {
        Framing::First => {
            let (json, waiting) = body.split_at(header.lengths[0]);
            let (to_client, to_server) = waiting.split_at(header.lengths[1]);
            let beside = Beside {
                to_client,
                to_server,
                ..Beside::default()
            };
            (json, beside)
        }
        Framing::Second => sections(body)?,
    };
    Ok(match message_of(json) {
        Ok(message) => Decoded::Frame(Box::new(Frame {
            message,
            to_client: beside.to_client.to_vec(),
            to_server: beside.to_server.to_vec(),
            client_tls: Secret::of(beside.client_tls),
            server_tls: Secret::of(beside.server_tls),
            tickets: Secret::of(beside.tickets),
            affinity: Secret::of(beside.affinity),
        })),
        Err(error) => Decoded::Unknown {
            number: match header.framing {
                Framing::First => number_in(json),
                Framing::Second => Some(header.number).filter(|number| *number > 0),
            },
            why: match header.framing {
                Framing::First => error.to_string(),
                Framing::Second => format!("kind {}: {error}", header.kind),
            },
        },
    })
}

fn message_of(json: &[u8]) -> serde_json::Result<Message> {
    if json == b"\"moved\"" {
        return Ok(Message::Moved {
            sessions: 0,
            told: 0,
        });
    }
    serde_json::from_slice(json)
}

/// The number of a message that is not understood, in the first framing.
fn number_in(json: &[u8]) -> Option<u64> {
    let value: serde_json::Value = serde_json::from_slice(json).ok()?;
    let inside = value.as_object()?.values().next()?;
    inside.get("number")?.as_u64()
}

/// The JSON, and what stands beside it.
fn sections(mut body: &[u8]) -> io::Result<(&[u8], Beside<'_>)> {
    let mut json: &[u8] = &[];
    let mut beside = Beside::default();
    while let Some((head, rest)) = body.split_at_checked(SECTION_HEADER) {
        let tag = u16::from_be_bytes([head[0], head[1]]);
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let Some((content, behind)) = rest.split_at_checked(length) else {
            return Err(invalid("a section is longer than its message"));
        };
        let known = [
            (Section::Json, &mut json),
            (Section::ToClient, &mut beside.to_client),
            (Section::ToServer, &mut beside.to_server),
            (Section::ClientTls, &mut beside.client_tls),
            (Section::ServerTls, &mut beside.server_tls),
            (Section::Tickets, &mut beside.tickets),
            (Section::Affinity, &mut beside.affinity),
        ];
        for (section, slot) in known {
            if tag == section as u16 {
                *slot = content;
            }
        }
        body = behind;
    }
    match body {
        [] => Ok((json, beside)),
        _ => Err(invalid("bytes stand behind a message's last section")),
    }
}

fn invalid(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

impl Message {
    /// The code of the message in the header of the second framing.
    fn kind(&self) -> u16 {
        match self {
            Self::Ready(_) => 1,
            Self::Failed { .. } => 2,
            Self::Go(_) => 3,
            Self::Census(_) => 4,
            Self::Accept => 5,
            Self::Serving => 6,
            Self::Session { .. } => 7,
            Self::Idle { .. } => 8,
            Self::Adopted { .. } => 9,
            Self::Refused { .. } => 10,
            Self::Command { .. } => 11,
            Self::Outcome { .. } => 12,
            Self::Stopping => 13,
            Self::Drain(_) => 14,
            Self::Moved { .. } => 15,
            Self::End => 16,
            Self::TakeOver(_) => 17,
            Self::Listener { .. } => 18,
            Self::Given => 19,
            Self::Stream { .. } => 20,
            Self::Learned(_) => 21,
            Self::Keys(_) => 22,
            Self::Wait => 23,
        }
    }

    /// The number of a parcel or a command, or of the answer to one.
    pub fn number(&self) -> Option<u64> {
        match self {
            Self::Session { number, .. }
            | Self::Stream { number, .. }
            | Self::Idle { number, .. }
            | Self::Adopted { number }
            | Self::Refused { number, .. }
            | Self::Command { number, .. }
            | Self::Outcome { number, .. } => Some(*number),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(framing: Framing, bytes: &[u8]) -> io::Result<Decoded> {
        let (head, body) = bytes.split_at(framing.header_len().min(bytes.len()));
        let header = read_header(framing, head)?;
        decode(&header, body)
    }

    #[test]
    fn a_message_comes_out_as_it_went_in() {
        for framing in [Framing::First, Framing::Second] {
            let refused = Message::Refused {
                number: 7,
                reason: "no".to_owned(),
            };
            for message in [refused, Message::Serving, Message::End] {
                let beside = Beside {
                    to_client: b"out",
                    to_server: b"in",
                    ..Beside::default()
                };
                let bytes = encode(framing, &message, beside, 2).unwrap();
                let Decoded::Frame(frame) = read(framing, &bytes).unwrap() else {
                    panic!("{message:?}");
                };
                assert_eq!(frame.message, message);
                assert_eq!(
                    (&frame.to_client[..], &frame.to_server[..]),
                    (&b"out"[..], &b"in"[..])
                );
            }
        }
    }

    #[test]
    fn what_is_unknown_is_skipped_and_a_parcel_of_it_is_refused_by_its_number() {
        let adopted = Message::Adopted { number: 9 };
        let mut bytes = encode(Framing::Second, &adopted, Beside::default(), 0).unwrap();
        // Another section in front, of a kind from days to come.
        let section = [0, 99, 0, 0, 0, 0, 0, 3, 1, 2, 3];
        let length = u32::from_be_bytes(bytes[..4].try_into().unwrap()) + section.len() as u32;
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        bytes.splice(SECOND_HEADER..SECOND_HEADER, section);
        let Decoded::Frame(frame) = read(Framing::Second, &bytes).unwrap() else {
            panic!("it is a known message all the same");
        };
        assert_eq!(frame.message, Message::Adopted { number: 9 });

        let unknown = |framing, bytes: &[u8]| match read(framing, bytes).unwrap() {
            Decoded::Unknown { number, .. } => number,
            known => panic!("{known:?}"),
        };
        let word = *b"adopted";
        let at = bytes.windows(7).position(|seen| seen == word).unwrap();
        bytes[at..at + 7].copy_from_slice(b"beguile");
        assert_eq!(unknown(Framing::Second, &bytes), Some(9));

        let json = br#"{"session": {"number": 4, "session": {"identity": 1}}}"#;
        let mut first = Vec::new();
        for length in [json.len() as u32, 0, 0] {
            first.extend(length.to_be_bytes());
        }
        first.extend(json);
        assert_eq!(unknown(Framing::First, &first), Some(4));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for framing in [Framing::First, Framing::Second] {
                let _ = read(framing, &bytes);
            }
        }
    }
}
