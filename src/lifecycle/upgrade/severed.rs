//! The flag by which the old process says that it has severed the link: both processes have it, and
//! it outlives the old one.
//!
//! What the new process holds and could not adopt belongs to the old process from then on. Without
//! the flag, the new one would take a death that comes later for a death in the middle.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

use super::link::Descriptors;

#[derive(Debug)]
pub struct SeveredFlag(OwnedFd);

impl SeveredFlag {
    pub fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(eventfd(0, flags)?))
    }

    /// The flag of the old process, as it has come by the link.
    pub fn received(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    pub fn set(&self) {
        if let Err(error) = rustix::io::write(&self.0, &1_u64.to_ne_bytes()) {
            log::error!("upgrade: the flag of a severed link cannot be set: {error}");
        }
    }

    pub fn is_set(&self) -> bool {
        rustix::io::read(&self.0, &mut [0; 8]).is_ok_and(|read| read > 0)
    }
}

impl Descriptors for SeveredFlag {
    fn descriptors(&self) -> io::Result<Vec<BorrowedFd<'_>>> {
        Ok(vec![self.0.as_fd()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_seen_through_another_descriptor_also_when_the_first_is_closed() {
        let flag = SeveredFlag::new().expect("the kernel has eventfd");
        let other = SeveredFlag::received(flag.0.try_clone().expect("a descriptor"));
        assert!(!other.is_set());
        flag.set();
        drop(flag);
        assert!(other.is_set());
    }
}
