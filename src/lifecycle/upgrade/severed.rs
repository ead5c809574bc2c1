//! The flag by which the old process says that it has severed the link: both processes have it, and
//! it outlives the old one.
//!
//! What the new process holds and could not adopt belongs to the old process from then on. Without
//! the flag, the new one would take a death that comes later for a death in the middle. It says too
//! whether the new process was to be killed, which it may outlive in another container.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

use super::link::Descriptors;

/// What is added to the value of the eventfd. Each comes once at most.
const SEVERED: u64 = 1;
const CONDEMNED: u64 = 2;

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
        self.add(SEVERED);
    }

    /// The new process must end.
    pub fn condemn(&self) {
        self.add(CONDEMNED);
    }

    fn add(&self, what: u64) {
        if let Err(error) = rustix::io::write(&self.0, &what.to_ne_bytes()) {
            log::error!("upgrade: the flag of a severed link cannot be set: {error}");
        }
    }

    pub fn is_set(&self) -> bool {
        self.read() > 0
    }

    pub fn is_condemned(&self) -> bool {
        self.read() >= CONDEMNED
    }

    /// Reading takes the value away, so it is put back.
    fn read(&self) -> u64 {
        let mut value = [0; 8];
        let value = match rustix::io::read(&self.0, &mut value) {
            Ok(8) => u64::from_ne_bytes(value),
            // Nothing was said.
            _ => 0,
        };
        if value > 0 {
            self.add(value);
        }
        value
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
        assert!(!other.is_condemned());
        other.condemn();
        assert!(other.is_condemned() && other.is_set());
    }
}
