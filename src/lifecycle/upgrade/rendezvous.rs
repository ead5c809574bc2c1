//! How a process that the old one has not started finds it, at the socket `server.hand_over`, and
//! gets what an exec would have given it: the listening sockets and a link.
//!
//! Each side checks that the other one is of the same user, because whoever may connect could take
//! every session. A process id of one container may be unknown in another, so each side sends a
//! pidfd of itself.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use log::info;
use rustix::process::geteuid;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::exec::own_pidfd;
use super::link::{Descriptors, Heard, Link};
use super::predecessor::{Named, Predecessor};
use super::protocol::frame::{Beside, Decoded};
use super::protocol::{Message, wire};
use super::successor::Guest;

/// How long the other side may take for its next message.
const SAID_WITHIN: Duration = Duration::from_secs(5);

/// The same for the answer of a process that has said that it may take a while: until its own
/// hand-over has ended, or a reload.
const DECIDES_WITHIN: Duration = Duration::from_secs(120);

/// How often to look whether a process that stops has ended.
const LOOKS_EVERY: Duration = Duration::from_millis(250);

/// A process that asks to take over, and the link to it.
pub struct Visit {
    pub(super) guest: Guest,
    pub(super) link: Link,
    /// The new process, in words.
    pub by: String,
}

/// A descriptor to send.
struct One(OwnedFd);

impl Descriptors for One {
    fn descriptors(&self) -> io::Result<Vec<BorrowedFd<'_>>> {
        Ok(vec![self.0.as_fd()])
    }
}

/// Everything that the process at the socket has given.
type Given = (Vec<Named>, Predecessor);

/// How often to ask again. A process that closes the link without a message has died or is ending,
/// and then this one may be alone.
const TRIES: usize = 3;

/// Asks the process at the socket for all that it has. `None`: no process is there. An error: a
/// process is there, and this one must not take over. Must be called inside the runtime.
pub async fn ask(path: &Path) -> io::Result<Option<Given>> {
    let (mut tries, mut has_said) = (TRIES, false);
    loop {
        match ask_once(path).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && tries > 1 => tries -= 1,
            Err(error) => return Err(error),
            Ok(Asked::Nobody) => return Ok(None),
            Ok(Asked::Given(given)) => return Ok(Some(*given)),
            Ok(Asked::Stops(reason)) => {
                if !std::mem::replace(&mut has_said, true) {
                    info!("take-over: {reason}: this one begins when that has ended");
                }
                sleep(LOOKS_EVERY).await;
            }
        }
    }
}

/// What one attempt has come to.
enum Asked {
    Nobody,
    Given(Box<Given>),
    /// The process at the socket is about to end, and hands nothing over.
    Stops(String),
}

async fn ask_once(path: &Path) -> io::Result<Asked> {
    let stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) => {
            return match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(Asked::Nobody),
                _ => Err(error),
            };
        }
    };
    let mut link = Link::new(stream.into_std()?)?;
    same_user(&link)?;
    let wish = Message::TakeOver(wire::TakeOver {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    });
    say(&mut link, &wish, own_pidfd())?;
    let mut named = Vec::new();
    let mut within = SAID_WITHIN;
    loop {
        let (message, descriptor) = hear(&mut link, within).await?;
        within = SAID_WITHIN;
        match message {
            Message::Wait => within = DECIDES_WITHIN,
            Message::Listener { name } => named.extend(descriptor.map(|socket| (name, socket))),
            Message::Given => {
                let old = Predecessor::met(link.into_stream()?, descriptor);
                return Ok(Asked::Given(Box::new((named, old))));
            }
            Message::Failed {
                reason,
                stops: true,
            } => return Ok(Asked::Stops(reason)),
            Message::Failed { reason, .. } => return Err(io::Error::other(reason)),
            other => return Err(out_of_turn(&other)),
        }
    }
}

/// Finds out which process has connected. Must be called inside the runtime.
pub async fn greet(stream: UnixStream) -> io::Result<Visit> {
    let mut link = Link::new(stream.into_std()?)?;
    same_user(&link)?;
    match hear(&mut link, SAID_WITHIN).await? {
        (Message::TakeOver(wish), pidfd) => {
            say(&mut link, &Message::Wait, None)?;
            link.flush().await?;
            Ok(Visit {
                guest: Guest::new(wish.pid, pidfd),
                link,
                by: format!("a take-over by {} (version {})", wish.pid, wish.version),
            })
        }
        (other, _) => Err(out_of_turn(&other)),
    }
}

/// Queues all that the new process needs before it can say that it is ready.
pub(super) fn give(link: &mut Link, sockets: Vec<(&str, OwnedFd)>) -> io::Result<()> {
    for (name, socket) in sockets {
        let name = name.to_owned();
        say(link, &Message::Listener { name }, Some(socket))?;
    }
    say(link, &Message::Given, own_pidfd())
}

impl Visit {
    /// Refuses. The process that has asked continues without us; `stops`: when we have ended.
    pub async fn refuse(mut self, reason: String, stops: bool) -> io::Result<()> {
        say(&mut self.link, &Message::Failed { reason, stops }, None)?;
        self.link.flush().await
    }
}

fn say(link: &mut Link, message: &Message, descriptor: Option<OwnedFd>) -> io::Result<()> {
    let count = usize::from(descriptor.is_some());
    let parcel = descriptor.map(|descriptor| Arc::new(One(descriptor)) as Arc<dyn Descriptors>);
    link.say_with(message, Beside::default(), parcel, count)
}

async fn hear(link: &mut Link, within: Duration) -> io::Result<(Message, Option<OwnedFd>)> {
    match timeout(within, link.hear()).await {
        Ok(Ok(Heard::Message(Decoded::Frame(frame), descriptors))) => {
            Ok((frame.message, descriptors.into_iter().next()))
        }
        Ok(Ok(Heard::Message(Decoded::Unknown { why, .. }, _))) => Err(io::Error::other(format!(
            "the other process says what this one does not know: {why}"
        ))),
        Ok(Ok(Heard::Closed)) => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the other process has hung up",
        )),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::other(format!(
            "the other process said nothing for {within:?}"
        ))),
    }
}

fn same_user(link: &Link) -> io::Result<()> {
    let (theirs, ours) = (link.peer_uid()?, geteuid().as_raw());
    match theirs == ours {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "the process at the other end runs as uid {theirs}, this one as uid {ours}: only the \
             same user may take over"
        ))),
    }
}

fn out_of_turn(message: &Message) -> io::Error {
    io::Error::other(format!("the other process said {message:?} out of turn"))
}
