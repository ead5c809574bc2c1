//! Turns what the operator wrote into what the program needs.
//!
//! ```text
//! text ─► reader ─► decode ─► resolve ─► Config
//!         source:   raw: the  references,
//!         a tree    file's    values,
//!         of places own shape defaults
//! ```
//!
//! [`schema::raw`] is also the source of the JSON Schema. The types below cannot represent an
//! invalid configuration. Every error has its position and a hint, and all errors are reported in
//! one run.

mod error;
mod file;
pub mod limits;
pub mod model;
pub mod policy;
mod resolve;
pub mod schema;
pub mod token;

pub use resolve::{answers_by_itself, is_met_at, page_type};

use std::fs;
use std::path::Path;
use std::str::{self, Utf8Error};
use std::time::SystemTime;

pub use error::{ConfigError, ConfigErrors, Position};
pub use limits::{AcceptProxy, ListenerLimits};
pub use model::*;
pub use policy::{BodySize, ErrorPages, Page, PathChange, RateKey, RequestRate, RetryOn};
pub use schema::json_schema;
pub use schema::raw::LogFormat;

pub use crate::forward::{Forwarded, HeaderRules};
pub use crate::net::ListenAddress;
pub use crate::websocket::origin::OriginPattern;

/// The file that is read if none is given.
pub const DEFAULT_FILE: &str = "/etc/prusik/prusik.yaml";

/// How much is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// The content of the file, and the certificates and pages that it names.
    File,
    /// Also what a start needs of the machine: directories and the admin token.
    Start,
}

/// Reads and checks the file at `path`. Errors show the path as it is given here.
pub fn load(path: &Path, extent: Extent) -> Result<Config, ConfigErrors> {
    let name = path.display().to_string();
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => return Err(ConfigErrors::unreadable(name, &error)),
    };
    match str::from_utf8(&bytes) {
        Ok(text) => check(&name, text, extent),
        Err(error) => Err(ConfigErrors::new(name, vec![not_utf8(&bytes, &error)])),
    }
}

/// Checks a text. `name` stands for the file in errors.
pub fn parse(name: &str, text: &str) -> Result<Config, ConfigErrors> {
    check(name, text, Extent::File)
}

/// The same, with as much of the machine as is asked for.
pub fn check(name: &str, text: &str, extent: Extent) -> Result<Config, ConfigErrors> {
    let (root, mut errors) = file::reader::read(text);
    let config = root.and_then(|mut root| {
        let file = file::decode::decode(&mut root, &mut errors)?;
        resolve::resolve(file, &root, extent, &mut errors)
    });
    match config {
        Some(config) if errors.is_empty() => Ok(config),
        _ => Err(ConfigErrors::new(name, errors)),
    }
}

/// The position of the first byte that is not valid UTF-8.
fn not_utf8(bytes: &[u8], error: &Utf8Error) -> ConfigError {
    let is_utf16 = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
    let (before, rest) = bytes.split_at(error.valid_up_to());
    let line = before
        .split(|byte| *byte == b'\n')
        .next_back()
        .unwrap_or_default();
    let position = Position {
        line: before.iter().filter(|byte| **byte == b'\n').count() + 1,
        col: String::from_utf8_lossy(line).chars().count() + 1,
    };
    let byte = rest.first().copied().unwrap_or_default();
    ConfigError::new(position, format!("the byte 0x{byte:02x} is not UTF-8")).hint(match is_utf16 {
        true => "the file is UTF-16: save it as UTF-8",
        false => "save the file as UTF-8: iconv -f latin1 -t utf-8 FILE",
    })
}

impl Config {
    /// Problems that do not prevent serving, but that an operator should know.
    pub fn warnings(&self) -> Vec<String> {
        let now = SystemTime::now();
        let listeners = self.listeners.iter().flat_map(|listener| {
            let warnings = listener.tls.iter().flat_map(|tls| tls.warnings(now));
            warnings.map(|warning| format!("listener {:?}: {warning}", listener.name))
        });
        let upstreams = self.upstreams.iter().filter_map(|upstream| {
            let warning = upstream.tls.as_ref()?.warning(now)?;
            Some(format!("upstream {:?}: {warning}", upstream.name))
        });
        listeners
            .chain(upstreams)
            .chain(resolve::shared_cookies(self))
            .chain(resolve::missing_at_run_time(self))
            .collect()
    }
}
