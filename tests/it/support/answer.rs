//! What an origin does with a request: bytes, pauses, and how it ends.

use std::io;
use std::time::Duration;

use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Pattern;
use super::wire::{Head, Wire};

/// Written piece by piece; by default the connection then waits for the next request.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    steps: Vec<Step>,
    pub(super) then: Then,
}

#[derive(Debug, Clone)]
enum Step {
    Send(Vec<u8>),
    Pattern(Pattern),
    Wait(Duration),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Then {
    #[default]
    Next,
    Close,
    Hang,
    Echo,
}

impl Answer {
    /// 200 with this text.
    pub fn text(text: &str) -> Self {
        Self::status(200, &[], text)
    }

    /// A response with a Content-Length.
    pub fn status(status: u16, fields: &[&str], body: &str) -> Self {
        let mut head = format!("HTTP/1.1 {status} Answer\r\n");
        for field in fields {
            head.push_str(&format!("{field}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
        Self::raw(head)
    }

    /// These bytes.
    pub fn raw(bytes: impl AsRef<[u8]>) -> Self {
        Self::default().send(bytes)
    }

    /// Not a byte: the connection closes.
    pub fn nothing() -> Self {
        Self::default().close()
    }

    /// Not a byte: the connection stays.
    pub fn silence() -> Self {
        Self {
            then: Then::Hang,
            ..Self::default()
        }
    }

    /// 101 as RFC 6455 wants it, then an echo that knows `whoami` and `close CODE`.
    pub fn upgrade(request: &Head) -> Self {
        Self::upgrade_with(request, &[], b"")
    }

    /// The 101 with more fields, and bytes in the same packet.
    pub fn upgrade_with(request: &Head, fields: &[&str], behind: &[u8]) -> Self {
        let key = request.field("sec-websocket-key").unwrap_or_default();
        let accept = derive_accept_key(key.as_bytes());
        Self::upgrade_accepting(&accept, fields, behind)
    }

    /// The 101 with whatever Sec-WebSocket-Accept.
    pub fn upgrade_accepting(accept: &str, fields: &[&str], behind: &[u8]) -> Self {
        let mut head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n"
        );
        for field in fields {
            head.push_str(&format!("{field}\r\n"));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(behind);
        Self {
            then: Then::Echo,
            ..Self::raw(bytes)
        }
    }

    pub fn send(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.steps.push(Step::Send(bytes.as_ref().to_vec()));
        self
    }

    pub fn pattern(mut self, length: u64) -> Self {
        self.steps.push(Step::Pattern(Pattern::new(length)));
        self
    }

    /// A server that takes its time is what is tested; nothing is synchronised by this.
    pub fn wait(mut self, pause: Duration) -> Self {
        self.steps.push(Step::Wait(pause));
        self
    }

    /// The same, after a pause.
    pub fn after(mut self, pause: Duration) -> Self {
        self.steps.insert(0, Step::Wait(pause));
        self
    }

    /// Then this one, whose end is the end of both.
    pub fn followed_by(mut self, next: Self) -> Self {
        self.steps.extend(next.steps);
        self.then = next.then;
        self
    }

    pub fn close(mut self) -> Self {
        self.then = Then::Close;
        self
    }

    pub fn hang(mut self) -> Self {
        self.then = Then::Hang;
        self
    }

    pub(super) async fn give(self, wire: &mut Wire) -> io::Result<()> {
        for step in self.steps {
            match step {
                Step::Send(bytes) => wire.send(bytes).await?,
                Step::Wait(pause) => tokio::time::sleep(pause).await,
                Step::Pattern(mut pattern) => loop {
                    let part = pattern.next(256 * 1024);
                    if part.is_empty() {
                        break;
                    }
                    wire.send(part).await?;
                },
            }
        }
        Ok(())
    }
}
