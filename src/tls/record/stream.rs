//! A record layer with a socket: plain text to whom reads and writes, records on the network.
//!
//! A silent connection holds no buffer. What is read goes through a buffer that all connections of
//! a thread share, and is opened there in place; only the part of a record that is not complete yet
//! waits here, sealed. What is written is sealed in another such buffer; only what the socket does
//! not take waits here, sealed, and is never sealed again.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::alert::RecordError;
use super::convert::Converted;
use super::layer::{Opened, Record};
use super::saved::{Buffers, Saved, SavedError};
use super::suite::{READ_MAX, RECORD_MAX, SEAL_MAX};

thread_local! {
    /// They hold nothing that is needed between two polls. Empty until the thread has a connection
    /// of TLS.
    static OPENING: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static SEALING: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug)]
pub struct RecordStream<S> {
    pub(super) socket: S,
    record: Box<Record>,
    buffers: Buffers,
    /// The error behind the data that has come. It is told once, and then the connection has ended.
    broken: Option<RecordError>,
    /// The peer or the socket has ended it with an error.
    has_failed: bool,
}

impl<S> RecordStream<S> {
    /// `sealed_in`: what was read from the socket and has not gone to rustls.
    pub fn new(socket: S, converted: Converted, sealed_in: Vec<u8>) -> Self {
        Self {
            socket,
            record: converted.record,
            buffers: Buffers {
                plain: converted.plain,
                sealed_in,
                sealed_out: converted.sealed_out,
            },
            broken: None,
            has_failed: false,
        }
    }

    /// Continues what another process has begun.
    pub fn restore(socket: S, saved: &Saved) -> Result<Self, SavedError> {
        let (record, buffers) = saved.open()?;
        Ok(Self {
            socket,
            record,
            buffers,
            broken: None,
            has_failed: false,
        })
    }

    /// The state with which another process continues. Nothing may be read or written here any more
    /// unless it is certain that the other process has dropped it.
    pub fn save(&self) -> Saved {
        Saved::of(&self.record, &self.buffers)
    }

    /// Whether it can be saved: one that has failed only ends here.
    pub fn can_be_saved(&self) -> bool {
        self.broken.is_none() && !self.has_failed
    }

    pub fn socket(&self) -> &S {
        &self.socket
    }

    /// Whether nothing more can be read.
    fn is_over(&self) -> bool {
        self.has_failed || self.record.has_received_close()
    }

    /// Whether the socket has all that was written.
    pub fn is_flushed(&self) -> bool {
        self.buffers.sealed_out.is_empty()
    }

    #[cfg(test)]
    pub(super) fn record_mut(&mut self) -> &mut Record {
        &mut self.record
    }

    /// Opens records at the front of `bytes` until the reader has no room. Returns how many bytes
    /// are done with.
    fn open_some(&mut self, bytes: &mut [u8], buf: &mut ReadBuf<'_>) -> usize {
        let mut done = 0;
        let before = buf.filled().len();
        while self.broken.is_none() && !self.is_over() && self.buffers.plain.is_empty() {
            let rest = &mut bytes[done..];
            let length = match self.record.length_of(rest) {
                Ok(Some(length)) if length <= rest.len() => length,
                Ok(_) => break,
                Err(error) => {
                    self.broken = Some(error);
                    break;
                }
            };
            // What does not fit stays sealed, except that a reader always gets something.
            let has_some = buf.filled().len() > before;
            if has_some && length > buf.remaining() {
                break;
            }
            done += length;
            match self.record.open(&mut rest[..length]) {
                Ok(Opened::Data(data)) => {
                    let data = &rest[data];
                    let (now, later) = data.split_at(data.len().min(buf.remaining()));
                    buf.put_slice(now);
                    self.buffers.plain.extend_from_slice(later);
                }
                Ok(Opened::Nothing) => {}
                Err(error) => self.broken = Some(error),
            }
        }
        done
    }

    /// Delivers data that was opened before. Returns whether there was any.
    fn deliver(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let plain = &mut self.buffers.plain;
        let part = plain.len().min(buf.remaining());
        buf.put_slice(&plain[..part]);
        if part == plain.len() {
            *plain = Vec::new();
        } else {
            plain.drain(..part);
        }
        part > 0
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> RecordStream<S> {
    /// Sends what the socket has not taken before.
    fn poll_flush_sealed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let waiting = &mut self.buffers.sealed_out;
        while !waiting.is_empty() {
            let sent = ready!(Pin::new(&mut self.socket).poll_write(cx, waiting))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            if sent == waiting.len() {
                *waiting = Vec::new();
            } else {
                waiting.drain(..sent);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what `seal` appends to its buffer. What the socket does not take waits.
    fn send_sealed<T>(
        &mut self,
        cx: &mut Context<'_>,
        seal: impl FnOnce(&mut Record, &mut Vec<u8>) -> T,
    ) -> io::Result<T> {
        SEALING.with_borrow_mut(|sealed| {
            sealed.clear();
            let outcome = seal(&mut self.record, sealed);
            let mut sent = 0;
            if !sealed.is_empty()
                && self.is_flushed()
                && let Poll::Ready(written) = Pin::new(&mut self.socket).poll_write(cx, sealed)
            {
                sent = written?;
            }
            self.buffers.sealed_out.extend_from_slice(&sealed[sent..]);
            Ok(outcome)
        })
    }

    /// Ends with the error that has come, and tells the peer what it has done.
    fn end_broken(&mut self, cx: &mut Context<'_>, error: RecordError) -> io::Error {
        self.has_failed = true;
        if let RecordError::Fatal(alert) = error {
            // A peer that does not hear this sees the end all the same.
            let _ = self.send_sealed(cx, |record, out| record.fail(alert, out));
        }
        error.into()
    }

    /// Ready with false: nothing was read that the reader could be given.
    fn poll_read_some(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<bool>> {
        OPENING.with_borrow_mut(|scratch| {
            if scratch.is_empty() {
                scratch.resize(READ_MAX, 0);
            }
            let had = self.buffers.sealed_in.len().min(READ_MAX);
            scratch[..had].copy_from_slice(&self.buffers.sealed_in);
            let before = buf.filled().len();
            let mut done = self.open_some(&mut scratch[..had], buf);
            let mut end = had;
            if done == 0 && self.broken.is_none() && !self.is_over() {
                let most = buf.remaining().clamp(RECORD_MAX, SEAL_MAX);
                // What was there is less than a record.
                let mut room = ReadBuf::new(&mut scratch[had..most]);
                ready!(Pin::new(&mut self.socket).poll_read(cx, &mut room))?;
                let read = room.filled().len();
                if read == 0 {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                end += read;
                done = self.open_some(&mut scratch[..end], buf);
            }
            let rest = &scratch[done..end];
            let sealed_in = &mut self.buffers.sealed_in;
            if rest.is_empty() {
                *sealed_in = Vec::new();
            } else {
                sealed_in.clear();
                sealed_in.extend_from_slice(rest);
            }
            Poll::Ready(Ok(buf.filled().len() > before))
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for RecordStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        if buf.remaining() == 0 || stream.deliver(buf) {
            return Poll::Ready(Ok(()));
        }
        loop {
            if let Some(error) = stream.broken.take() {
                return Poll::Ready(Err(stream.end_broken(cx, error)));
            }
            if stream.is_over() {
                return Poll::Ready(Ok(()));
            }
            let has_some = ready!(stream.poll_read_some(cx, buf))?;
            if stream.record.owes_refusal() {
                stream.send_sealed(cx, |record, out| record.seal_owed(out))??;
            }
            if has_some {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for RecordStream<S> {
    /// Pending only if nothing was sealed.
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        ready!(stream.poll_flush_sealed(cx))?;
        if stream.record.has_sent_close() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let part = &buf[..buf.len().min(SEAL_MAX)];
        stream.send_sealed(cx, |record, out| record.seal(part, out))??;
        Poll::Ready(Ok(part.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        ready!(stream.poll_flush_sealed(cx))?;
        Pin::new(&mut stream.socket).poll_flush(cx)
    }

    /// Sends close_notify, then ends the socket's direction.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        if !stream.record.has_sent_close() {
            stream.send_sealed(cx, |record, out| record.close(out))?;
        }
        ready!(stream.poll_flush_sealed(cx))?;
        Pin::new(&mut stream.socket).poll_shutdown(cx)
    }
}
