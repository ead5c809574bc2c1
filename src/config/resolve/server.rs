//! The settings of the whole process, and the operator's API.

use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::Duration;

use super::listeners::overlapping;
use super::{Errors, address};
use crate::config::file::cursor::Cursor;
use crate::config::schema::raw;
use crate::config::schema::units::{OptionalPeriod, Period, Section, Texts};
use crate::config::{Admin, Drain, ListenAddress, Server, TlsSessions, Tunnel};
use crate::net::overlap;
use crate::websocket::frames::may_be_sent;

const WINDOW: Duration = Duration::from_secs(30);
const DEADLINE: Duration = Duration::from_secs(60);

/// More threads than any machine has cores: a mistake that would use up the memory.
const THREADS_MAX: usize = 1024;

/// The close code "service restart" (IANA's registry of WebSocket close codes).
const SERVICE_RESTART: u16 = 1012;

pub fn server(raw: raw::Server, at: Cursor<'_>, errors: &mut Errors) -> Option<Server> {
    let Section(raw_drain) = raw.drain.unwrap_or(Section(raw::Drain::default()));
    let drain = drain(raw_drain, at.key("drain"), errors);
    let hand_over = match raw.hand_over {
        Some(text) => hand_over(&text, at.key("hand_over"), errors).map(Some),
        None => Some(None),
    };
    if raw
        .threads
        .is_some_and(|threads| threads.get() > THREADS_MAX)
    {
        errors.push(
            at.key("threads")
                .error(format!("\"threads\" in server is more than {THREADS_MAX}"))
                .hint("one for each core is the default: leave the key out"),
        );
        return None;
    }
    Some(Server {
        threads: match raw.threads {
            Some(threads) => threads.get(),
            None => available_parallelism().map_or(1, |cores| cores.get()),
        },
        pid_file: raw.pid_file.map(PathBuf::from),
        hand_over: hand_over?,
        tls_sessions: match raw.tls_sessions {
            Some(raw::TlsSessions::Tell) => TlsSessions::Tell,
            Some(raw::TlsSessions::Move) | None => TlsSessions::Move,
        },
        tunnel: match raw.tunnel {
            Some(raw::Tunnel::Pingora) => Tunnel::Pingora,
            Some(raw::Tunnel::Relay) | None => Tunnel::Relay,
        },
        drain: drain?,
    })
}

/// Checks that the socket of the hand-over is used for nothing else.
pub fn alone<'a>(
    server: &Server,
    mut others: impl Iterator<Item = &'a ListenAddress>,
    at: Cursor<'_>,
    errors: &mut Errors,
) {
    let is_it = |other: &ListenAddress| match (other, &server.hand_over) {
        (ListenAddress::Unix(other), Some(path)) => other == path,
        _ => false,
    };
    if others.any(is_it) {
        errors.push(
            at.error("hand_over has the address of a listener, or of the admin API")
                .hint("give it one of its own, such as unix:/run/prusik/hand-over.sock"),
        );
    }
}

fn hand_over(text: &str, at: Cursor<'_>, errors: &mut Errors) -> Option<PathBuf> {
    match address::listen(text) {
        Ok(ListenAddress::Unix(path)) => Some(path),
        Ok(ListenAddress::Tcp(_)) => {
            errors.push(
                at.error("hand_over is not a unix socket: descriptors go over no other")
                    .hint("write unix:/run/prusik/hand-over.sock"),
            );
            None
        }
        Err(wrong) => {
            errors.push(wrong.at(at));
            None
        }
    }
}

fn drain(raw: raw::Drain, at: Cursor<'_>, errors: &mut Errors) -> Option<Drain> {
    let window = raw.window.map_or(WINDOW, |OptionalPeriod(window)| {
        window.unwrap_or(Duration::ZERO)
    });
    let deadline = match raw.deadline {
        Some(Period(deadline)) => deadline,
        None => DEADLINE.max(window + WINDOW),
    };
    let code = match raw.code.map_or(Ok(SERVICE_RESTART), u16::try_from) {
        Ok(code) if may_be_sent(code) => Some(code),
        _ => {
            errors.push(
                at.key("code")
                    .error("\"code\" in drain is no close code that may be sent")
                    .hint("1012 says service restart, 1001 going away; 3000 to 4999 are yours"),
            );
            None
        }
    };
    if deadline < window {
        errors.push(
            at.key("deadline")
                .error("the deadline of the drain ends before its window")
                .hint("make it longer than the window, or leave it out"),
        );
        return None;
    }
    let delay = raw.delay.and_then(|OptionalPeriod(delay)| delay);
    Some(Drain {
        window,
        code: code?,
        deadline,
        delay: delay.unwrap_or(Duration::ZERO),
    })
}

pub fn admin(raw: raw::Admin, at: Cursor<'_>, errors: &mut Errors) -> Option<Admin> {
    let Texts(texts) = raw.listen.unwrap_or_default();
    if texts.is_empty() {
        if at.lacks("listen") || !at.key("listen").lost_items() {
            errors.push(
                at.key_error("admin has no \"listen\"")
                    .hint("write an address, such as listen: 127.0.0.1:9900"),
            );
        }
        return None;
    }
    let mut listen: Vec<ListenAddress> = Vec::with_capacity(texts.len());
    for (number, text) in texts.iter().enumerate() {
        let here = at.key("listen").index(number);
        let address = match address::listen(text) {
            Ok(address) => address,
            Err(wrong) => {
                errors.push(wrong.at(here));
                return None;
            }
        };
        if let Some(other) = listen.iter().find(|other| overlap(other, &address)) {
            errors.push(match *other == address {
                true => here
                    .error(format!("\"{address}\" is in the list already"))
                    .hint("leave one of the two out"),
                false => overlapping(here, &address, other),
            });
            return None;
        }
        if !is_local(&address) && at.lacks("token_file") {
            errors.push(
                here.error(format!("admin on {text} can be reached from elsewhere"))
                    .hint("name a token_file, or listen on 127.0.0.1 or a unix socket"),
            );
            return None;
        }
        listen.push(address);
    }
    Some(Admin {
        listen,
        token_file: raw.token_file.map(PathBuf::from),
    })
}

fn is_local(address: &ListenAddress) -> bool {
    match address {
        ListenAddress::Tcp(address) => address.ip().is_loopback(),
        ListenAddress::Unix(_) => true,
    }
}
