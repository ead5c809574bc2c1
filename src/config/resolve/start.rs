//! Checks before a start what it needs of the machine: directories for files and sockets, and the
//! admin token.
//!
//! What may change, or depends on the user, is left to the start itself: a port in use, an address
//! that the machine does not have (yet), files that the service's user may not write. Anything
//! below `/run` is no error either, because systemd makes it for the service and removes it
//! afterwards.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::Errors;
use crate::config::error::ConfigError;
use crate::config::file::cursor::Cursor;
use crate::config::token::{Token, TokenError};
use crate::config::{AccessLog, Admin, Config, ListenAddress, Listener, LogOutput, Server};

/// Where systemd makes directories for the run time of a service.
const RUN_TIME: [&str; 2] = ["/run/", "/var/run/"];

/// What prevents a file or socket.
struct Obstacle {
    message: String,
    hint: String,
    /// The missing directory.
    missing: Option<PathBuf>,
}

impl Obstacle {
    fn at(self, at: Cursor<'_>) -> ConfigError {
        at.error(self.message).hint(self.hint)
    }
}

/// The parts of the file that could be resolved.
pub struct Parts<'a> {
    pub server: Option<&'a Server>,
    pub admin: Option<&'a Admin>,
    pub access_log: Option<&'a AccessLog>,
    pub listeners: &'a [Option<Listener>],
}

pub fn report(parts: &Parts<'_>, at: Cursor<'_>, errors: &mut Errors) {
    let listeners = parts.listeners.iter().enumerate();
    let addresses = listeners.filter_map(|(i, listener)| {
        let address = &listener.as_ref()?.address;
        Some((address, at.key("listeners").index(i).key("listen")))
    });
    sockets(addresses, errors);
    if let Some(server) = parts.server {
        pid_file(server, at.key("server").key("pid_file"), errors);
        if let Some(path) = &server.hand_over {
            let at = at.key("server").key("hand_over");
            errors.extend(in_the_way_of_socket(path).map(|obstacle| obstacle.at(at)));
        }
    }
    if let Some(log) = parts.access_log {
        access_log(log, at.key("access_log").key("path"), errors);
    }
    if let Some(settings) = parts.admin {
        admin(settings, at.key("admin"), errors);
    }
}

fn pid_file(server: &Server, at: Cursor<'_>, errors: &mut Errors) {
    if let Some(path) = &server.pid_file {
        errors.extend(in_the_way_of_file("pid_file", path).map(|obstacle| obstacle.at(at)));
    }
}

fn access_log(log: &AccessLog, at: Cursor<'_>, errors: &mut Errors) {
    if let LogOutput::File(path) = &log.output {
        errors.extend(in_the_way_of_file("access_log", path).map(|obstacle| obstacle.at(at)));
    }
}

fn sockets<'a>(
    sockets: impl Iterator<Item = (&'a ListenAddress, Cursor<'a>)>,
    errors: &mut Errors,
) {
    for (address, at) in sockets {
        if let ListenAddress::Unix(path) = address {
            errors.extend(in_the_way_of_socket(path).map(|obstacle| obstacle.at(at)));
        }
    }
}

fn admin(admin: &Admin, at: Cursor<'_>, errors: &mut Errors) {
    let at_listen = at.key("listen");
    let numbered = admin.listen.iter().enumerate();
    sockets(
        numbered.map(|(number, address)| (address, at_listen.index(number))),
        errors,
    );
    let Some(file) = &admin.token_file else {
        return;
    };
    let Err(error) = Token::read(file) else {
        return;
    };
    let hint = match &error {
        TokenError::Unreadable { cause, .. } if cause.kind() == ErrorKind::NotFound => {
            if is_of_run_time(file) {
                return;
            }
            format!(
                "make one: (umask 077; openssl rand -hex 32 > {})",
                file.display()
            )
        }
        TokenError::Unreadable { .. } => {
            "the user that prusik runs as must be able to read it".to_owned()
        }
        TokenError::Empty { .. } | TokenError::NoToken { .. } => {
            format!("make a new one: openssl rand -hex 32 > {}", file.display())
        }
    };
    errors.push(at.key("token_file").error(error.to_string()).hint(hint));
}

/// Directories that a start will need, and that systemd or an operator must make before.
pub fn missing_at_run_time(config: &Config) -> impl Iterator<Item = String> {
    let admin = config.admin.iter().flat_map(|admin| &admin.listen);
    let listeners = config.listeners.iter().map(|listener| &listener.address);
    let sockets = admin.chain(listeners).filter_map(|address| match address {
        ListenAddress::Unix(path) => Some(path),
        ListenAddress::Tcp(_) => None,
    });
    let log = match &config.access_log.output {
        LogOutput::File(path) => Some(path),
        _ => None,
    };
    let server = &config.server;
    let own = server.pid_file.iter().chain(&server.hand_over);
    let files = own.chain(log).chain(sockets);
    let mut missing: Vec<PathBuf> = files
        .filter(|path| is_of_run_time(path))
        .filter_map(|path| missing_directory(path)?.missing)
        .collect();
    missing.sort_unstable();
    missing.dedup();
    missing.into_iter().map(|directory| {
        let directory = directory.display();
        format!(
            "there is no directory {directory} yet: systemd makes it by RuntimeDirectory=; without \
             systemd, make it before the start"
        )
    })
}

fn is_of_run_time(path: &Path) -> bool {
    RUN_TIME.iter().any(|folder| path.starts_with(folder))
}

fn in_the_way_of_file(what: &str, path: &Path) -> Option<Obstacle> {
    if path.is_dir() {
        return Some(Obstacle {
            message: format!("{what}: {} is a directory", path.display()),
            hint: format!(
                "name a file in it, such as {}",
                path.join("prusik").display()
            ),
            missing: None,
        });
    }
    if fs::metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
        return Some(Obstacle {
            message: format!("{what}: {} is a socket", path.display()),
            hint: "name a file".to_owned(),
            missing: None,
        });
    }
    missing_directory(path).filter(|_| !is_of_run_time(path))
}

fn in_the_way_of_socket(path: &Path) -> Option<Obstacle> {
    if fs::symlink_metadata(path).is_ok_and(|meta| !meta.file_type().is_socket()) {
        return Some(Obstacle {
            message: format!(
                "cannot listen on {}: it is there, and no socket",
                path.display()
            ),
            hint: "name another path, or remove what is there".to_owned(),
            missing: None,
        });
    }
    missing_directory(path).filter(|_| !is_of_run_time(path))
}

/// A directory that we may not look into may contain what we look for.
fn missing_directory(path: &Path) -> Option<Obstacle> {
    let directory = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return None,
    };
    let found = fs::metadata(directory);
    let is_missing = match &found {
        Ok(meta) => !meta.is_dir(),
        Err(error) => matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
    };
    is_missing.then(|| Obstacle {
        message: format!(
            "{} cannot be made: there is no directory {}",
            path.display(),
            directory.display()
        ),
        hint: format!("make it: mkdir -p {}", directory.display()),
        missing: Some(directory.to_owned()),
    })
}
