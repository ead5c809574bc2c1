//! A case as it is written in a file; `README.md` beside this says what the keys mean.

use serde::Deserialize;

/// What follows each attack on its connection.
pub const CANARY: &str = "GET /canary HTTP/1.1\r\nHost: canary.test\r\n\r\n";

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub name: String,
    pub source: String,
    line: Option<Text>,
    host: Option<Text>,
    #[serde(default)]
    fields: Vec<Text>,
    #[serde(default)]
    body: Text,
    /// Instead of the four above.
    send: Option<Text>,
    /// What the server answers to the attack; an ordinary answer when there is none.
    answer: Option<Text>,
    /// The server closes behind its answer.
    #[serde(default)]
    pub closes: bool,
    /// No canary follows: the client says that it sends nothing more.
    #[serde(default)]
    pub alone: bool,
    #[serde(with = "serde_yaml::with::singleton_map_recursive")]
    pub expect: Expect,
}

/// Each character is a byte.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Text {
    Plain(String),
    Repeated { times: usize, of: String },
    Parts(Vec<Text>),
}

impl Default for Text {
    fn default() -> Self {
        Self::Plain(String::new())
    }
}

/// What must come of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expect {
    /// prusik answers, closes the connection, and the server hears nothing.
    Refused(u16),
    /// As above, but the server may have got the beginning of a request, never a whole one.
    Cut(u16),
    /// prusik answers, and the connection serves on; the server hears nothing.
    Answered(u16),
    /// The server gets exactly this, and its ordinary answer goes back.
    Reaches(Request),
    /// The client gets exactly this.
    Gets(Response),
    /// The client gets so much, and then the end of the connection.
    Breaks(Response),
}

/// A request as the server must get it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    pub line: Option<String>,
    /// Every field but the forwarding ones that prusik sets; `Host: test` when not given.
    pub fields: Option<Vec<String>>,
    #[serde(default)]
    pub body: String,
}

/// A response as the client must get it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Response {
    pub status: u16,
    /// Heads of interim answers before it.
    #[serde(default)]
    pub interim: Vec<u16>,
    /// Every field but `Date`, `Connection` and `X-Request-Id`.
    #[serde(default)]
    pub fields: Vec<String>,
    #[serde(default)]
    pub body: String,
    /// The connection ends with it: the canary gets no answer.
    #[serde(default)]
    pub closed: bool,
}

/// What makes a case: nobody needs another with the same.
pub struct Attack {
    pub sent: Vec<u8>,
    pub answered: Option<Vec<u8>>,
}

impl Text {
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Plain(text) => bytes(text),
            Self::Repeated { times, of } => bytes(of).repeat(*times),
            Self::Parts(parts) => parts.iter().flat_map(Self::bytes).collect(),
        }
    }
}

pub fn bytes(text: &str) -> Vec<u8> {
    text.chars()
        .map(|byte| u8::try_from(byte).unwrap_or_else(|_| panic!("{byte:?} is no byte: {text:?}")))
        .collect()
}

impl Case {
    pub fn line(&self) -> Vec<u8> {
        self.line
            .as_ref()
            .map_or(b"GET / HTTP/1.1".to_vec(), Text::bytes)
    }

    pub fn attack(&self) -> Attack {
        let sent = match &self.send {
            Some(send) => {
                assert!(
                    self.line.is_none() && self.fields.is_empty() && self.host.is_none(),
                    "{}: `send` is all that is sent",
                    self.name
                );
                send.bytes()
            }
            None => self.request(),
        };
        Attack {
            sent,
            answered: self.answer.as_ref().map(Text::bytes),
        }
    }

    fn request(&self) -> Vec<u8> {
        let mut sent = self.line();
        sent.extend(b"\r\n");
        let host = self
            .host
            .as_ref()
            .map_or(b"Host: test".to_vec(), Text::bytes);
        if !host.is_empty() {
            sent.extend(host);
            sent.extend(b"\r\n");
        }
        for field in &self.fields {
            sent.extend(field.bytes());
            sent.extend(b"\r\n");
        }
        sent.extend(b"\r\n");
        sent.extend(self.body.bytes());
        sent
    }
}
