//! A timer that is seldom set: it is moved when it fires, or when something is due sooner, and not
//! with each byte that puts something off.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep};

#[derive(Debug, Default)]
pub(super) struct LazyTimer(Option<Pin<Box<Sleep>>>);

impl LazyTimer {
    /// Ready when `due` has come, with the present time.
    pub fn poll(&mut self, due: Option<Instant>, cx: &mut Context<'_>) -> Poll<Instant> {
        let Some(due) = due else {
            return Poll::Pending;
        };
        loop {
            let timer = match &mut self.0 {
                Some(timer) if timer.deadline() <= due && !timer.is_elapsed() => {
                    return Poll::Pending;
                }
                Some(timer) => {
                    timer.as_mut().reset(due);
                    timer
                }
                None => self.0.insert(Box::pin(tokio::time::sleep_until(due))),
            };
            ready!(timer.as_mut().poll(cx));
            let now = Instant::now();
            if due <= now {
                return Poll::Ready(now);
            }
        }
    }
}
