//! `errors` of a route: files with the bodies of prusik's own answers.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use super::Errors;
use super::scope::Scope;
use crate::config::Action;
use crate::config::error::ConfigError;
use crate::config::file::cursor::Cursor;
use crate::config::policy::{ErrorPages, Page};
use crate::config::schema::units::Ordered;

/// Pages are kept in memory.
const SIZE_MAX: u64 = 1024 * 1024;

/// What prusik answers by itself on a route.
const OWN: [u16; 14] = [
    400, 401, 403, 408, 413, 417, 421, 426, 429, 500, 501, 502, 503, 504,
];

const TYPES: [(&str, &str); 6] = [
    ("html", "text/html; charset=utf-8"),
    ("htm", "text/html; charset=utf-8"),
    ("txt", "text/plain; charset=utf-8"),
    ("json", "application/json"),
    ("xml", "application/xml"),
    ("svg", "image/svg+xml"),
];

/// Whether a route to servers may have a page for it.
pub fn answers_by_itself(status: u16) -> bool {
    OWN.contains(&status)
}

/// Of a page, by its ending.
pub fn page_type(page: &Path) -> Option<&'static str> {
    let extension = page.extension()?.to_str()?;
    let known = TYPES
        .iter()
        .find(|(ending, _)| extension.eq_ignore_ascii_case(ending));
    known.map(|(_, content_type)| *content_type)
}

/// `action`: of the route, if it is valid.
pub fn pages(
    raw: Option<Ordered<String>>,
    action: Option<&Action>,
    scope: Scope<'_>,
    errors: &mut Errors,
) -> Option<ErrorPages> {
    let at = scope.at.key("errors");
    let Ordered(raw) = raw.unwrap_or(Ordered(Vec::new()));
    let pages = raw.into_iter().enumerate().map(|(position, (key, file))| {
        let at = at.entry(position, &key);
        let status = status(&key, action, at).map_err(|error| errors.push(error));
        let page = page(&file, at).map_err(|error| errors.push(error));
        Some((status.ok()?, page.ok()?))
    });
    // Collected in two steps, because a short-circuit would hide the errors after the first.
    let pages: Vec<Option<(u16, Page)>> = pages.collect();
    pages.into_iter().collect()
}

fn status(key: &str, action: Option<&Action>, at: Cursor<'_>) -> Result<u16, ConfigError> {
    let status = key.parse().ok();
    let Some(status) = status.filter(|status| (400..=599).contains(status)) else {
        let error = at.key_error(format!("\"{key}\" is not the status of an error"));
        return Err(error.hint("write one from 400 to 599, such as 502"));
    };
    match action {
        Some(Action::Respond { status: own, body }) if *own == status => {
            if body.is_empty() {
                return Ok(status);
            }
            let error = at.key_error(format!("the route responds {status} with a body already"));
            Err(error.hint("take the body out of respond, or this page"))
        }
        // A file with one error in its action has enough to say.
        None => Ok(status),
        Some(_) if answers_by_itself(status) => Ok(status),
        Some(_) => {
            let error = at.key_error(format!("prusik never answers {status} by itself here"));
            let own: Vec<String> = OWN.iter().map(u16::to_string).collect();
            let own = own.join(", ");
            Err(error.hint(format!(
                "what servers answer passes as it is; there are {own}"
            )))
        }
    }
}

fn page(file: &str, at: Cursor<'_>) -> Result<Page, ConfigError> {
    let path = Path::new(file);
    let Some(content_type) = page_type(path) else {
        let error = at.error(format!("the type of {file} is not known by its ending"));
        let endings = TYPES.map(|(ending, _)| format!(".{ending}")).join(", ");
        return Err(error.hint(format!("there are {endings}")));
    };
    let body = read(path).map_err(|cause| {
        let error = at.error(format!("cannot read {file}: {cause}"));
        match cause.kind() {
            io::ErrorKind::NotFound => {
                error.hint("paths are relative to the directory that prusik was started in")
            }
            io::ErrorKind::PermissionDenied => {
                error.hint("the user that prusik runs as must be able to read it")
            }
            io::ErrorKind::FileTooLarge => {
                error.hint("link what is large, such as images, from another place")
            }
            _ => error.hint("name a file that can be read"),
        }
    })?;
    Ok(Page {
        content_type,
        body: body.into(),
    })
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Opening a pipe without a writer would block.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut body = Vec::new();
    File::open(path)?
        .take(SIZE_MAX + 1)
        .read_to_end(&mut body)?;
    if body.len() as u64 > SIZE_MAX {
        let what = "it has more than 1 MiB, and pages are kept in memory";
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    Ok(body)
}
