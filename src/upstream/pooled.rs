//! A connection to a server for plain requests, in use or idle.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use crate::transport::Transport;

/// A connection, counted while it is open.
#[derive(Debug)]
pub(super) struct PooledConnection {
    pub io: Transport,
    /// How many its pool has open.
    counted_in: Arc<AtomicUsize>,
}

impl PooledConnection {
    pub fn new(io: Transport, counted_in: &Arc<AtomicUsize>) -> Self {
        counted_in.fetch_add(1, Relaxed);
        Self {
            io,
            counted_in: counted_in.clone(),
        }
    }

    /// Whether the server has neither closed it nor sent what nobody asked for: the next client
    /// would take that for its response. Asks the kernel, as tokio only knows what was there when
    /// it last waited.
    pub fn is_silent(&self) -> bool {
        let peeked = self
            .io
            .tcp()
            .map(|socket| recv(socket, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT));
        peeked.is_some_and(|peeked| peeked.is_err_and(|error| error == Errno::AGAIN))
    }

    /// The same as far as tokio knows, which costs nothing.
    pub fn seems_silent(&self) -> bool {
        let read = self.io.tcp().map(|socket| socket.try_read(&mut [0]));
        read.is_some_and(|read| read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock))
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        self.io.part();
        self.counted_in.fetch_sub(1, Relaxed);
    }
}
