//! Serves the API on a socket: HTTP/1.1, one task for each connection, and limits for each
//! connection.
//!
//! No paths: those are in [`super::api`].

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use log::{debug, error, warn};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};

use super::Control;
use super::api::Api;
use super::guard::Access;
use super::stall::{Bounds, StallBound};
use crate::limits::descriptors::Descriptor;
use crate::net::{Accepted, AsyncListener};
use crate::observe::repeated::{self, Kind};

/// Further connections wait in the kernel until one of these has its answer.
const CONNECTIONS: usize = 64;
/// How long a whole head may take. An idle connection is closed after this time.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// A caller that takes nothing of its answer for this long is given up, and one that takes it very
/// slowly too: the largest answer, some megabytes of metrics, takes a minute on a slow line.
const BOUNDS: Bounds = Bounds {
    stall: Duration::from_secs(10),
    answer: Duration::from_secs(60),
};
/// Large enough for the largest head.
const HEAD_SIZE: usize = 32 * 1024;
/// Without descriptors, a new attempt at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long calls that are under way may take at a stop. One of them may be the order to stop.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// How long a caller that has connected just before a stop has for its call. Another process may
/// already serve the same socket, but cannot answer on this connection.
const FIRST_CALL: Duration = Duration::from_secs(1);

/// How far the end of serving has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Serving {
    Serves,
    /// No more connections are accepted. Open connections may still send calls.
    AcceptsNoMore,
    /// Calls that are under way are answered, then serving ends.
    Ends,
}

/// Each is dropped when it has come true.
pub struct Milestones {
    pub accepts_no_more: oneshot::Sender<Infallible>,
    /// And every connection that was accepted is closed: no call comes here any more.
    pub hears_no_more: oneshot::Sender<Infallible>,
}

/// Returns when `serving` says so (or its sender is gone) and all calls under way are answered.
pub async fn serve(
    acceptor: AsyncListener,
    control: Arc<dyn Control>,
    access: Access,
    mut serving: watch::Receiver<Serving>,
    milestones: Milestones,
) {
    let api = Api::new(control, access);
    let mut connections = JoinSet::new();
    let crowded = watch::Sender::new(false);
    loop {
        // While all slots are taken, no connection is kept between two calls.
        crowded.send_if_modified(|crowded| {
            let is_full = connections.len() >= CONNECTIONS;
            std::mem::replace(crowded, is_full) != is_full
        });
        let slots = Slots {
            serving: serving.clone(),
            crowded: crowded.subscribe(),
        };
        tokio::select! {
            () = has_come_to(&mut serving, Serving::AcceptsNoMore) => break,
            Some(ended) = connections.join_next() => report(ended),
            accepted = acceptor.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok(Accepted::Tcp(stream, ends)) => {
                    let peer = ends.map(|(peer, _)| peer.to_string());
                    let api = api.for_caller(peer.unwrap_or_default());
                    connections.spawn(converse(stream, api, slots));
                }
                Ok(Accepted::Unix(stream)) => {
                    let api = api.for_caller(peer_of(&stream));
                    connections.spawn(converse(stream, api, slots));
                }
                Err(error) => {
                    let what = "admin: cannot accept";
                    repeated::warn(Kind::of(what), format!("{what}: {error}"));
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop((acceptor, milestones.accepts_no_more));
    let mut hears_no_more = Some(milestones.hears_no_more);
    loop {
        if connections.is_empty() {
            drop(hears_no_more.take());
        }
        tokio::select! {
            () = has_come_to(&mut serving, Serving::Ends) => break,
            Some(ended) = connections.join_next() => report(ended),
        }
    }
    let all_ended = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    if timeout(STOP_GRACE, all_ended).await.is_err() {
        warn!("admin: calls were still in flight after {STOP_GRACE:?}");
    }
    connections.shutdown().await;
}

/// The user and process that have connected to a unix socket, from the kernel.
fn peer_of(stream: &UnixStream) -> String {
    match stream.peer_cred() {
        Ok(peer) => {
            let pid = peer.pid().map(|pid| format!(" (pid {pid})"));
            format!(
                "uid {}{} by unix socket",
                peer.uid(),
                pid.unwrap_or_default()
            )
        }
        Err(_) => "somebody by unix socket".to_owned(),
    }
}

/// What a connection learns of the others.
struct Slots {
    serving: watch::Receiver<Serving>,
    /// Whether every slot is taken.
    crowded: watch::Receiver<bool>,
}

/// Serves the calls of one connection until it closes.
async fn converse<S>(stream: S, api: Api, mut slots: Slots)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let _descriptor = Descriptor::hold();
    let asked = Notify::new();
    let service = service_fn(|request| {
        asked.notify_one();
        let api = &api;
        async move { Ok::<_, Infallible>(api.answer(request).await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_DEADLINE)
            .max_buf_size(HEAD_SIZE)
            .serve_connection(TokioIo::new(StallBound::new(stream, BOUNDS)), service)
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = last_call(&mut slots, &asked) => {
            // hyper closes the connection if no call has begun, and answers one that has.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    // A caller's mistake (a bad head, a reset) ends only its own connection.
    if let Err(error) = ended {
        debug!("admin: a connection broke: {error}");
    }
}

/// Returns when no more connections are accepted or all slots are taken, after the first call or
/// the time for it.
async fn last_call(slots: &mut Slots, asked: &Notify) {
    tokio::select! {
        () = has_come_to(&mut slots.serving, Serving::AcceptsNoMore) => {}
        Ok(_) = slots.crowded.wait_for(|crowded| *crowded) => {}
    }
    let _ = timeout(FIRST_CALL, asked.notified()).await;
}

async fn has_come_to(serving: &mut watch::Receiver<Serving>, wanted: Serving) {
    let _ = serving.wait_for(|serving| *serving >= wanted).await;
}

fn report(ended: Result<(), JoinError>) {
    if let Err(panic) = ended {
        error!("admin: a connection ended badly: {panic}");
    }
}

#[cfg(test)]
mod tests;
