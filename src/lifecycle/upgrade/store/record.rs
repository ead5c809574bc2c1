//! What the old process of a restart would say to the new one in an upgrade, written down: the
//! messages as [`frame`](crate::lifecycle::upgrade::protocol::frame) encodes them, one behind the
//! other, and their descriptors in the same order.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::lifecycle::upgrade::link::Descriptors;
use crate::lifecycle::upgrade::protocol::frame::{Beside, Framing, encode, read_header};
use crate::lifecycle::upgrade::protocol::{Message, wire};

/// A record that is being written. It is not to be printed, because there are secrets in it.
#[derive(Default)]
pub struct Record<'a> {
    /// With secrets in them.
    pub bytes: Zeroizing<Vec<u8>>,
    pub descriptors: Vec<BorrowedFd<'a>>,
}

impl<'a> Record<'a> {
    /// As in an upgrade, the first message is in the first framing and all others in the second.
    /// `beside`: the keys that go with [`Message::Accept`].
    pub fn begin(
        go: wire::Go,
        keys: Vec<wire::Keys>,
        learned: Vec<wire::Learned>,
        beside: Beside<'_>,
    ) -> io::Result<Self> {
        let mut record = Self {
            bytes: encode(Framing::First, &Message::Go(go), Beside::default(), 0)?,
            descriptors: Vec::new(),
        };
        for keys in keys {
            record.say(&Message::Keys(keys))?;
        }
        for part in learned {
            record.say(&Message::Learned(part))?;
        }
        record.append(&encode(Framing::Second, &Message::Accept, beside, 0)?);
        Ok(record)
    }

    pub fn say(&mut self, message: &Message) -> io::Result<()> {
        self.append(&encode(Framing::Second, message, Beside::default(), 0)?);
        Ok(())
    }

    /// A buffer that grows by itself would leave copies of secrets behind.
    fn append(&mut self, bytes: &[u8]) {
        if self.bytes.capacity() - self.bytes.len() < bytes.len() {
            let room = 2 * (self.bytes.len() + bytes.len());
            let mut larger = Zeroizing::new(Vec::with_capacity(room));
            larger.extend_from_slice(&self.bytes);
            self.bytes = larger;
        }
        self.bytes.extend_from_slice(bytes);
    }

    pub fn say_with(
        &mut self,
        message: &Message,
        beside: Beside<'_>,
        of: &'a dyn Descriptors,
    ) -> io::Result<()> {
        let descriptors = of.descriptors()?;
        self.append(&encode(
            Framing::Second,
            message,
            beside,
            descriptors.len(),
        )?);
        self.descriptors.extend(descriptors);
        Ok(())
    }
}

/// One message of a record, for the link. It is not to be printed either.
pub struct Spoken {
    pub bytes: Zeroizing<Vec<u8>>,
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
            bytes: Zeroizing::new(message.to_vec()),
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
        let beside = Beside {
            to_client: b"a",
            to_server: b"b",
            ..Beside::default()
        };
        let mut record = Record::begin(go(), Vec::new(), Vec::new(), Beside::default())
            .expect("it can be encoded");
        record
            .say_with(&adopted, beside, &two)
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
            .flat_map(|spoken| spoken.bytes.to_vec())
            .collect();
        assert_eq!(bytes, *record.bytes);

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
