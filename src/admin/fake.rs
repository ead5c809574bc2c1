//! A process for tests of the API. It does nothing, and remembers what it was asked to do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Notify;

use super::view::{
    OperationCounts, Server, ServerState, Session, SessionPage, State, Status, Upstream,
};
use super::{Command, CommandOutcome, Control, ControlError, Request, ServerName, SessionFilter};

/// The only session.
pub const SESSION: &str = "0190aaaa-0000-7000-8000-000000000001";

#[derive(Debug, Default)]
pub struct Fake {
    pub is_stopping: AtomicBool,
    /// Whether the list of sessions has a second page, which shows the same session.
    pub has_two_pages: AtomicBool,
    /// In words.
    pub asked: Mutex<Vec<String>>,
    pub reload: Arc<Reload>,
    pub successor: Mutex<Option<u32>>,
}

/// Makes a reload take as long as the test wants.
#[derive(Debug, Default)]
pub struct Reload {
    pub began: Notify,
    pub may_end: Notify,
    pub ended: Notify,
}

impl Fake {
    fn note(&self, what: String) {
        self.asked.lock().push(what);
    }
}

#[async_trait]
impl Control for Fake {
    fn is_ready(&self) -> bool {
        !self.is_stopping.load(Ordering::Relaxed)
    }

    fn status(&self) -> Status {
        Status {
            version: "0.2.0".to_owned(),
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
            counts: OperationCounts::default(),
            bytes: 0,
            ended: BTreeMap::new(),
        }
    }

    fn upstreams(&self) -> Vec<Upstream> {
        vec![Upstream {
            name: "chat".to_owned(),
            balance: "round_robin".to_owned(),
            waiting: 0,
            waiting_ms: 0,
            servers: vec![Server {
                address: "[::1]:9080".to_owned(),
                state: ServerState::Up,
                weight: 1,
                backup: false,
                sessions: 1,
                requests: 0,
                handshakes: 0,
                handshakes_under_way: 0,
                handshakes_at_once: 20,
                messages: 0,
                history: vec![],
                usable: true,
                limit: None,
                connect_errors: 0,
                last_check: None,
            }],
        }]
    }

    fn sessions(&self, filter: &SessionFilter) -> Result<SessionPage, ControlError> {
        self.note(format!("sessions {filter:?}"));
        let has_next = self.has_two_pages.load(Ordering::Relaxed) && filter.after.is_none();
        Ok(SessionPage {
            sessions: vec![Session {
                id: SESSION.to_owned(),
                kind: "websocket".to_owned(),
                listener: "public".to_owned(),
                route: "chat".to_owned(),
                upstream: "chat".to_owned(),
                server: "[::1]:9080".to_owned(),
                client: "192.0.2.7".to_owned(),
                host: "chat.example".to_owned(),
                path: "/".to_owned(),
                user_agent: None,
                user: None,
                age_ms: 1,
                bytes_in: 2,
                bytes_out: 3,
                messages_in: 4,
                messages_out: 5,
            }],
            next: has_next.then(|| SESSION.to_owned()),
            total: Some(1),
        })
    }

    fn metrics(&self) -> String {
        "prusik_build_info{version=\"0.2.0\"} 1\n".to_owned()
    }

    fn successor(&self) -> Option<u32> {
        *self.successor.lock()
    }

    async fn command(&self, request: Request) -> CommandOutcome {
        match request.command {
            Command::Reload => {
                let reload = self.reload.clone();
                let done = tokio::spawn(async move {
                    reload.began.notify_one();
                    reload.may_end.notified().await;
                    reload.ended.notify_one();
                });
                done.await.unwrap();
                Ok(json!({ "changes": ["route \"chat\" is new"] }))
            }
            Command::Upgrade => Err(ControlError::refused(
                "the new binary does not start",
                "see its log",
            )),
            Command::Drain(server, order) => {
                self.note(format!("drain {server} {order:?}"));
                known(&server)?;
                Ok(json!({
                    "sessions": 1,
                    "window_ms": order.window.map_or(0, |window| window.as_millis() as u64),
                    "code": order.code.unwrap_or(1012),
                }))
            }
            Command::Enable(server) => {
                self.note(format!("enable {server}"));
                known(&server)?;
                Ok(json!({ "enabled": server.to_string() }))
            }
            Command::CloseUser { user, code, .. } => {
                self.note(format!("close user {user} {code:?}"));
                Ok(json!({ "user": user, "closed": 1 }))
            }
            Command::Close(id, code) => {
                self.note(format!("close {id} {code:?}"));
                match id.to_string() == SESSION {
                    true => Ok(json!({ "closed": id.to_string() })),
                    false => Err(ControlError::not_found(
                        "no such session",
                        "it may have ended",
                    )),
                }
            }
        }
    }
}

fn known(server: &ServerName) -> Result<(), ControlError> {
    if server.upstream == "chat" && server.address == "[::1]:9080" {
        return Ok(());
    }
    Err(ControlError::not_found(
        format!("no server {server}"),
        "there is chat/[::1]:9080",
    ))
}
