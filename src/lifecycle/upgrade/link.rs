//! A socket between two processes, as messages with their descriptors. One task owns it; nothing
//! here ever blocks a thread.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net as unix;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};

use super::protocol::Message;
use super::protocol::frame::{Decoded, Framing, Header, decode, encode, read_header};

/// A parcel has two: the client's socket and the server's.
const DESCRIPTORS_MAX: usize = 2;

/// How long the other side may leave what was said to it with the kernel.
pub const TAKEN_WITHIN: Duration = Duration::from_secs(5);

/// What goes through the link by its descriptors. It stays where it is.
pub trait Descriptors: Send + Sync {
    fn descriptors(&self) -> io::Result<Vec<BorrowedFd<'_>>>;
}

/// What comes out of it.
#[derive(Debug)]
pub enum Heard {
    Message(Decoded, Vec<OwnedFd>),
    /// All that was said before is heard.
    Closed,
}

pub struct Link {
    stream: UnixStream,
    framing: Framing,
    incoming: Incoming,
    outgoing: VecDeque<Outgoing>,
    /// When something was last taken off `outgoing`, or put in front.
    moved: Instant,
    /// Nothing more can be said.
    is_deaf: bool,
}

#[derive(Default)]
struct Incoming {
    header: Option<Header>,
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    parcel: Option<Arc<dyn Descriptors>>,
}

impl Link {
    /// Must run inside the runtime.
    pub fn new(stream: unix::UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream: UnixStream::from_std(stream)?,
            framing: Framing::First,
            incoming: Incoming::default(),
            outgoing: VecDeque::new(),
            moved: Instant::now(),
            is_deaf: false,
        })
    }

    /// From the next message on, in both directions.
    pub fn set_framing(&mut self, framing: Framing) {
        self.framing = framing;
    }

    /// Queues it. It goes out as [`Link::hear`] or [`Link::flush`] are waited for.
    pub fn say(&mut self, message: &Message) -> io::Result<()> {
        self.say_with(message, [&[], &[]], None, 0)
    }

    /// `waiting`: what is to go to the client and to the server. `count`: of the parcel's
    /// descriptors.
    pub fn say_with(
        &mut self,
        message: &Message,
        waiting: [&[u8]; 2],
        parcel: Option<Arc<dyn Descriptors>>,
        count: usize,
    ) -> io::Result<()> {
        let bytes = encode(self.framing, message, waiting, count)?;
        if self.is_deaf {
            return Ok(());
        }
        if self.outgoing.is_empty() {
            self.moved = Instant::now();
        }
        self.outgoing.push_back(Outgoing {
            bytes,
            sent: 0,
            parcel,
        });
        Ok(())
    }

    /// For another link, once nothing is being said.
    pub fn into_stream(self) -> io::Result<unix::UnixStream> {
        self.stream.into_std()
    }

    /// Who is at the other end, as the kernel says.
    pub fn peer_uid(&self) -> io::Result<u32> {
        Ok(self.stream.peer_cred()?.uid())
    }

    /// When what waits to go out has waited for too long; `None`: nothing waits.
    pub fn due(&self) -> Option<Instant> {
        (!self.outgoing.is_empty()).then(|| self.moved + TAKEN_WITHIN)
    }

    /// The next message. May be dropped and asked again at any time.
    pub async fn hear(&mut self) -> io::Result<Heard> {
        loop {
            if let Some(heard) = self.read()? {
                return Ok(heard);
            }
            self.write();
            let interest = match self.outgoing.is_empty() {
                true => Interest::READABLE,
                false => Interest::READABLE | Interest::WRITABLE,
            };
            self.stream.ready(interest).await?;
        }
    }

    /// Returns when all that was said is with the kernel: the other side hears it even if this one
    /// dies. An error: it never will.
    pub async fn flush(&mut self) -> io::Result<()> {
        let all = async {
            loop {
                self.write();
                if self.is_deaf {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                if self.outgoing.is_empty() {
                    return Ok(());
                }
                self.stream.writable().await?;
            }
        };
        match timeout(TAKEN_WITHIN, all).await {
            Ok(flushed) => flushed,
            Err(_) => {
                self.shut();
                Err(io::ErrorKind::TimedOut.into())
            }
        }
    }

    /// Nothing can be said any more, on either side. What the other one has said before is still
    /// heard, and then [`Heard::Closed`].
    pub fn shut(&mut self) {
        // It may have been shut from the other side, which is as good.
        let _ = rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Both);
        self.is_deaf = true;
        self.outgoing.clear();
    }

    /// Sends what the kernel takes.
    fn write(&mut self) {
        while let Some(first) = self.outgoing.front_mut() {
            match first.send(&self.stream) {
                Ok(true) => {
                    self.outgoing.pop_front();
                    self.moved = Instant::now();
                }
                Ok(false) => self.moved = Instant::now(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    log::debug!("upgrade: the link takes nothing more: {error}");
                    self.is_deaf = true;
                    self.outgoing.clear();
                }
            }
        }
    }

    /// `None`: no message is whole yet.
    fn read(&mut self) -> io::Result<Option<Heard>> {
        loop {
            let needed = match &self.incoming.header {
                None => self.framing.header_len(),
                Some(header) => header.body,
            };
            let have = self.incoming.bytes.len();
            if have < needed {
                match self.incoming.receive(&self.stream, needed - have) {
                    Ok(0) if have == 0 && self.incoming.header.is_none() => {
                        return Ok(Some(Heard::Closed));
                    }
                    // A message that was cut short: whoever said it has died in the middle.
                    Ok(0) => return Ok(Some(Heard::Closed)),
                    Ok(_) => continue,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                    // It has died with something unheard: what it has said is heard by now.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                        return Ok(Some(Heard::Closed));
                    }
                    Err(error) => return Err(error),
                }
            }
            let bytes = std::mem::take(&mut self.incoming.bytes);
            match self.incoming.header.take() {
                None => self.incoming.header = Some(read_header(self.framing, &bytes)?),
                Some(header) => {
                    let decoded = decode(&header, &bytes)?;
                    let descriptors = std::mem::take(&mut self.incoming.descriptors);
                    return Ok(Some(Heard::Message(decoded, descriptors)));
                }
            }
        }
    }
}

impl Incoming {
    /// Never more than `most`: the descriptors that come along are those of the message whose bytes
    /// they came with.
    fn receive(&mut self, stream: &UnixStream, most: usize) -> io::Result<usize> {
        let before = self.bytes.len();
        self.bytes.resize(before + most, 0);
        let received = stream.try_io(Interest::READABLE, || {
            let mut space =
                [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut self.bytes[before..])];
            let received = recvmsg(stream, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    self.descriptors.extend(rights);
                }
            }
            if received.flags.contains(ReturnFlags::CTRUNC) {
                // There was no room for all of them in this process's table.
                self.descriptors.clear();
            }
            Ok(received.bytes)
        });
        self.bytes
            .truncate(before + received.as_ref().map_or(0, |bytes| *bytes));
        received
    }
}

impl Outgoing {
    /// Whether all of it is with the kernel. Descriptors go with the first byte.
    fn send(&mut self, stream: &UnixStream) -> io::Result<bool> {
        let sent = stream.try_io(Interest::WRITABLE, || {
            let mut space =
                [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let descriptors = match &self.parcel {
                Some(parcel) if self.sent == 0 => parcel.descriptors()?,
                _ => Vec::new(),
            };
            let rights = SendAncillaryMessage::ScmRights(&descriptors);
            if !descriptors.is_empty() && !ancillary.push(rights) {
                return Err(io::Error::other("too many descriptors in one message"));
            }
            let rest = [IoSlice::new(&self.bytes[self.sent..])];
            match sendmsg(stream.as_fd(), &rest, &mut ancillary, SendFlags::NOSIGNAL) {
                // So many descriptors are underway that the other side must take some first.
                Err(Errno::TOOMANYREFS) => Err(io::ErrorKind::WouldBlock.into()),
                sent => Ok(sent?),
            }
        })?;
        self.sent += sent;
        if self.sent == self.bytes.len() {
            self.parcel = None;
        }
        Ok(self.sent == self.bytes.len())
    }
}

/// Both directions, for a link that nobody drives.
pub fn shut(stream: &unix::UnixStream) {
    let _ = stream.shutdown(Shutdown::Both);
}
