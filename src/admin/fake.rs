//! A process for tests of the API: it does nothing, and remembers what it was asked for.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use tokio::sync::Notify;
use uuid::Uuid;

use super::view::{
    DrainStarted, ReloadReport, Server, ServerState, Session, SessionPage, State, Status,
    UpgradeReport, Upstream,
};
use super::{Control, ControlError, ControlErrorKind, DrainOrder, ServerName, SessionFilter};

/// The one session that there is.
pub const SESSION: &str = "0190aaaa-0000-7000-8000-000000000001";

#[derive(Debug, Default)]
pub struct Fake {
    pub is_stopping: AtomicBool,
    /// The list of sessions has a second page, which shows the same one.
    pub has_two_pages: AtomicBool,
    /// In words.
    pub asked: Mutex<Vec<String>>,
    pub reload_began: Notify,
    pub reload_may_end: Notify,
    pub reload_ended: Notify,
}

impl Fake {
    fn note(&self, what: String) {
        self.asked.lock().unwrap().push(what);
    }
}

#[async_trait]
impl Control for Fake {
    fn is_ready(&self) -> bool {
        !self.is_stopping.load(Ordering::Relaxed)
    }

    fn status(&self) -> Status {
        Status {
            version: "0.1.0".to_owned(),
            pid: 1,
            uptime_ms: 1,
            state: State::Serving,
            config: "prusik.yaml".to_owned(),
            listeners: vec![],
            routes: vec![],
            upstreams: self.upstreams(),
            sessions: 1,
            connections: 0,
            drains: vec![],
            operations: vec![],
        }
    }

    fn upstreams(&self) -> Vec<Upstream> {
        vec![Upstream {
            name: "chat".to_owned(),
            balance: "round_robin".to_owned(),
            servers: vec![Server {
                address: "[::1]:9080".to_owned(),
                state: ServerState::Up,
                weight: 1,
                backup: false,
                sessions: 1,
                requests: 0,
                handshakes: 0,
                messages: 0,
                history: vec![],
            }],
        }]
    }

    fn sessions(&self, filter: &SessionFilter) -> SessionPage {
        self.note(format!("sessions {filter:?}"));
        let has_next = self.has_two_pages.load(Ordering::Relaxed) && filter.after.is_none();
        SessionPage {
            sessions: vec![Session {
                id: SESSION.to_owned(),
                listener: "public".to_owned(),
                route: "chat".to_owned(),
                upstream: "chat".to_owned(),
                server: "[::1]:9080".to_owned(),
                client: "192.0.2.7".to_owned(),
                host: "chat.example".to_owned(),
                path: "/".to_owned(),
                user_agent: None,
                age_ms: 1,
                bytes_in: 2,
                bytes_out: 3,
                messages_in: 4,
                messages_out: 5,
            }],
            next: has_next.then(|| SESSION.to_owned()),
        }
    }

    fn metrics(&self) -> String {
        "prusik_build_info{version=\"0.1.0\"} 1\n".to_owned()
    }

    async fn reload(&self) -> Result<ReloadReport, ControlError> {
        self.reload_began.notify_one();
        self.reload_may_end.notified().await;
        self.reload_ended.notify_one();
        Ok(ReloadReport {
            changes: vec!["route \"chat\" is new".to_owned()],
        })
    }

    async fn upgrade(&self) -> Result<UpgradeReport, ControlError> {
        Err(ControlError {
            kind: ControlErrorKind::Refused,
            error: "the new binary does not start".to_owned(),
            hint: "see its log".to_owned(),
        })
    }

    fn drain(&self, server: &ServerName, order: DrainOrder) -> Result<DrainStarted, ControlError> {
        self.note(format!("drain {server} {order:?}"));
        known(server)?;
        Ok(DrainStarted {
            sessions: 1,
            window_ms: order.window.map_or(0, |window| window.as_millis() as u64),
            code: order.code.unwrap_or(1012),
        })
    }

    fn enable(&self, server: &ServerName) -> Result<(), ControlError> {
        self.note(format!("enable {server}"));
        known(server)
    }

    fn close(&self, id: Uuid, code: Option<u16>) -> Result<(), ControlError> {
        self.note(format!("close {id} {code:?}"));
        if id.to_string() == SESSION {
            return Ok(());
        }
        Err(ControlError {
            kind: ControlErrorKind::NotFound,
            error: "no such session".to_owned(),
            hint: "it may have ended".to_owned(),
        })
    }
}

fn known(server: &ServerName) -> Result<(), ControlError> {
    if server.upstream == "chat" && server.address == "[::1]:9080" {
        return Ok(());
    }
    Err(ControlError {
        kind: ControlErrorKind::NotFound,
        error: format!("no server {server}"),
        hint: "there is chat/[::1]:9080".to_owned(),
    })
}
