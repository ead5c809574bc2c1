//! Servers that operators have drained and that still have sessions, so that the end of a drain is
//! logged too. Counts come in, ended drains come out.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::admin::ServerName;

#[derive(Debug, Default)]
pub struct DrainWatch(HashMap<ServerName, Begun>);

#[derive(Debug)]
struct Begun {
    by: String,
    at: Instant,
    sessions: usize,
}

/// A drain that is over because its server has no sessions any more.
#[derive(Debug, PartialEq, Eq)]
pub struct EndedDrain {
    pub server: ServerName,
    /// Who began the drain.
    pub by: String,
    pub took: Duration,
    /// How many sessions the server had at the beginning.
    pub sessions: usize,
}

impl DrainWatch {
    /// A second order for a server replaces the first.
    pub fn begin(&mut self, server: ServerName, by: String, sessions: usize, now: Instant) {
        let at = now;
        self.0.insert(server, Begun { by, at, sessions });
    }

    /// The server is used again.
    pub fn call_off(&mut self, server: &ServerName) {
        self.0.remove(server);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `sessions`: how many sessions a server has. `None`: the server is no longer drained.
    pub fn look(
        &mut self,
        now: Instant,
        sessions: impl Fn(&ServerName) -> Option<usize>,
    ) -> Vec<EndedDrain> {
        let mut ended = Vec::new();
        self.0.retain(|server, begun| match sessions(server) {
            Some(0) => {
                ended.push(EndedDrain {
                    server: server.clone(),
                    by: begun.by.clone(),
                    took: now.saturating_duration_since(begun.at),
                    sessions: begun.sessions,
                });
                false
            }
            still => still.is_some(),
        });
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(address: &str) -> ServerName {
        ServerName {
            upstream: "chat".to_owned(),
            address: address.to_owned(),
        }
    }

    #[test]
    fn a_drain_ends_once_when_its_server_has_no_sessions() {
        let (mut watch, start) = (DrainWatch::default(), Instant::now());
        watch.begin(server("a"), "uid 0".to_owned(), 3, start);
        let second = Duration::from_secs(1);
        assert_eq!(watch.look(start + second, |_| Some(2)), []);
        let ended = EndedDrain {
            server: server("a"),
            by: "uid 0".to_owned(),
            took: 2 * second,
            sessions: 3,
        };
        assert_eq!(watch.look(start + 2 * second, |_| Some(0)), [ended]);
        assert!(watch.is_empty());
        assert_eq!(watch.look(start + 3 * second, |_| Some(0)), []);
    }

    #[test]
    fn one_that_is_called_off_never_ends() {
        let (mut watch, now) = (DrainWatch::default(), Instant::now());
        for address in ["a", "b"] {
            watch.begin(server(address), String::new(), 3, now);
        }
        watch.call_off(&server("a"));
        assert_eq!(watch.look(now, |_| None), []);
        assert!(watch.is_empty());
    }
}
