//! What the two streams of one exchange, the client's and the server's, know of each other.
//!
//! Pingora carries the bytes between them, and while it awaits a write it looks at nothing else:
//! while the server takes nothing of an upload, it reads no response and does not poll the client.
//! It also reads ahead, several times 64 KiB in each direction. So both streams keep to two rules:
//!
//! - *A write to the server never waits.* What its socket does not take at once waits here, and is
//!   sent on each time that the exchange's task is polled, whatever Pingora awaits
//!   ([`Flow::drive`]).
//! - *Neither side is read further than a window ahead of what the other side has taken.* So
//!   what waits, here and in Pingora's queues, is bounded.
//!
//! How large the window is: [`super::window`]. While the other side stands still, a reader also
//! gives the memory back that it reads to.
//!
//! All of it happens within the one task of the exchange: what is atomic here is so because Pingora
//! wants streams that may move between threads, and so is the lock.

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

/// The windows of both directions, as they begin and as they grow (see [`super::window`]). Pingora
/// reads no more than this at once.
const BASE_OF_RESPONSE: usize = 8 * 1024;
const BASE_OF_REQUEST: usize = 4 * 1024;
const MOST_OF_RESPONSE: usize = 48 * 1024;

/// Less of a request: Pingora also keeps its first 64 KiB, for another attempt.
const MOST_OF_REQUEST: usize = 32 * 1024;

/// Of a body in chunks, which Pingora has in pieces, and writes several of a response together,
/// from a buffer that it keeps.
const MOST_OF_RESPONSE_IN_CHUNKS: usize = 8 * 1024;

/// The same of a request.
pub const MOST_OF_REQUEST_IN_CHUNKS: usize = 8 * 1024;

/// So many large reads follow one another before other exchanges have their turn. Tokio would let
/// each have several more, and stop it with one under way: of a thousand exchanges most would hold
/// one then.
const READS_IN_TURN: usize = 12;

/// Of one client's connection; its exchanges follow one another.
#[derive(Debug)]
pub struct Flow {
    request: Mutex<Window>,
    response: Mutex<Window>,
    /// A reader that was held may go on: Pingora is to be polled once more.
    goes_on: AtomicBool,
    /// Large reads since the exchange's task was polled.
    large_reads: AtomicUsize,
    /// A reader was told to wait for the next turn.
    has_to_yield: AtomicBool,
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
    /// A server gets the request from now on, by `outgoing`.
    pub(super) fn attach(&self, outgoing: Arc<Mutex<Outgoing>>, stall: Duration) {
        self.request.lock().reset();
        *self.response.lock() = Window::new(BASE_OF_RESPONSE, MOST_OF_RESPONSE, 0);
        self.waits.store(false, Relaxed);
        *self.server.lock() = Some(Server { outgoing, stall });
    }

    /// It gets no more of it.
    pub(super) fn detach(&self) {
        *self.server.lock() = None;
        self.waits.store(false, Relaxed);
        self.request.lock().reset();
    }

    /// How much of the request's body may be read from the client.
    pub fn request_room(&self) -> usize {
        self.room(&self.request)
    }

    pub fn read_of_request(&self, bytes: usize) {
        self.read(&self.request, bytes);
    }

    /// How much of the response may be read from the server.
    pub(super) fn response_room(&self) -> usize {
        self.room(&self.response)
    }

    pub(super) fn read_of_response(&self, bytes: usize) {
        self.read(&self.response, bytes);
    }

    /// The response's body comes in chunks.
    pub fn narrow_response(&self) {
        self.response.lock().narrow(MOST_OF_RESPONSE_IN_CHUNKS);
    }

    /// The client has taken so much.
    pub fn client_took(&self, bytes: usize, client: &Transport) {
        self.take(&self.response, bytes, client);
    }

    /// The client takes nothing now.
    pub fn client_stalls(&self) {
        self.tell(self.response.lock().stall());
    }

    /// Whether whoever reads the response has to give back the memory that it reads to.
    pub(super) fn client_takes_back(&self) -> bool {
        self.response.lock().takes_back()
    }

    /// Nothing is being written to the client.
    pub fn client_looks(&self) {
        self.tell(self.response.lock().look());
    }

    /// Nothing is being written to the server.
    pub(super) fn server_looks(&self) {
        self.tell(self.request.lock().look());
    }

    /// Whether whoever reads the request has to give back the memory that it reads to.
    pub fn server_takes_back(&self) -> bool {
        self.request.lock().takes_back()
    }

    fn room(&self, window: &Mutex<Window>) -> usize {
        let room = window.lock().room();
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

    /// The exchange's task is polled.
    pub fn begin_turn(&self) {
        self.large_reads.store(0, Relaxed);
        self.has_to_yield.store(false, Relaxed);
    }

    /// Whether a reader waits for its next turn: the task is to be polled again by and by.
    pub fn has_to_yield(&self) -> bool {
        self.has_to_yield.load(Relaxed)
    }

    fn take(&self, window: &Mutex<Window>, bytes: usize, taker: &Transport) {
        let mut window = window.lock();
        self.tell(window.took(bytes));
        if window.take_stalled() {
            // The kernel had told that there is room: else it would not have been tried again.
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

    /// Whether a reader that was held may go on, since this was last asked: then all that waits in
    /// the exchange is to be polled once more. (A wake-up would do the same by way of the
    /// scheduler.)
    pub fn take_goes_on(&self) -> bool {
        self.goes_on.load(Relaxed) && self.goes_on.swap(false, Relaxed)
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
        self.server.lock().as_ref().map(|server| server.stall)
    }

    /// Sends to the server what waits for it, as far as it goes.
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
