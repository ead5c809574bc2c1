//! The tasks of the one process that serves: it answers operators and feeds systemd's watchdog.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::admin_thread::{Server, Serving};
use super::process::Process;
use super::{systemd, visits};

/// How long an ending process waits for the last answers of its admin API, including calls that
/// have just begun.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

pub struct PrimaryTasks {
    admin: watch::Sender<Serving>,
    servers: Vec<Server>,
    watchdog: JoinHandle<()>,
    /// `None`: the file has no `server.hand_over`.
    visits: Option<JoinHandle<()>>,
}

impl PrimaryTasks {
    pub fn begin(process: &Arc<Process>) -> Self {
        let admin = watch::Sender::new(Serving::Serves);
        let servers = process.serve_admin(&admin);
        let visits = process.hand_over().cloned();
        let visits = visits.map(|socket| tokio::spawn(visits::serve(socket, process.clone())));
        Self {
            admin,
            visits,
            servers,
            watchdog: tokio::spawn(systemd::feed_watchdog()),
        }
    }

    /// This process stops: a new process that was to serve has ended or stops too.
    pub fn feed_watchdog(&mut self) {
        if self.watchdog.is_finished() {
            self.watchdog = tokio::spawn(systemd::feed_watchdog());
        }
    }

    /// Returns when no operator is accepted here any more. Calls that have begun continue.
    pub async fn yield_to_another(&mut self) {
        // At once, because the watchdog would not notice a hanging new process if the old one fed
        // it.
        self.watchdog.abort();
        self.end_visits().await;
        self.admin.send_replace(Serving::AcceptsNoMore);
        for server in &mut self.servers {
            server.accepts_no_more().await;
        }
    }

    /// Completes when no operator can ask anything here any more, or would have to be quick.
    pub fn hears_no_more(&mut self) -> impl Future<Output = ()> + Send + use<> {
        let all: Vec<_> = self.servers.iter_mut().map(Server::hears_no_more).collect();
        async move {
            let _ = tokio::time::timeout(LAST_ANSWERS, join_all(all)).await;
        }
    }

    async fn end_visits(&mut self) {
        if let Some(visits) = self.visits.take() {
            visits.abort();
            // The socket is closed when the task has ended.
            let _ = visits.await;
        }
    }

    /// Waits for answers that are under way, but not longer than they need.
    pub async fn end(mut self) {
        self.watchdog.abort();
        self.end_visits().await;
        self.admin.send_replace(Serving::Ends);
        let all = async {
            for server in self.servers {
                server.ended().await;
            }
        };
        let _ = tokio::time::timeout(LAST_ANSWERS, all).await;
    }
}
