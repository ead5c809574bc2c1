//! `auth.basic`: the file of users is read here, so that `check`, a start and a reload report the
//! same errors.

use std::path::Path;

use crate::auth::Basic;
use crate::auth::basic::{BadLine, Users};
use crate::config::file::cursor::Cursor;
use crate::config::resolve::Errors;
use crate::config::schema::raw;
use crate::tls::{FileError, read_file};

/// As many wrong lines are reported; who has named another kind of file has as many as it has.
const REPORTED: usize = 20;

pub fn basic(raw: raw::Basic, label: &str, at: Cursor<'_>, errors: &mut Errors) -> Option<Basic> {
    let users = match &raw.users {
        Some(file) => users(file, label, at.key("users"), errors),
        None => {
            if at.lacks("users") {
                let error = at.key_error(format!("\"basic\" of {label} names no file of users"));
                errors.push(error.hint("write users: htpasswd; htpasswd -B makes such files"));
            }
            None
        }
    };
    let realm = raw.realm.as_deref().unwrap_or("restricted");
    let is_visible = !realm.chars().any(char::is_control);
    if !is_visible {
        let error = at.key("realm").error("a realm has no control characters");
        errors.push(error.hint("write a few words, such as realm: staff"));
    }
    Basic::new(users?, realm).filter(|_| is_visible)
}

fn users(file: &str, label: &str, at: Cursor<'_>, errors: &mut Errors) -> Option<Users> {
    let content = match read_file(Path::new(file)) {
        Ok(content) => content,
        Err(error) => {
            errors.push(unreadable(&error, label, at));
            return None;
        }
    };
    let bad = match Users::parse(&content) {
        Ok(users) => return Some(users),
        Err(bad) => bad,
    };
    for BadLine { line, why } in bad.iter().take(REPORTED) {
        let place = line.map_or_else(|| file.to_owned(), |line| format!("{file}, line {line}"));
        let error = at.error(format!("{label}: {place}: {why}"));
        errors.push(error.hint(why.remedy()));
    }
    if let Some(more) = bad.len().checked_sub(REPORTED).filter(|more| *more > 0) {
        errors.push(at.error(format!("{label}: {file}: and {more} more lines like these")));
    }
    None
}

fn unreadable(error: &FileError, label: &str, at: Cursor<'_>) -> crate::config::ConfigError {
    let told = at.error(format!("{label}: {error}"));
    match error.remedy() {
        Some(remedy) => told.hint(remedy),
        None => told,
    }
}
