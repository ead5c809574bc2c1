//! The running process, as the operator's API sees it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Instant;
use std::{fs, io};

use log::{error, info};
use parking_lot::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::sync::watch;

use super::admin_thread::{self, Serving};
use super::drain_watch::DrainWatch;
use super::supervisor::Event;
use super::upgrade::Program;
use super::upgrade::rendezvous::Visit;
use crate::admin::{Access, CommandOutcome, ControlError, Request};
use crate::app::App;
use crate::net::{Binder, ListeningSocket};

/// A message to the supervisor.
pub enum Message {
    Command(Request, oneshot::Sender<CommandOutcome>),
    Event(Event),
    /// Another process asks to take over.
    Visit(Box<Visit>),
    /// The result of a reload.
    Reloaded(Result<Vec<String>, ControlError>),
}

pub struct Process {
    pub(super) app: Arc<App>,
    /// `None`: there is no file to read again.
    pub(super) file: Option<PathBuf>,
    program: Option<Program>,
    pub(super) started: Instant,
    admin: Vec<Arc<ListeningSocket>>,
    pub(super) access: Access,
    /// The socket at which another process can ask to take over.
    hand_over: Option<Arc<ListeningSocket>>,
    inbox: UnboundedSender<Message>,
    /// The id of the process that has taken over. 0: none has.
    successor: AtomicU32,
    is_upgrading: AtomicBool,
    pub(super) drain_watch: Mutex<DrainWatch>,
}

/// The messages to the supervisor.
pub type Inbox = UnboundedReceiver<Message>;

impl Process {
    pub fn new(
        app: Arc<App>,
        file: Option<PathBuf>,
        program: Option<Program>,
        (admin, hand_over): (Vec<Arc<ListeningSocket>>, Option<Arc<ListeningSocket>>),
        access: Access,
    ) -> (Arc<Self>, Inbox) {
        let (inbox, messages) = unbounded_channel();
        let process = Self {
            app,
            file,
            program,
            started: Instant::now(),
            admin,
            access,
            hand_over,
            inbox,
            successor: AtomicU32::new(0),
            is_upgrading: AtomicBool::new(false),
            drain_watch: Mutex::default(),
        };
        (Arc::new(process), messages)
    }

    /// Sends to the supervisor, which outlives every sender.
    pub fn send(&self, message: Message) {
        if self.inbox.send(message).is_err() {
            log::debug!("the process ends: nothing more is done");
        }
    }

    pub fn serve_admin(
        self: &Arc<Self>,
        serving: &watch::Sender<Serving>,
    ) -> Vec<admin_thread::Server> {
        let serve = |socket: &Arc<ListeningSocket>| {
            info!("admin API on {}", socket.address());
            let (process, access) = (self.clone(), self.access.clone());
            admin_thread::serve(socket.clone(), process, access, serving.subscribe())
        };
        self.admin.iter().map(serve).collect()
    }

    pub fn hand_over(&self) -> Option<&Arc<ListeningSocket>> {
        self.hand_over.as_ref()
    }

    /// The sockets that only the serving process has open, without its listeners.
    fn own_sockets(&self) -> impl Iterator<Item = &Arc<ListeningSocket>> {
        self.admin.iter().chain(&self.hand_over)
    }

    /// Descriptors of these sockets, for another process.
    pub fn own_descriptors(&self) -> io::Result<Vec<(Binder, OwnedFd)>> {
        self.own_sockets()
            .map(|socket| Ok((socket.binder(), socket.descriptor()?)))
            .collect()
    }

    /// Another process answers at these sockets. At the `unwanted` addresses no process does.
    pub fn leave_sockets(&self, unwanted: impl Fn(&str) -> bool) {
        for socket in self.own_sockets() {
            match unwanted(&socket.address().to_string()) {
                true => socket.close(),
                false => socket.leave_file(),
            }
        }
    }

    /// This process answers at these sockets again.
    pub fn take_sockets_back(&self) {
        for socket in self.own_sockets() {
            if let Err(cause) = socket.reopen() {
                error!("cannot listen on {} again: {cause}", socket.address());
            }
            socket.own_file();
        }
    }

    /// Removes the sockets from sight, even if something still holds them.
    pub fn close_sockets(&self) {
        self.own_sockets().for_each(|socket| socket.close());
    }

    pub fn successor(&self) -> Option<u32> {
        Some(self.successor.load(Relaxed)).filter(|&pid| pid != 0)
    }

    pub fn set_successor(&self, pid: Option<u32>) {
        self.successor.store(pid.unwrap_or(0), Relaxed);
    }

    pub fn is_upgrading(&self) -> bool {
        self.is_upgrading.load(Relaxed)
    }

    pub fn set_upgrading(&self, is_upgrading: bool) {
        self.is_upgrading.store(is_upgrading, Relaxed);
    }

    /// The program that can take over, or why none can.
    pub fn program(&self) -> Result<&Program, ControlError> {
        may_be_replaced()?;
        self.program.as_ref().ok_or_else(|| {
            ControlError::refused(
                "this process was not started by `prusik run`",
                "start it by `prusik run --config FILE` to be able to replace it",
            )
        })
    }
}

/// Processes that end when their first child ends, and then end all others.
const INITS: [&str; 5] = [
    "tini",
    "tini-static",
    "docker-init",
    "dumb-init",
    "catatonit",
];

/// If all processes end together with this one, no other process can take over.
fn may_be_replaced() -> Result<(), ControlError> {
    let hint = "start a container with the new version beside this one, by `prusik run --take-over` (it asks at \
                server.hand_over, and shares network and folder with this one): it takes the sessions over; or \
                stop this one by TERM, and they are told to go within server.drain.window";
    if std::process::id() == 1 {
        return Err(ControlError::refused(
            "this process is PID 1: the container would end with it, and every session",
            hint,
        ));
    }
    let is_child_of_init = std::os::unix::process::parent_id() == 1;
    let init = fs::read_to_string("/proc/1/comm").unwrap_or_default();
    let init = init.trim();
    if is_child_of_init && INITS.contains(&init) {
        return Err(ControlError::refused(
            format!(
                "{init}, as PID 1, ends the container when the process ends that it has started: \
                 every session would end with it"
            ),
            hint,
        ));
    }
    Ok(())
}
