//! What the translation of every part knows, and what a route is until it is written.

use std::collections::HashSet;
use std::path::PathBuf;

use super::levels::Levels;
use super::notes::Note;
use super::tree::Directive;
use super::upstreams::Upstreams;
use crate::import::yaml::{Map, Yaml};
use crate::route::PathMatch;

pub struct Context<'t> {
    /// Of the main file: relative files are its.
    pub folder: PathBuf,
    pub http: Levels<'t>,
    pub upstreams: Upstreams<'t>,
    /// What was said of all that has been translated.
    pub notes: Vec<Note>,
    pub said: HashSet<String>,
    /// nginx takes some clients for others than prusik does.
    pub has_other_clients: bool,
    /// The addresses of the server whose routes are made.
    pub listens: Vec<String>,
}

impl<'t> Context<'t> {
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Keeps the notes for stderr, and returns them as comments. What was said before, of a
    /// directive that holds in several places, is not said again.
    pub fn comments(&mut self, notes: Vec<Note>) -> Vec<String> {
        let mut comments = Vec::new();
        for note in notes {
            if self.said.insert(note.message()) {
                comments.push(note.comment());
                self.notes.push(note);
            }
        }
        comments
    }

    /// A directive of `http` by its name and the words that begin with these.
    pub fn zone(&self, directive: &'static str, zone: &str) -> Option<&'t Directive> {
        let begins = format!("zone={zone}:");
        self.http.every(directive).find(|found| {
            found
                .args
                .iter()
                .any(|word| word.starts_with(&begins) || *word == begins[..begins.len() - 1])
        })
    }
}

/// What a request must be like beside its path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition {
    pub hosts: Vec<String>,
    pub methods: Vec<String>,
    pub headers: Vec<(String, String)>,
    /// `Some(true)`: by TLS.
    pub is_tls: Option<bool>,
}

impl Condition {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Debug, Clone)]
pub struct Route {
    pub comments: Vec<String>,
    pub path: PathMatch,
    pub condition: Condition,
    /// All but `match`.
    pub body: Map,
}

impl Route {
    pub fn new(path: PathMatch, body: Map) -> Self {
        Self {
            comments: Vec::new(),
            path,
            condition: Condition::default(),
            body,
        }
    }

    /// Whether it serves every path under no other condition.
    pub fn takes_all(&self) -> bool {
        let is_any = match &self.path {
            PathMatch::Any => true,
            PathMatch::Prefix(prefix) => prefix == "/",
            PathMatch::Exact(_) | PathMatch::Regex(_) => false,
        };
        is_any && self.condition.is_empty()
    }
}

/// The status with which the route answers by itself, if it does so.
pub fn responds(body: &Map) -> Option<u16> {
    let Yaml::Map(respond) = body.get("respond")? else {
        return None;
    };
    let Yaml::Plain(status) = respond.get("status")? else {
        return None;
    };
    status.parse().ok()
}

pub fn respond(status: u16) -> Map {
    let respond = Map::default().with("status", Yaml::plain(status));
    Map::default().with("respond", respond)
}
