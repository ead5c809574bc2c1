//! What the old process of a restart would say to the new one in an upgrade, written down: the
//! messages as [`frame`](crate::lifecycle::upgrade::protocol::frame) encodes them, one behind the
//! other, and their descriptors in the same order.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::lifecycle::upgrade::link::Descriptors;
use crate::lifecycle::upgrade::protocol::frame::{Framing, encode, read_header};
use crate::lifecycle::upgrade::protocol::{Message, wire};

/// A record that is being written.
#[derive(Debug, Default)]
pub struct Record<'a> {
    pub bytes: Vec<u8>,
    pub descriptors: Vec<BorrowedFd<'a>>,
}

impl<'a> Record<'a> {
    /// As in an upgrade, the first message is in the first framing and all others in the second.
    pub fn begin(go: wire::Go) -> io::Result<Self> {
        let bytes = encode(Framing::First, &Message::Go(go), [&[], &[]], 0)?;
        let mut record = Self {
            bytes,
            descriptors: Vec::new(),
        };
        record.say(&Message::Accept)?;
        Ok(record)
    }

    pub fn say(&mut self, message: &Message) -> io::Result<()> {
        let bytes = encode(Framing::Second, message, [&[], &[]], 0)?;
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    /// `waiting`: the bytes for the client and for the server.
    pub fn say_with(
        &mut self,
        message: &Message,
        waiting: [&[u8]; 2],
        of: &'a dyn Descriptors,
    ) -> io::Result<()> {
        let descriptors = of.descriptors()?;
        let bytes = encode(Framing::Second, message, waiting, descriptors.len())?;
        self.bytes.extend_from_slice(&bytes);
        self.descriptors.extend(descriptors);
        Ok(())
    }
}

/// One message of a record, for the link.
#[derive(Debug)]
pub struct Spoken {
    pub bytes: Vec<u8>,
    pub with: Option<Arc<Given>>,
}

/// The descriptors of a message.
#[derive(Debug)]
pub struct Given(Vec<OwnedFd>);

impl Descriptors for Given {
    fn descriptors(&self) -> io::Result<Vec<BorrowedFd<'_>>> {
        Ok(self.0.iter().map(AsFd::as_fd).collect())
    }
}

/// Takes a record apart. An error: it is cut short, or its descriptors do not belong to it.
pub fn messages(mut bytes: &[u8], descriptors: Vec<OwnedFd>) -> io::Result<Vec<Spoken>> {
    let mut descriptors = VecDeque::from(descriptors);
    let mut messages = Vec::new();
    let mut framing = Framing::First;
    while !bytes.is_empty() {
        let header = read_header(framing, bytes)?;
        let length = framing.header_len() + header.body;
        let (message, rest) = bytes.split_at_checked(length).ok_or_else(cut_short)?;
        if descriptors.len() < header.descriptors {
            return Err(io::Error::other("descriptors are missing in what was kept"));
        }
        let given: Vec<OwnedFd> = descriptors.drain(..header.descriptors).collect();
        messages.push(Spoken {
            bytes: message.to_vec(),
            with: (!given.is_empty()).then(|| Arc::new(Given(given))),
        });
        bytes = rest;
        framing = Framing::Second;
    }
    match messages.is_empty() {
        true => Err(cut_short()),
        false => Ok(messages),
    }
}

fn cut_short() -> io::Error {
    io::Error::other("what was kept is cut short")
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn go() -> wire::Go {
        wire::Go::empty()
    }

    fn moved(sessions: u64) -> Message {
        Message::Moved { sessions, told: 0 }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let null = || OwnedFd::from(File::open("/dev/null").expect("every system has it"));
        let two = Given(vec![null(), null()]);
        let adopted = Message::Adopted { number: 7 };
        let mut record = Record::begin(go()).expect("it can be encoded");
        record
            .say_with(&adopted, [b"a", b"b"], &two)
            .expect("so can this");
        record.say(&moved(1)).expect("and this");
        assert_eq!(record.descriptors.len(), 2);
        let read = messages(&record.bytes, vec![null(), null()]).expect("it is whole");
        let counts: Vec<usize> = read
            .iter()
            .map(|spoken| spoken.with.as_ref().map_or(0, |given| given.0.len()))
            .collect();
        assert_eq!(counts, [0, 0, 2, 0]);
        let bytes: Vec<u8> = read
            .iter()
            .flat_map(|spoken| spoken.bytes.clone())
            .collect();
        assert_eq!(bytes, record.bytes);

        assert!(messages(&record.bytes, vec![null()]).is_err());
        assert!(messages(&[], Vec::new()).is_err());
        for end in 1..record.bytes.len() {
            // It may end between two messages; nowhere else.
            if let Ok(read) = messages(&record.bytes[..end], vec![null(), null()]) {
                let whole: usize = read.iter().map(|spoken| spoken.bytes.len()).sum();
                assert_eq!(whole, end);
            }
        }
    }
}
