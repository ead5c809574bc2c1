//! A socket between two processes that carries messages with descriptors. One task owns it; nothing
//! here blocks a thread.

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
use zeroize::Zeroizing;

use super::protocol::Message;
use super::protocol::frame::{Beside, Decoded, Framing, Header, decode, encode, read_header};

/// A parcel has at most two: the client's socket and the server's.
const DESCRIPTORS_MAX: usize = 2;

/// How long the other side may leave messages unread in the kernel.
pub const TAKEN_WITHIN: Duration = Duration::from_secs(5);

/// Something whose descriptors are sent. It stays in this process.
pub trait Descriptors: Send + Sync {
    fn descriptors(&self) -> io::Result<Vec<BorrowedFd<'_>>>;
}

/// What comes from the link.
#[derive(Debug)]
pub enum Heard {
    Message(Decoded, Vec<OwnedFd>),
    /// Everything that was sent before has been read.
    Closed,
}

pub struct Link {
    stream: UnixStream,
    framing: Framing,
    incoming: Incoming,
    outgoing: VecDeque<Outgoing>,
    /// When bytes of `outgoing` were last sent, or the first were put in.
    moved: Instant,
    /// Nothing more can be sent.
    is_deaf: bool,
}

#[derive(Default)]
struct Incoming {
    header: Option<Header>,
    bytes: Zeroizing<Vec<u8>>,
    descriptors: Vec<OwnedFd>,
}

struct Outgoing {
    bytes: Zeroizing<Vec<u8>>,
    sent: usize,
    parcel: Option<Arc<dyn Descriptors>>,
}

impl Link {
    /// Must be called inside the runtime.
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

    /// Takes effect with the next message, in both directions.
    pub fn set_framing(&mut self, framing: Framing) {
        self.framing = framing;
    }

    /// Queues a message. It is sent while [`Link::hear`] or [`Link::flush`] is awaited.
    pub fn say(&mut self, message: &Message) -> io::Result<()> {
        self.say_with(message, Beside::default(), None, 0)
    }

    /// `count`: the number of descriptors.
    pub fn say_with(
        &mut self,
        message: &Message,
        beside: Beside<'_>,
        parcel: Option<Arc<dyn Descriptors>>,
        count: usize,
    ) -> io::Result<()> {
        self.pass(encode(self.framing, message, beside, count)?, parcel);
        Ok(())
    }

    /// Queues a message that is encoded already.
    pub fn pass(&mut self, bytes: Zeroizing<Vec<u8>>, parcel: Option<Arc<dyn Descriptors>>) {
        if self.is_deaf {
            return;
        }
        if self.outgoing.is_empty() {
            self.moved = Instant::now();
        }
        self.outgoing.push_back(Outgoing {
            bytes,
            sent: 0,
            parcel,
        });
    }

    /// Gives the socket back for another link, when nothing is being sent.
    pub fn into_stream(self) -> io::Result<unix::UnixStream> {
        self.stream.into_std()
    }

    /// The process at the other end, according to the kernel.
    pub fn peer_uid(&self) -> io::Result<u32> {
        Ok(self.stream.peer_cred()?.uid())
    }

    /// When the waiting messages have waited for too long. `None`: none waits.
    pub fn due(&self) -> Option<Instant> {
        (!self.outgoing.is_empty()).then(|| self.moved + TAKEN_WITHIN)
    }

    /// Waits for the next message. The future may be dropped and made again at any time.
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

    /// Returns when the kernel has all messages: the other side will read them even if this process
    /// dies. An error means that it never will.
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

    /// Ends the link in both directions. Messages that the other side has already sent are still
    /// read, then [`Heard::Closed`] follows.
    pub fn shut(&mut self) {
        // If the other side has shut it already, that is enough.
        let _ = rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Both);
        self.is_deaf = true;
        self.outgoing.clear();
    }

    /// Sends as much as the kernel takes.
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

    /// `None`: no message is complete yet.
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
                    // The message is cut short: its sender has died.
                    Ok(0) => return Ok(Some(Heard::Closed)),
                    Ok(_) => continue,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                    // The sender has died with messages unread. Everything that it has sent was
                    // read by now.
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
    /// Reads at most `most` bytes, so that the descriptors that come belong to the message whose
    /// bytes come.
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
                // This process has no room for all of the descriptors.
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
    /// Whether the kernel has the whole message. The descriptors go with the first byte.
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
                // So many descriptors are on their way that the other side must take some first.
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

/// Ends both directions of a link that no task drives.
pub fn shut(stream: &unix::UnixStream) {
    let _ = stream.shutdown(Shutdown::Both);
}
