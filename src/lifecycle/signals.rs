//! The signals that prusik reacts to.

use std::future::Future;
use std::io;

use tokio::signal::unix::{self, SignalKind, signal};

use super::supervisor::Signal;

pub struct Signals {
    hangup: unix::Signal,
    terminate: unix::Signal,
    quit: unix::Signal,
    interrupt: unix::Signal,
    user2: unix::Signal,
}

impl Signals {
    /// Must be called before anything is served: an early signal must not kill the process.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            interrupt: signal(SignalKind::interrupt())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.terminate.recv() => Signal::Terminate,
            _ = self.quit.recv() => Signal::Quit,
            _ = self.hangup.recv() => Signal::Hangup,
            _ = self.user2.recv() => Signal::User2,
        }
    }

    /// Does something before the process serves, and handles the signals of that time. `Err`: by
    /// this signal the process must not begin to serve.
    pub async fn until<T>(
        &mut self,
        done: impl Future<Output = T>,
    ) -> Result<(T, Vec<Signal>), Signal> {
        tokio::pin!(done);
        let mut early = Vec::new();
        loop {
            tokio::select! {
                biased;
                signal = self.next() => match signal {
                    Signal::Hangup | Signal::User2 => early.push(signal),
                    Signal::Terminate | Signal::Quit | Signal::Interrupt => return Err(signal),
                },
                done = &mut done => return Ok((done, early)),
            }
        }
    }
}
