//! A new process of an upgrade that does what a test wants, by the protocol of the link.
//!
//! The test's own executable plays it: prusik starts a script, which starts that with the link as
//! its standard input and the name of a role.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use prusik::lifecycle::upgrade::protocol::frame::{
    Beside, Decoded, Framing, decode, encode, read_header,
};
use prusik::lifecycle::upgrade::protocol::{Message, wire};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// What tells the executable which role it plays.
const ROLE: &str = "FAKE_NEW_PROCESS";

/// For [`super::Prusik::replace_program`]: plays this role, in the test of the name `played_by`.
pub fn script(played_by: &str, role: &str) -> String {
    let test = std::env::current_exe().expect("a test has a file");
    format!(
        "#!/bin/sh\nlink=$((2 + LISTEN_FDS))\nexport {ROLE}={role}\n\
         eval \"exec 0<&$link\"\nexec {} --exact {played_by} --nocapture >&2\n",
        test.display()
    )
}

/// Which role to play; `None`: it is an ordinary run of the tests.
pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// The new process's end of the link.
pub struct Link {
    stream: UnixStream,
    framing: Framing,
}

/// A message with its descriptors.
pub struct Heard {
    pub message: Message,
    pub descriptors: Vec<OwnedFd>,
}

impl Link {
    pub fn take() -> Self {
        let link = io::stdin().as_fd().try_clone_to_owned();
        Self {
            stream: link.expect("a descriptor").into(),
            framing: Framing::First,
        }
    }

    /// Asks to take over at this socket, as `run --take-over` does.
    pub fn visit(socket: &Path) -> Self {
        let mut link = Self {
            stream: UnixStream::connect(socket).expect("it listens"),
            framing: Framing::First,
        };
        link.say(&Message::TakeOver(wire::TakeOver {
            pid: std::process::id(),
            version: "9.9.9".to_owned(),
        }));
        link
    }

    /// Says that it could serve, and is told to.
    pub fn get_ready(&mut self, protocol: u32) -> wire::Go {
        self.say(&Message::Ready(wire::Ready {
            pid: std::process::id(),
            version: "9.9.9".to_owned(),
            unused: Vec::new(),
            protocol,
        }));
        let Some(Heard {
            message: Message::Go(go),
            ..
        }) = self.hear()
        else {
            panic!("not told to go");
        };
        if go.protocol > wire::FIRST {
            self.framing = Framing::Second;
        }
        go
    }

    /// As a process that serves says it, behind [`Link::get_ready`] and all that counts.
    pub fn serve(&mut self) {
        while self.framing == Framing::Second
            && !matches!(
                self.hear().map(|heard| heard.message),
                Some(Message::Accept) | None
            )
        {}
        self.say(&Message::Serving);
    }

    pub fn say(&mut self, message: &Message) {
        let bytes = encode(self.framing, message, Beside::default(), 0).expect("it can be written");
        // The old process may be gone.
        let _ = self.stream.write_all(&bytes);
    }

    /// Bytes that are no message that anybody knows.
    pub fn say_something_unknown(&mut self) {
        let json = br#"{"beguile": {"number": 0}}"#;
        let mut bytes = vec![0; 16];
        bytes.extend([0, 1, 0, 0]);
        bytes.extend((json.len() as u32).to_be_bytes());
        bytes.extend(json);
        let length = (bytes.len() - 16) as u32;
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        bytes[4..6].copy_from_slice(&999_u16.to_be_bytes());
        self.stream.write_all(&bytes).expect("the link is there");
    }

    /// `None`: the old process has closed the link.
    pub fn hear(&mut self) -> Option<Heard> {
        let mut header = vec![0; self.framing.header_len()];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let parts = &mut [io::IoSliceMut::new(&mut header)];
        let received =
            recvmsg(&self.stream, parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC).ok()?;
        if received.bytes == 0 {
            return None;
        }
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        self.stream.read_exact(&mut header[received.bytes..]).ok()?;
        let header = read_header(self.framing, &header).expect("a header");
        let mut body = vec![0; header.body];
        self.stream.read_exact(&mut body).ok()?;
        match decode(&header, &body).expect("a message") {
            Decoded::Frame(frame) => Some(Heard {
                message: frame.message,
                descriptors,
            }),
            Decoded::Unknown { why, .. } => panic!("{why}"),
        }
    }
}
