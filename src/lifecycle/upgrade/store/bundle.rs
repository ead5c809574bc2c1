//! Any number of descriptors, and bytes, as one descriptor: they wait in the queue of a socket.
//!
//! systemd compares each descriptor that it is given with all that it holds. On one CPU it took
//! 22 s for 5,000 of them, during which it did nothing else. So it gets one socket, and what it
//! holds by that socket it need not know. Either all of it is held or nothing.
//!
//! ```text
//!   ours ═══════════════════════════════════════════════════════════ queue
//!          1 byte + the file with the bytes, 1 byte + 253 descriptors, …
//! ```
//!
//! The bytes are in a file in memory, because a socket's queue has room for little.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use socket2::SockRef;
use zeroize::Zeroizing;

/// The kernel takes no more in one message (`SCM_MAX_FD`).
const IN_ONE_MESSAGE: usize = 253;

/// How many descriptors a bundle has room for, and some more: with Linux's own `net.core.wmem_max`
/// (212,992) a queue took 140,000.
pub const ROOM: usize = 120_000;

/// More bytes than this are not read.
const BYTES_MAX: u64 = 4 << 30;

/// Nobody can change the bytes any more.
const SEALS: SealFlags = SealFlags::SEAL
    .union(SealFlags::SHRINK)
    .union(SealFlags::GROW)
    .union(SealFlags::WRITE);

/// A bundle that was filled here.
#[derive(Debug)]
pub struct Bundle {
    ours: UnixStream,
    queue: Option<OwnedFd>,
}

impl Bundle {
    /// The descriptors stay open here.
    pub fn fill(bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<Self> {
        let (ours, queue) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        // The kernel grants what its limit allows.
        SockRef::from(&ours).set_send_buffer_size(1 << 20)?;
        let file = sealed(bytes)?;
        put(&ours, &[file.as_fd()])?;
        for some in descriptors.chunks(IN_ONE_MESSAGE) {
            put(&ours, some)?;
        }
        Ok(Self {
            ours,
            queue: Some(queue.into()),
        })
    }

    /// The descriptor to give away.
    pub fn queue(&self) -> Option<BorrowedFd<'_>> {
        self.queue.as_ref().map(AsFd::as_fd)
    }

    /// Empties the queue, so that whoever holds it has nothing of it.
    pub fn spoil(&self) {
        if let Some(queue) = &self.queue {
            // An error means that what it held is gone already.
            let _ = empty(queue);
        }
    }

    /// Closes the queue here. Returns whether another process holds it.
    pub fn is_held(&mut self) -> bool {
        self.queue = None;
        // The kernel reports a hang-up when the other end of a pair is open nowhere.
        let mut look = [PollFd::new(&self.ours, PollFlags::empty())];
        matches!(poll(&mut look, Some(&Timespec::default())), Ok(0))
    }
}

/// Takes everything out of a bundle. After this it is empty for everybody.
pub fn empty(queue: &OwnedFd) -> io::Result<(Zeroizing<Vec<u8>>, Vec<OwnedFd>)> {
    let mut descriptors = Vec::new();
    while take(queue, &mut descriptors)? {}
    let mut descriptors = descriptors.into_iter();
    let file = descriptors.next();
    let file = file.ok_or_else(|| io::Error::other("it is empty"))?;
    let seals = fcntl_get_seals(&file);
    if !seals
        .map_err(|_| io::Error::other("it has no file in memory"))?
        .contains(SEALS)
    {
        return Err(io::Error::other("its file could still be changed"));
    }
    let mut file = File::from(file);
    file.rewind()?;
    // Reserved at once: a buffer that grows would leave copies of keys behind.
    let length = file.metadata()?.len().min(BYTES_MAX) as usize;
    let mut bytes = Zeroizing::new(Vec::with_capacity(length + 1));
    file.take(BYTES_MAX).read_to_end(&mut bytes)?;
    Ok((bytes, descriptors.collect()))
}

fn sealed(bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create("prusik-sessions", flags)?);
    file.write_all(bytes)?;
    fcntl_add_seals(&file, SEALS)?;
    Ok(file.into())
}

fn put(to: &UnixStream, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(IN_ONE_MESSAGE))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors in one message"));
    }
    let sent = sendmsg(
        to,
        &[IoSlice::new(&[0])],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    );
    match sent {
        Ok(_) => Ok(()),
        Err(Errno::AGAIN) => Err(io::Error::other(
            "a socket's queue has no room for all of it",
        )),
        Err(Errno::TOOMANYREFS) => Err(io::Error::other(
            "this user has too many descriptors on their way: raise LimitNOFILE= of the unit",
        )),
        Err(error) => Err(error.into()),
    }
}

/// Takes one message. `false`: there is none.
fn take(from: &OwnedFd, into: &mut Vec<OwnedFd>) -> io::Result<bool> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(IN_ONE_MESSAGE))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = match recvmsg(from, &mut parts, &mut ancillary, flags) {
        Ok(received) => received,
        Err(Errno::AGAIN) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            into.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other(
            "this process has no room for all of its descriptors",
        ));
    }
    Ok(received.bytes > 0)
}

#[cfg(test)]
mod tests {
    use rustix::process::{Resource, getrlimit};

    use super::*;

    fn null() -> File {
        File::open("/dev/null").expect("every system has it")
    }

    #[test]
    fn what_was_put_in_comes_out_in_order() {
        let pairs: Vec<_> = (0..300)
            .map(|_| UnixStream::pair().expect("a pair"))
            .collect();
        let given: Vec<_> = pairs.iter().map(|(given, _)| given.as_fd()).collect();
        let bundle = Bundle::fill(b"words", &given).expect("there is room");
        let queue = bundle
            .queue()
            .and_then(|queue| queue.try_clone_to_owned().ok());
        let queue = queue.expect("the queue");
        drop(bundle);
        let (bytes, descriptors) = empty(&queue).expect("it can be read");
        assert_eq!((&bytes[..], descriptors.len()), (&b"words"[..], 300));
        for (number, descriptor) in descriptors.into_iter().enumerate() {
            let mut came = UnixStream::from(descriptor);
            came.write_all(&[number as u8]).expect("it is connected");
            let mut byte = [0];
            (&pairs[number].1).read_exact(&mut byte).expect("a byte");
            assert_eq!(byte, [number as u8]);
        }
        let again = empty(&queue).expect_err("it was emptied");
        assert_eq!(again.to_string(), "it is empty");
    }

    #[test]
    fn whether_another_holds_it_shows() {
        let null = null();
        let mut lost = Bundle::fill(b"", &[null.as_fd()]).expect("there is room");
        assert!(!lost.is_held());
        let mut held = Bundle::fill(b"", &[null.as_fd()]).expect("there is room");
        let other = held
            .queue()
            .and_then(|queue| queue.try_clone_to_owned().ok());
        assert!(held.is_held());
        drop(other);
        assert!(!held.is_held());
    }

    #[test]
    fn what_is_spoiled_is_empty_for_all_who_hold_it() {
        let null = null();
        let spoiled = Bundle::fill(b"keys", &[null.as_fd()]).expect("there is room");
        let other = spoiled
            .queue()
            .and_then(|queue| queue.try_clone_to_owned().ok());
        spoiled.spoil();
        let read = empty(&other.expect("the queue")).expect_err("it was emptied");
        assert_eq!(read.to_string(), "it is empty");
    }

    #[test]
    fn there_is_room_for_as_many_as_promised() {
        // Without privileges, no more descriptors may be on their way than may be open.
        crate::limits::descriptors::raise();
        let limit = getrlimit(Resource::Nofile).current;
        let limit = limit.map_or(ROOM, |limit| limit as usize / 2);
        let null = null();
        let many = vec![null.as_fd(); ROOM.min(limit)];
        Bundle::fill(b"", &many).expect("there is room");
    }

    #[test]
    fn junk_is_refused() {
        let (ours, queue) = UnixStream::pair().expect("a pair");
        let queue = OwnedFd::from(queue);
        let null = null();
        put(&ours, &[null.as_fd()]).expect("there is room");
        let refused = empty(&queue).expect_err("a device is no file in memory");
        assert_eq!(refused.to_string(), "it has no file in memory");
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let open = memfd_create("test", flags).expect("a file in memory");
        put(&ours, &[open.as_fd()]).expect("there is room");
        let refused = empty(&queue).expect_err("it is not sealed");
        assert_eq!(refused.to_string(), "its file could still be changed");
        assert!(empty(&null.into()).is_err());
    }
}
