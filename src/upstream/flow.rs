//! What the two streams of one exchange, the client's and the server's, know of each other.
//!
//! Pingora carries the bytes between them, and while it awaits a write it looks at nothing else:
//! while the server takes nothing of an upload, it reads no response and does not poll the client.
//! It also reads ahead, several times 64 KiB in each direction. So both streams keep to two rules:
//!
//! - *A write to the server never waits.* What its socket does not take at once waits here, and is
//!   sent on each time that the exchange's task is polled, whatever Pingora awaits ([`Flow::drive`]).
//! - *Neither side is read further than a window ahead of what the other side has taken.* So
//!   what waits, here and in Pingora's queues, is bounded.
//!
//! All of it happens within the one task of the exchange: what is atomic here is so because Pingora
//! wants streams that may move between threads, and so is the lock.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Context;
use std::time::Duration;

use tokio::runtime::Handle;

use super::outgoing::Outgoing;

/// How far the response is read ahead of what the client has taken. An exchange that stands still
/// has it two or three times, in Pingora's buffers and in its queue.
const RESPONSE_WINDOW: usize = 8 * 1024;

/// The same of the request. Less: Pingora keeps more of requests than of responses.
const REQUEST_WINDOW: usize = 4 * 1024;

/// Of one client's connection; its exchanges follow one another.
#[derive(Debug, Default)]
pub struct Flow {
    request: Ahead,
    response: Ahead,
    /// There while a server has the request.
    server: Mutex<Option<Server>>,
    /// Whether the server is there, and bytes wait for it: for a look without the lock.
    waits: AtomicBool,
    moved: AtomicBool,
    /// The exchange's deadline has struck: whatever is awaited fails.
    struck: AtomicBool,
    /// A stream has failed for that reason.
    timed_out: AtomicBool,
}

#[derive(Debug)]
struct Server {
    outgoing: Arc<Mutex<Outgoing>>,
    /// How long it may take nothing of what waits for it.
    stall: Duration,
}

/// How far one side was read ahead of the other.
#[derive(Debug, Default)]
struct Ahead {
    bytes: AtomicUsize,
    /// The reader was told to wait.
    is_held: AtomicBool,
    /// The other side has had nothing to take, at one look.
    seems_idle: AtomicBool,
}

impl Ahead {
    /// How much may be read now. 0: the reader waits, and is polled again when there is room.
    fn room(&self, window: usize) -> usize {
        let room = window.saturating_sub(self.bytes.load(Relaxed));
        if room == 0 {
            self.is_held.store(true, Relaxed);
        }
        room
    }

    fn read(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Relaxed);
        self.seems_idle.store(false, Relaxed);
    }

    fn took(&self, bytes: usize, cx: &Context<'_>) {
        let before = self.bytes.load(Relaxed);
        self.bytes.store(before.saturating_sub(bytes), Relaxed);
        self.seems_idle.store(false, Relaxed);
        self.go_on(cx);
    }

    fn took_all(&self, cx: &Context<'_>) {
        self.bytes.store(0, Relaxed);
        self.seems_idle.store(false, Relaxed);
        self.go_on(cx);
    }

    /// The other side looks for something to take. What one sends is not to the byte what the
    /// other gets (heads and chunks are written anew), so what is counted drifts: a reader that is
    /// held while the other side finds nothing at two looks, one after the other, is held by the
    /// drift. At one look the queue between them might not have been looked at yet.
    fn looks(&self, cx: &Context<'_>) {
        if !self.is_held.load(Relaxed) {
            return;
        }
        if self.seems_idle.load(Relaxed) {
            return self.took_all(cx);
        }
        self.seems_idle.store(true, Relaxed);
        cx.waker().wake_by_ref();
    }

    fn go_on(&self, cx: &Context<'_>) {
        if self.is_held.load(Relaxed) {
            self.is_held.store(false, Relaxed);
            cx.waker().wake_by_ref();
        }
    }

    fn reset(&self) {
        self.bytes.store(0, Relaxed);
        self.is_held.store(false, Relaxed);
        self.seems_idle.store(false, Relaxed);
    }
}

impl Flow {
    /// A server gets the request from now on, by `outgoing`.
    pub(super) fn attach(&self, outgoing: Arc<Mutex<Outgoing>>, stall: Duration) {
        self.request.reset();
        self.response.reset();
        self.waits.store(false, Relaxed);
        *self.lock() = Some(Server { outgoing, stall });
    }

    /// It gets no more of it.
    pub(super) fn detach(&self) {
        *self.lock() = None;
        self.waits.store(false, Relaxed);
        self.request.reset();
    }

    /// How much of the request's body may be read from the client.
    pub fn request_room(&self) -> usize {
        self.request.room(REQUEST_WINDOW)
    }

    pub fn read_of_request(&self, bytes: usize) {
        self.request.read(bytes);
    }

    /// How much of the response may be read from the server.
    pub(super) fn response_room(&self) -> usize {
        self.response.room(RESPONSE_WINDOW)
    }

    pub(super) fn read_of_response(&self, bytes: usize) {
        self.response.read(bytes);
    }

    /// The client has taken so much.
    pub fn client_took(&self, bytes: usize, cx: &Context<'_>) {
        self.response.took(bytes, cx);
    }

    /// Nothing is being written to the client.
    pub fn client_looks(&self, cx: &Context<'_>) {
        self.response.looks(cx);
    }

    /// Nothing is being written to the server.
    pub(super) fn server_looks(&self, cx: &Context<'_>) {
        self.request.looks(cx);
    }

    /// The server takes nothing more.
    pub(super) fn server_failed(&self, cx: &Context<'_>) {
        self.request.took_all(cx);
    }

    pub(super) fn set_waits(&self, waits: bool) {
        self.waits.store(waits, Relaxed);
    }

    /// The server has taken so much.
    pub(super) fn server_took(&self, bytes: usize, cx: &Context<'_>) {
        self.moved.store(true, Relaxed);
        self.request.took(bytes, cx);
    }

    /// Whether bytes wait for the server.
    pub fn waits_for_server(&self) -> bool {
        self.waits.load(Relaxed)
    }

    /// Whether the server has taken some of what waited since this was last asked.
    pub fn take_moved(&self) -> bool {
        self.moved.load(Relaxed) && self.moved.swap(false, Relaxed)
    }

    /// How long the server may take nothing of what waits for it.
    pub fn server_stall(&self) -> Option<Duration> {
        self.lock().as_ref().map(|server| server.stall)
    }

    /// Sends to the server what waits for it, as far as it goes.
    pub fn drive(&self, cx: &mut Context<'_>) {
        if !self.waits_for_server() {
            return;
        }
        let outgoing = self.lock().as_ref().map(|server| server.outgoing.clone());
        if let Some(outgoing) = outgoing {
            let mut outgoing = outgoing.lock().unwrap_or_else(PoisonError::into_inner);
            outgoing.drive(cx, self);
        }
    }

    /// From now on whatever the exchange awaits fails, until it gets another deadline.
    pub fn strike(&self) {
        self.struck.store(true, Relaxed);
    }

    pub fn forgive(&self) {
        self.struck.store(false, Relaxed);
    }

    pub fn has_struck(&self) -> bool {
        self.struck.load(Relaxed)
    }

    /// An error once the deadline has struck.
    pub fn check_deadline(&self) -> io::Result<()> {
        if !self.has_struck() {
            return Ok(());
        }
        self.timed_out.store(true, Relaxed);
        let message = "the exchange made no progress in the time it had";
        Err(io::Error::new(io::ErrorKind::TimedOut, message))
    }

    /// What waits for the server is sent by a task of its own, which ends when that is done or the
    /// server takes nothing for too long.
    pub(super) fn leave_to_itself(&self, outgoing: &mut Outgoing) {
        let Some(stall) = self.server_stall() else {
            return;
        };
        // None: the process ends.
        if let (Some(rest), Ok(runtime)) = (outgoing.take_rest(), Handle::try_current()) {
            runtime.spawn(rest.send(stall));
        }
    }

    pub fn has_timed_out(&self) -> bool {
        self.timed_out.load(Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Server>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn a_side_is_read_a_window_ahead_of_what_the_other_has_taken() {
        let cx = Context::from_waker(Waker::noop());
        let flow = Flow::default();
        assert_eq!(flow.response_room(), RESPONSE_WINDOW);
        flow.read_of_response(RESPONSE_WINDOW - 1);
        assert_eq!(flow.response_room(), 1);
        flow.read_of_response(1);
        assert_eq!(flow.response_room(), 0);
        flow.client_took(10, &cx);
        assert_eq!(flow.response_room(), 10);
        flow.client_took(RESPONSE_WINDOW, &cx);
        assert_eq!(flow.response_room(), RESPONSE_WINDOW);
        assert_eq!(flow.request_room(), REQUEST_WINDOW);
    }

    #[test]
    fn a_reader_that_is_held_by_a_drift_alone_goes_on_after_two_looks() {
        let cx = Context::from_waker(Waker::noop());
        let flow = Flow::default();
        flow.read_of_response(RESPONSE_WINDOW);
        // It is not held yet.
        flow.client_looks(&cx);
        flow.client_looks(&cx);
        assert_eq!(flow.response_room(), 0);
        flow.client_looks(&cx);
        assert_eq!(flow.response_room(), 0);
        // Something was in the queue.
        flow.client_took(1, &cx);
        flow.read_of_response(1);
        assert_eq!(flow.response_room(), 0);
        flow.client_looks(&cx);
        flow.client_looks(&cx);
        assert_eq!(flow.response_room(), RESPONSE_WINDOW);
    }

    #[test]
    fn what_the_client_gets_beside_the_response_makes_no_more_room() {
        let cx = Context::from_waker(Waker::noop());
        let flow = Flow::default();
        flow.client_took(3 * RESPONSE_WINDOW, &cx);
        assert_eq!(flow.response_room(), RESPONSE_WINDOW);
    }
}
