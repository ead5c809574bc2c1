//! What the two streams of one exchange, the client's and the server's, know of each other.
//!
//! Pingora carries the bytes between them, and while it awaits a write it does nothing else: as
//! long as the server takes nothing of an upload, it reads no response and does not poll the
//! client. It also reads ahead, several times 64 KiB in each direction. So both streams follow two
//! rules:
//!
//! - *A write to the server never waits.* What its socket does not take at once waits here. It is
//!   sent whenever the exchange's task is polled, whatever Pingora awaits ([`Flow::drive`]).
//! - *Neither side is read further than a window ahead of what the other side has taken.* So the
//!   bytes that wait, here and in Pingora's queues, are limited.
//!
//! [`super::window`] decides how large the window is. While the other side takes nothing, a reader
//! also gives back the memory of its read buffer.
//!
//! All of this happens within the one task of the exchange. The atomics and the lock are only there
//! because Pingora requires streams that may move between threads.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::task::Context;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::outgoing::{Outgoing, Progress};
use super::window::{DRIFT, Reader, Window};
use crate::transport::Transport;

/// The smallest and the largest windows of both directions (see [`super::window`]). Pingora never
/// reads more than a window at once.
const BASE_OF_RESPONSE: usize = 8 * 1024;
const BASE_OF_REQUEST: usize = 4 * 1024;
const MOST_OF_RESPONSE: usize = 48 * 1024;

/// The request's window is smaller, because Pingora also keeps the first 64 KiB for a retry.
const MOST_OF_REQUEST: usize = 32 * 1024;

/// For a body in chunks: Pingora holds it in pieces, and writes several pieces of a response
/// together from a buffer that it keeps.
const MOST_OF_RESPONSE_IN_CHUNKS: usize = 8 * 1024;

/// The same for a request.
pub const MOST_OF_REQUEST_IN_CHUNKS: usize = 8 * 1024;

/// How many large reads follow one another before other exchanges have their turn. Tokio would
/// allow several more and then stop the task during one: of a thousand exchanges most would then
/// hold a large read.
const READS_IN_TURN: usize = 12;

/// For one client's connection. Its exchanges follow one another.
#[derive(Debug)]
pub struct Flow {
    request: Mutex<Window>,
    response: Mutex<Window>,
    /// A reader that was held back may read again: Pingora must be polled once more.
    goes_on: AtomicBool,
    /// How many large reads were made since the exchange's task was polled.
    large_reads: AtomicUsize,
    /// A reader was told to wait for the next turn.
    has_to_yield: AtomicBool,
    /// `Some` while a server has the request.
    server: Mutex<Option<Server>>,
    /// Whether there is a server and bytes wait for it, to be read without the lock.
    waits: AtomicBool,
    moved: AtomicBool,
    /// The exchange's deadline has struck: whatever Pingora awaits fails.
    struck: AtomicBool,
    /// A stream has failed because of that.
    timed_out: AtomicBool,
}

#[derive(Debug)]
struct Server {
    outgoing: Arc<Mutex<Outgoing>>,
    /// How long the server may take nothing of the bytes that wait for it.
    stall: Duration,
}

impl Default for Flow {
    fn default() -> Self {
        Self {
            request: Mutex::new(Window::new(BASE_OF_REQUEST, MOST_OF_REQUEST, DRIFT)),
            response: Mutex::new(Window::new(BASE_OF_RESPONSE, MOST_OF_RESPONSE, 0)),
            goes_on: AtomicBool::new(false),
            large_reads: AtomicUsize::new(0),
            has_to_yield: AtomicBool::new(false),
            server: Mutex::default(),
            waits: AtomicBool::new(false),
            moved: AtomicBool::new(false),
            struck: AtomicBool::new(false),
            timed_out: AtomicBool::new(false),
        }
    }
}

impl Flow {
    /// From now on the request goes to a server through `outgoing`.
    pub(super) fn attach(&self, outgoing: Arc<Mutex<Outgoing>>, stall: Duration) {
        self.request.lock().reset();
        *self.response.lock() = Window::new(BASE_OF_RESPONSE, MOST_OF_RESPONSE, 0);
        self.waits.store(false, Relaxed);
        *self.server.lock() = Some(Server { outgoing, stall });
    }

    /// The server gets no more of the request.
    pub(super) fn detach(&self) {
        *self.server.lock() = None;
        self.waits.store(false, Relaxed);
        self.request.lock().reset();
    }

    /// How many bytes of the request's body may be read from the client.
    pub fn request_room(&self) -> usize {
        self.room(&self.request)
    }

    pub fn read_of_request(&self, bytes: usize) {
        self.read(&self.request, bytes);
    }

    /// How many bytes of the response may be read from the server.
    pub(super) fn response_room(&self) -> usize {
        self.room(&self.response)
    }

    pub(super) fn read_of_response(&self, bytes: usize) {
        self.read(&self.response, bytes);
    }

    /// Called when the response's body comes in chunks.
    pub fn narrow_response(&self) {
        self.response.lock().narrow(MOST_OF_RESPONSE_IN_CHUNKS);
    }

    /// The client has taken this many bytes.
    pub fn client_took(&self, bytes: usize, client: &Transport) {
        self.take(&self.response, bytes, client);
    }

    /// The client takes nothing now.
    pub fn client_stalls(&self) {
        self.tell(self.response.lock().stall());
    }

    /// Whether the reader of the response must give back the memory of its buffer.
    pub(super) fn client_takes_back(&self) -> bool {
        self.response.lock().takes_back()
    }

    /// Called when nothing is being written to the client.
    pub fn client_looks(&self) {
        self.tell(self.response.lock().look());
    }

    /// Called when nothing is being written to the server.
    pub(super) fn server_looks(&self) {
        self.tell(self.request.lock().look());
    }

    /// Whether the reader of the request must give back the memory of its buffer.
    pub fn server_takes_back(&self) -> bool {
        self.request.lock().takes_back()
    }

    fn room(&self, window: &Mutex<Window>) -> usize {
        let (room, is_newly_held) = window.lock().ask_room();
        if is_newly_held {
            // The taker may have looked already in this turn, and found nothing.
            self.tell(Reader::GoesOn);
        }
        if room > BASE_OF_RESPONSE && self.large_reads.load(Relaxed) >= READS_IN_TURN {
            self.has_to_yield.store(true, Relaxed);
            return 0;
        }
        room
    }

    fn read(&self, window: &Mutex<Window>, bytes: usize) {
        window.lock().read(bytes);
        if bytes > BASE_OF_RESPONSE {
            self.large_reads.fetch_add(1, Relaxed);
        }
    }

    /// Called when the exchange's task is polled.
    pub fn begin_turn(&self) {
        self.large_reads.store(0, Relaxed);
        self.has_to_yield.store(false, Relaxed);
    }

    /// Whether a reader waits for its next turn, so that the task must be polled again soon.
    pub fn has_to_yield(&self) -> bool {
        self.has_to_yield.load(Relaxed)
    }

    fn take(&self, window: &Mutex<Window>, bytes: usize, taker: &Transport) {
        let mut window = window.lock();
        self.tell(window.took(bytes));
        if window.take_stalled() {
            // The kernel had reported room, or nothing would have been sent.
            window.grant(taker.room_when_writable().saturating_sub(bytes));
        } else if window.wants_credit() {
            window.grant(taker.room());
        }
    }

    fn tell(&self, reader: Reader) {
        if reader == Reader::GoesOn {
            self.goes_on.store(true, Relaxed);
        }
    }

    /// The reader of the response may go on, which was told to wait.
    pub(super) fn server_goes_on(&self) {
        self.tell(Reader::GoesOn);
    }

    /// Whether a reader that was held back may go on since the last call. Then everything in the
    /// exchange must be polled once more. (A wake-up would do the same through the scheduler.)
    pub fn take_goes_on(&self) -> bool {
        self.goes_on.load(Relaxed) && self.goes_on.swap(false, Relaxed)
    }

    /// Whether bytes wait for the server.
    pub fn waits_for_server(&self) -> bool {
        self.waits.load(Relaxed)
    }

    /// Whether the server has taken some of the waiting bytes since the last call.
    pub fn take_moved(&self) -> bool {
        self.moved.load(Relaxed) && self.moved.swap(false, Relaxed)
    }

    /// How long the server may take nothing of the bytes that wait for it.
    pub fn server_stall(&self) -> Option<Duration> {
        self.server.lock().as_ref().map(|server| server.stall)
    }

    /// Sends as many of the waiting bytes as the server takes.
    pub fn drive(&self, cx: &mut Context<'_>) {
        if !self.waits_for_server() {
            return;
        }
        let outgoing = self
            .server
            .lock()
            .as_ref()
            .map(|server| server.outgoing.clone());
        if let Some(outgoing) = outgoing {
            let mut outgoing = outgoing.lock();
            outgoing.drive(cx, self);
        }
    }

    /// From now on whatever the exchange awaits fails, until another deadline is set.
    pub fn strike(&self) {
        self.struck.store(true, Relaxed);
    }

    pub fn forgive(&self) {
        self.struck.store(false, Relaxed);
    }

    pub fn has_struck(&self) -> bool {
        self.struck.load(Relaxed)
    }

    /// Returns an error once the deadline has struck.
    pub fn check_deadline(&self) -> io::Result<()> {
        if !self.has_struck() {
            return Ok(());
        }
        self.timed_out.store(true, Relaxed);
        let message = "the exchange made no progress in the time it had";
        Err(io::Error::new(io::ErrorKind::TimedOut, message))
    }

    /// The exchange goes on with another server after its deadline has struck.
    pub fn forget_timeout(&self) {
        self.forgive();
        self.timed_out.store(false, Relaxed);
    }

    /// A task of its own sends what waits for the server. It ends when all is sent, or when the
    /// server takes nothing for too long.
    pub(super) fn leave_to_itself(&self, outgoing: &mut Outgoing) {
        let Some(stall) = self.server_stall() else {
            return;
        };
        // There is no runtime when the process ends.
        if let (Some(rest), Ok(runtime)) = (outgoing.take_rest(), Handle::try_current()) {
            runtime.spawn(rest.send(stall));
        }
    }

    pub fn has_timed_out(&self) -> bool {
        self.timed_out.load(Relaxed)
    }
}

impl Progress for Flow {
    fn took(&self, bytes: usize, server: &Transport) {
        self.moved.store(true, Relaxed);
        self.take(&self.request, bytes, server);
    }

    fn stalls(&self) {
        self.tell(self.request.lock().stall());
    }

    fn failed(&self) {
        self.tell(self.request.lock().took_all());
    }

    fn set_waits(&self, waits: bool) {
        self.waits.store(waits, Relaxed);
    }
}
