//! Reports on the traffic: the access log, metrics, and errors in words that fit on a line.

pub mod access_log;
mod combined;
pub mod entry;
pub mod exposition;
mod line_buffer;
pub mod metrics;
pub mod operations;
pub mod process;
pub mod repeated;
pub mod stderr;
pub mod terminal;
pub mod trace;

/// The kind of an error and its first cause, without Pingora's description of the peer with all its
/// options, which fills a kilobyte for each error in the chain.
pub fn in_short(error: &pingora::Error) -> String {
    let root = error.root_cause();
    let said = match root.downcast_ref::<pingora::Error>() {
        // The chain consists of Pingora's own errors. The first of them has no cause, but a
        // context.
        Some(first) => first
            .context
            .as_ref()
            .map(|context| context.as_str().to_owned()),
        None => Some(root.to_string()),
    };
    let kind = error.etype().as_str();
    said.map_or_else(|| kind.to_owned(), |said| format!("{kind}: {said}"))
}
