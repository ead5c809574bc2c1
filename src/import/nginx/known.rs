//! The directives that are not translated one by one: what tunes something that is not here, and
//! what has no equivalent. A directive in none of these lists is one that nobody here knows.

mod tables;

use super::includes::UNREAD;
use super::levels::Levels;
use super::notes::Note;
use super::tree::Directive;
use tables::{IN_UPSTREAM, LEFT_OUT, NO_MEANING, PROTECTING, TRANSLATED};

pub const QUERY_PASSES: &str = "the query of a request passes unchanged";

/// Handlers that speak to servers in another way than by HTTP.
pub const FOREIGN: [&str; 5] = [
    "fastcgi_pass",
    "uwsgi_pass",
    "scgi_pass",
    "grpc_pass",
    "memcached_pass",
];

fn find(list: &[(&[&str], &'static str)], name: &str) -> Option<&'static str> {
    let found = list.iter().find(|(names, _)| names.contains(&name));
    found.map(|(_, why)| *why)
}

/// Whether it is a directive of nginx, as far as is known here.
pub fn is_known(name: &str) -> bool {
    TRANSLATED.contains(&name)
        || PROTECTING.contains(&name)
        || IN_UPSTREAM.contains(&name)
        || find(NO_MEANING, name).or(find(LEFT_OUT, name)).is_some()
}

/// What is to be said of a directive. `None`: somebody translates it.
pub fn note(directive: &Directive) -> Option<Note> {
    let name = directive.name.as_str();
    if name == "set" && ["$args", "$query_string"].contains(&directive.arg(0)) {
        return Some(Note::left_out(directive, QUERY_PASSES));
    }
    if name == "include" && is_pattern(directive) {
        let why = "no file here has such a name: is it the machine that nginx runs on?";
        return Some(Note::no_meaning(directive, why));
    }
    if name == "include" && is_harmless(directive) {
        return Some(Note::no_meaning(
            directive,
            "the servers' matter: prusik serves no files",
        ));
    }
    // Who turns a thing off that is not there has what was asked for.
    let is_off = matches!(directive.arg(0), "off" | "0" | "none") && directive.args.len() == 1;
    if TRANSLATED.contains(&name) {
        return None;
    }
    if let Some(why) = find(NO_MEANING, name) {
        return Some(Note::no_meaning(directive, why));
    }
    if let Some(why) = find(LEFT_OUT, name) {
        return Some(match is_off {
            true => Note::no_meaning(directive, why),
            false => Note::left_out(directive, why),
        });
    }
    let why = if name.contains("_by_lua") || name.starts_with("lua_") {
        "prusik runs no scripts"
    } else if ["fastcgi_", "uwsgi_", "scgi_", "grpc_", "memcached_"]
        .iter()
        .any(|of| name.starts_with(of))
    {
        return Some(Note::no_meaning(
            directive,
            "servers are reached by HTTP alone",
        ));
    } else if name.starts_with("auth_jwt") {
        "write auth.jwt into the route"
    } else if PROTECTING.contains(&name) {
        "prusik has no such protection"
    } else {
        "this import does not know it"
    };
    Some(Note::left_out(directive, why))
}

/// Whether a directive that nothing here can say keeps somebody out. A file that is not here may.
pub fn is_protecting(directive: &Directive) -> bool {
    match directive.name.as_str() {
        "include" => !is_harmless(directive) && !is_pattern(directive),
        name => (PROTECTING.contains(&name) || seems_protecting(name)) && directive.arg(0) != "off",
    }
}

/// Whether a directive of a module that is not known here keeps somebody out, by its name.
fn seems_protecting(name: &str) -> bool {
    let words = [
        "auth",
        "access",
        "deny",
        "modsecurity",
        "naxsi",
        "shib",
        "testcookie",
        "waf",
    ];
    !is_known(name)
        && !name.contains("_by_lua")
        && words
            .iter()
            .any(|word| name.to_ascii_lowercase().contains(word))
}

/// Whether a block, or one within it, keeps somebody out. `server`: where `@name`s are found.
pub fn keeps_out(server: &Levels<'_>, block: &[Directive]) -> bool {
    block.iter().any(|step| match step.name.as_str() {
        "deny" | "internal" | "limit_except" => true,
        "auth_basic" | "auth_request" => step.arg(0) != "off",
        "return" => step.arg(0).starts_with(['4', '5']),
        "try_files" => {
            let named = step.args.last().and_then(|last| server.named(last));
            // Its own `try_files` may lead back here.
            let is_other = |inner: &&Directive| inner.name != "try_files";
            named.is_some_and(|named| {
                let mut further = named.own().iter().filter(is_other);
                further.any(|inner| keeps_out(server, std::slice::from_ref(inner)))
            })
        }
        _ => is_protecting(step) || keeps_out(server, step.inner()),
    })
}

/// Whether one of these blocks has such a directive.
pub fn protects(levels: &Levels<'_>) -> bool {
    let mut held = PROTECTING.iter().filter_map(|name| levels.last(name));
    let seems = |step: &&Directive| step.name == "include" || seems_protecting(&step.name);
    held.any(is_protecting) || levels.all().filter(seems).any(is_protecting)
}

/// nginx takes it for nothing if no file fits.
fn is_pattern(include: &Directive) -> bool {
    include.arg(0).contains(['*', '?', '['])
}

fn is_harmless(include: &Directive) -> bool {
    let file = include.arg(0).rsplit('/').next();
    file.is_some_and(|file| UNREAD.contains(&file))
}

#[cfg(test)]
mod tests;
