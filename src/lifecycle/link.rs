//! The old process's end of the socket to the new one, and what is on its way through it.
//!
//! Whatever is not answered stays in our hands: the new process says that it has adopted a session
//! before it reads a byte of it, and what it has said arrives here even if it dies right after. So
//! at every moment each session is carried by exactly one of the two.

use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use log::warn;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use uuid::Uuid;

use super::packing;
use super::wire::{self, Message};
use crate::app::App;
use crate::session::drain::Manner;
use crate::session::{Parcel, Session};

/// How long the new process may leave what it was sent unanswered.
pub const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// How many names of sessions one message carries; each takes some 40 bytes of it.
const NAMES_MAX: usize = 50_000;

/// What comes from the new process.
pub enum Event {
    Message(Message),
    /// It has closed its end, or broken it.
    Closed,
}

pub struct Link {
    stream: UnixStream,
    /// One message at a time.
    sending: Mutex<()>,
    /// Sent or about to be, and not answered.
    underway: Mutex<HashMap<u64, Arc<Parcel>>>,
    /// Sessions that the new process has adopted.
    adopted: AtomicUsize,
    /// Whatever it has said to a parcel.
    answers: AtomicUsize,
    reader: Mutex<Option<JoinHandle<()>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Link {
    /// Tells what the new process says, from a thread of its own.
    pub fn open(
        stream: UnixStream,
        app: &Arc<App>,
        tell: UnboundedSender<Event>,
    ) -> io::Result<Arc<Self>> {
        let link = Arc::new(Self {
            stream,
            sending: Mutex::default(),
            underway: Mutex::default(),
            adopted: AtomicUsize::new(0),
            answers: AtomicUsize::new(0),
            reader: Mutex::default(),
            writer: Mutex::default(),
        });
        let (listening, app) = (link.clone(), app.clone());
        let reader = thread::Builder::new()
            .name("upgrade-read".to_owned())
            .spawn(move || listening.listen(&app, &tell))?;
        *lock(&link.reader) = Some(reader);
        Ok(link)
    }

    pub fn send(&self, message: &Message) -> io::Result<()> {
        let _one = lock(&self.sending);
        wire::send(&self.stream, message)
    }

    /// Sends what comes, from a thread of its own, until nobody can send it anything any more.
    pub fn start_sending(
        self: &Arc<Self>,
        app: &Arc<App>,
        leaving: UnboundedReceiver<Parcel>,
    ) -> io::Result<()> {
        let (link, app) = (self.clone(), app.clone());
        let writer = thread::Builder::new()
            .name("upgrade-write".to_owned())
            .spawn(move || link.send_all(&app, leaving))?;
        *lock(&self.writer) = Some(writer);
        Ok(())
    }

    pub fn send_drain(&self, manner: &Manner, sessions: &[Uuid]) -> io::Result<()> {
        for part in sessions.chunks(NAMES_MAX) {
            self.send(&Message::Drain(wire::Drain {
                what: manner.what.clone(),
                code: manner.code,
                window: manner.window,
                deadline: manner.deadline,
                sessions: part.to_vec(),
            }))?;
        }
        Ok(())
    }

    pub fn adopted(&self) -> usize {
        self.adopted.load(Relaxed)
    }

    pub fn answers(&self) -> usize {
        self.answers.load(Relaxed)
    }

    pub fn awaits_answers(&self) -> bool {
        !lock(&self.underway).is_empty()
    }

    /// Returns when the new process has left something unanswered for too long.
    pub async fn stalls(&self) {
        let mut seen = self.answers();
        let mut since = Instant::now();
        while since.elapsed() < ANSWERS_WITHIN {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let answers = self.answers();
            if answers != seen || !self.awaits_answers() {
                seen = answers;
                since = Instant::now();
            }
        }
    }

    /// Returns when everything is sent. Nobody may be able to send it anything any more.
    pub async fn finish_sending(&self) {
        let is_done = || {
            lock(&self.writer)
                .as_ref()
                .is_none_or(JoinHandle::is_finished)
        };
        while !is_done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Whatever was not adopted. The link is of no use after this. Blocks for a moment; nobody may
    /// be able to send it anything any more.
    pub fn take_back(&self) -> Vec<Parcel> {
        // What the new process has said is still read, then the reader sees an end.
        if let Err(error) = self.stream.shutdown(Shutdown::Both) {
            warn!("upgrade: cannot close the link: {error}");
        }
        join(&self.writer);
        join(&self.reader);
        let underway = std::mem::take(&mut *lock(&self.underway));
        underway.into_values().filter_map(Arc::into_inner).collect()
    }

    fn listen(&self, app: &Arc<App>, tell: &UnboundedSender<Event>) {
        loop {
            let message = match wire::receive(&self.stream) {
                Ok(Some(frame)) => frame.message,
                Ok(None) => break,
                Err(error) => {
                    warn!("upgrade: {error}");
                    break;
                }
            };
            match &message {
                Message::Adopted { number } => {
                    if let Some(Parcel::Session(_)) = self.take(*number) {
                        self.adopted.fetch_add(1, Relaxed);
                    }
                }
                Message::Refused { number, reason } => {
                    warn!("upgrade: the new process refused a connection: {reason}");
                    if let Some(parcel) = self.take(*number) {
                        app.keep(parcel);
                    }
                }
                _ => {}
            }
            // Whoever no longer listens has heard enough; the answers still count.
            let _ = tell.send(Event::Message(message));
        }
        let _ = tell.send(Event::Closed);
    }

    fn send_all(&self, app: &App, mut leaving: UnboundedReceiver<Parcel>) {
        let listeners: Vec<String> = app
            .listening()
            .into_iter()
            .map(|(_, address)| address.to_string())
            .collect();
        let mut number = 0;
        let mut is_broken = false;
        while let Some(parcel) = leaving.blocking_recv() {
            number += 1;
            // There before it is sent: its answer must find it. Not sent under the lock: the reader
            // needs it to go on reading, and the new process may wait for that.
            let parcel = Arc::new(parcel);
            lock(&self.underway).insert(number, parcel.clone());
            if is_broken {
                // Whoever takes back what is under way finds it there.
                continue;
            }
            let _one = lock(&self.sending);
            if let Err(error) = send_parcel(&self.stream, number, &parcel, &listeners) {
                warn!("upgrade: cannot hand over: {error}");
                is_broken = true;
            }
        }
    }

    fn take(&self, number: u64) -> Option<Parcel> {
        let parcel = lock(&self.underway).remove(&number)?;
        // The writer lets go of it as soon as it is sent, and it was.
        while Arc::strong_count(&parcel) > 1 {
            thread::yield_now();
        }
        let parcel = Arc::into_inner(parcel);
        self.answers.fetch_add(1, Relaxed);
        parcel
    }
}

fn join(thread: &Mutex<Option<JoinHandle<()>>>) {
    let thread = lock(thread).take();
    if thread.is_some_and(|thread| thread.join().is_err()) {
        warn!("upgrade: a thread of the link to the new process has died");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn send_parcel(
    stream: &UnixStream,
    number: u64,
    parcel: &Parcel,
    listeners: &[String],
) -> io::Result<()> {
    match parcel {
        Parcel::Session(session) => {
            let Session { relay, .. } = &**session;
            let message = Message::Session {
                number,
                session: Box::new(packing::pack(session)?),
            };
            let waiting = [&relay.client.waiting[..], &relay.server.waiting[..]];
            let (_, client) = relay.client.transport.descriptor()?;
            let (_, server) = relay.server.transport.descriptor()?;
            let descriptors = [client, server];
            wire::send_with(stream, &message, waiting, &descriptors)
        }
        Parcel::Idle(listener, client) => {
            let (kind, descriptor) = client.transport.descriptor()?;
            let message = Message::Idle {
                number,
                listener: listeners.get(*listener).cloned().unwrap_or_default(),
                kind,
                proxied: client.ticket.proxied.as_deref().copied(),
            };
            wire::send_with(stream, &message, [&[], &client.early], &[descriptor])
        }
    }
}
