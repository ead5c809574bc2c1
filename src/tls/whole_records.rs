//! A socket that gives rustls whole records only. Then rustls never holds a part of one, which
//! would be lost when its [keys are taken out](super::record::convert).

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::record::{HEADER, RECORD_MAX};

thread_local! {
    /// Holds nothing between two polls. Empty until the thread has done a handshake.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug)]
pub struct WholeRecords<S> {
    socket: S,
    /// What was read from the socket and not given on: nothing, nearly always.
    held: Vec<u8>,
    /// How much of `held` is of a record that was begun to be given on.
    due: usize,
}

impl<S> WholeRecords<S> {
    pub fn new(socket: S) -> Self {
        Self {
            socket,
            held: Vec::new(),
            due: 0,
        }
    }

    pub fn socket(&self) -> &S {
        &self.socket
    }

    /// The socket, and what was read from it and not given on.
    pub fn into_parts(self) -> (S, Vec<u8>) {
        (self.socket, self.held)
    }

    /// Gives on what is held of a whole record.
    fn give(&mut self, buf: &mut ReadBuf<'_>) {
        if self.due == 0 {
            self.due = whole_record(&self.held);
        }
        let part = self.due.min(buf.remaining());
        buf.put_slice(&self.held[..part]);
        self.due -= part;
        if part == self.held.len() {
            self.held = Vec::new();
        } else {
            self.held.drain(..part);
        }
    }
}

/// How long the record at the front is, if it is there as a whole. What cannot be a record counts
/// as one: rustls says what is wrong with it.
fn whole_record(bytes: &[u8]) -> usize {
    let Some(&[kind, major, _, high, low]) = bytes.first_chunk::<HEADER>() else {
        return 0;
    };
    let length = HEADER + usize::from(u16::from_be_bytes([high, low]));
    let is_sane = (20..=23).contains(&kind) && major == 3 && length <= RECORD_MAX;
    match is_sane {
        true if length <= bytes.len() => length,
        true => 0,
        false => bytes.len(),
    }
}

impl<S: AsyncRead + Unpin> WholeRecords<S> {
    /// Reads from the socket, and gives on at once what can be. Ready with false: the end.
    fn poll_more(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<bool>> {
        SCRATCH.with_borrow_mut(|scratch| {
            if scratch.is_empty() {
                scratch.resize(RECORD_MAX, 0);
            }
            let mut room = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut room))?;
            let mut read = room.filled();
            let is_end = read.is_empty();
            if self.held.is_empty() {
                self.due = whole_record(read);
                let part = self.due.min(buf.remaining());
                let (now, later) = read.split_at(part);
                buf.put_slice(now);
                self.due -= part;
                read = later;
            }
            self.held.extend_from_slice(read);
            Poll::Ready(Ok(!is_end))
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WholeRecords<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        let before = buf.filled().len();
        stream.give(buf);
        while buf.filled().len() == before {
            let is_end = !ready!(stream.poll_more(cx, buf))?;
            if is_end {
                // It may have come within a record.
                stream.due = stream.held.len();
            }
            if buf.filled().len() == before {
                stream.give(buf);
            }
            if is_end {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WholeRecords<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}
