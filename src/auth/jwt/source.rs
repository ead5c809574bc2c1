//! Where keys come from: a file, or a URL.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;

use super::fetch::{self, FetchError};
use super::keys::{KeySet, Secrets};
use super::keys_error::KeysError;
use crate::auth::endpoint::Endpoint;

/// A longer file is another file, named by mistake.
const LARGEST: u64 = 1024 * 1024;

/// Shown (`Display`) as its path or URL.
#[derive(Debug, Clone, PartialEq)]
pub enum KeySource {
    File {
        path: PathBuf,
        /// As they were when the configuration was read.
        keys: Arc<KeySet>,
        /// `None`: the file is read with the configuration only.
        refresh: Option<Duration>,
    },
    Url {
        endpoint: Endpoint,
        refresh: Duration,
    },
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, .. } => path.display().fmt(f),
            Self::Url { endpoint, .. } => endpoint.fmt(f),
        }
    }
}

/// Why there are no keys from a source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("what is there {0}")]
    Keys(#[from] KeysError),
}

impl KeySource {
    pub fn refresh(&self) -> Option<Duration> {
        match self {
            Self::File { refresh, .. } => *refresh,
            Self::Url { refresh, .. } => Some(*refresh),
        }
    }

    /// The keys that came with the configuration.
    pub fn keys(&self) -> Option<&Arc<KeySet>> {
        match self {
            Self::File { keys, .. } => Some(keys),
            Self::Url { .. } => None,
        }
    }

    /// Whether both are the same URL.
    pub fn has_url_of(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Url { endpoint, .. }, Self::Url { endpoint: of, .. }) => endpoint.uri == of.uri,
            _ => false,
        }
    }

    /// Reads or fetches the keys now.
    pub async fn load(&self) -> Result<KeySet, SourceError> {
        match self {
            Self::File { path, .. } => {
                let path = path.clone();
                let read = spawn_blocking(move || read(&path)).await;
                let content = read.unwrap_or_else(|failed| Err(io::Error::other(failed)))?;
                Ok(KeySet::parse(&content, Secrets::Taken)?)
            }
            Self::Url { endpoint, .. } => {
                let content = fetch::get(endpoint).await?;
                Ok(KeySet::parse(&content, Secrets::Left)?)
            }
        }
    }
}

/// The content of a file of keys.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        // Opening a pipe without a writer would block.
        return Err(io::Error::other("not a regular file"));
    }
    let mut content = Vec::new();
    File::open(path)?.take(LARGEST).read_to_end(&mut content)?;
    Ok(content)
}
