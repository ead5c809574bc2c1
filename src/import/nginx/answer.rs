//! `return`, and `rewrite` that redirects: answers that prusik gives itself. And `if`, as far as a
//! route's conditions can say the same.

use super::context::{Condition, respond};
use super::known;
use super::levels::Levels;
use super::locations::{encoded, escaped};
use super::notes::Note;
use super::tree::Directive;
use super::variables::{Variables, names};
use crate::import::yaml::{Map, Yaml};
use crate::route::{HostPattern, METHODS, PathMatch};
use http::{HeaderName, HeaderValue};

pub const QUERY_PASSES: &str = "the query of a request passes unchanged";

/// An answer, for the paths that it is for. `None`: for those of the block that it stands in.
#[derive(Debug)]
pub struct Answer {
    pub path: Option<PathMatch>,
    pub body: Map,
}

/// What a `return` answers. `levels`: where it stands.
pub fn returned(
    directive: &Directive,
    levels: &Levels<'_>,
    variables: &Variables,
    notes: &mut Vec<Note>,
) -> Map {
    let (code, text) = match directive.args.as_slice() {
        [code] if code.parse::<u16>().is_ok() => (code.as_str(), None),
        [url] => ("302", Some(url.as_str())),
        [code, text, ..] => (code.as_str(), Some(text.as_str())),
        [] => ("404", None),
    };
    let status: u16 = code.parse().unwrap_or(404);
    if matches!(status, 301 | 302 | 303 | 307 | 308)
        && let Some(url) = text
    {
        return match variables.template(url) {
            Ok(to) if to.chars().any(char::is_control) => {
                notes.push(Note::left_out(
                    directive,
                    "a target has no control characters",
                ));
                respond(501)
            }
            Ok(to) => redirect(&to, status),
            Err(unknown) => {
                notes.push(Note::left_out(directive, unknown.why()));
                respond(501)
            }
        };
    }
    if status == 444 {
        notes.push(Note::left_out(
            directive,
            "no connection is closed without an answer: 403",
        ));
        return respond(403);
    }
    if !(200..=599).contains(&status) {
        notes.push(Note::left_out(directive, "no such status can be answered"));
        return respond(501);
    }
    let mut answer = Map::default().with("status", Yaml::plain(status));
    let body = text.unwrap_or_default();
    match variables.literal(body) {
        Some(body) if !body.is_empty() && !matches!(status, 204 | 205 | 304) => {
            answer.set("body", Yaml::text(body));
        }
        Some(_) => {}
        None => notes.push(Note::left_out(
            directive,
            "a body has no variables: it is empty",
        )),
    }
    let mut body = Map::default().with("respond", answer);
    let has_body = text.is_some_and(|text| !text.is_empty());
    let is_value = |kind: &&str| HeaderValue::from_str(kind).is_ok() && !kind.contains('$');
    if let Some(kind) = levels
        .value("default_type")
        .filter(|kind| has_body && is_value(kind))
    {
        let set = Map::default().with("Content-Type", Yaml::text(kind));
        let response = Map::default().with("set", set);
        body.set("headers", Map::default().with("response", response));
    }
    body
}

pub fn redirect(to: &str, status: u16) -> Map {
    let mut redirect = Map::default().with("to", Yaml::text(to));
    // 308 is our own default, but a file that is read by people says it.
    redirect.set("status", Yaml::plain(status));
    Map::default().with("redirect", redirect)
}

/// The status with which a `rewrite` redirects. `None`: it changes the path of the request.
pub fn redirects(rewrite: &Directive) -> Option<u16> {
    let to = rewrite.arg(1);
    match rewrite.arg(2) {
        "permanent" => Some(301),
        "redirect" => Some(302),
        _ if to.starts_with("http://")
            || to.starts_with("https://")
            || to.starts_with("$scheme") =>
        {
            Some(302)
        }
        _ => None,
    }
}

/// A `rewrite` that redirects. Captures are only the rest of the path behind a prefix.
pub fn rewritten(
    rewrite: &Directive,
    status: u16,
    variables: &Variables,
    notes: &mut Vec<Note>,
) -> Option<Answer> {
    let found = rewrite_answer(rewrite.arg(0), rewrite.arg(1), status, variables);
    if found.is_none() {
        let why = "a redirect keeps the rest of a path, and no other parts of it";
        notes.push(Note::left_out(rewrite, why));
    }
    found
}

fn rewrite_answer(regex: &str, to: &str, status: u16, variables: &Variables) -> Option<Answer> {
    // nginx adds the query unless the target ends with `?`, which is not a part of it.
    let (to, adds_query) = match to.strip_suffix('?') {
        Some(to) => (to, false),
        None => (to, !to.contains("$request_uri")),
    };
    let query = if adds_query && !to.contains('?') {
        "$is_args$args"
    } else {
        ""
    };
    let template = |to: &str| variables.template(to).ok();
    if matches!(
        regex,
        "^" | ".*" | "^.*" | "^.*$" | "^(.*)$" | "^/(.*)$" | "^/" | "(.*)" | "^(.*)"
    ) {
        // The capture is the path: with or without its slash.
        let whole = match regex {
            "^/(.*)$" => to.replace("/$1", "$uri"),
            _ => to.replace("$1", "$uri"),
        };
        if whole.contains("$1") {
            return None;
        }
        return Some(Answer {
            path: None,
            body: redirect(&format!("{}{query}", template(&whole)?), status),
        });
    }
    let anchored = regex.strip_prefix('^')?;
    for ending in ["/(.*)$", "(/.*)$", "(/.*)?$", "/?(.*)$", "/(.*)"] {
        let Some(prefix) = anchored.strip_suffix(ending).and_then(literal) else {
            continue;
        };
        let whole = match ending.starts_with("(/") {
            true => to.replace("$1", "$uri"),
            false => to.replace("/$1", "$uri"),
        };
        if whole.contains("$1") || whole.contains("$2") || prefix.is_empty() {
            return None;
        }
        let needs_slash = ending == "/(.*)$" || ending == "(/.*)$" || ending == "/(.*)";
        let path = if needs_slash {
            format!("{prefix}/")
        } else {
            prefix.clone()
        };
        let mut body = Map::default();
        if whole.contains("$uri") {
            body.set("strip_prefix", Yaml::text(prefix));
        }
        body.append(redirect(&format!("{}{query}", template(&whole)?), status));
        return Some(Answer {
            path: Some(PathMatch::Prefix(path)),
            body,
        });
    }
    let exact = anchored.strip_suffix('$').and_then(literal)?;
    if to.contains("$1") {
        return None;
    }
    let body = redirect(&format!("{}{query}", template(to)?), status);
    let path = Some(PathMatch::Exact(exact));
    Some(Answer { path, body })
}

/// The path that the expression stands for, if it has no signs but escaped ones.
fn literal(regex: &str) -> Option<String> {
    let mut path = String::new();
    let mut letters = regex.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => path.push(
                letters
                    .next()
                    .filter(|letter| !letter.is_ascii_alphanumeric())?,
            ),
            '.' | '*' | '+' | '?' | '(' | ')' | '[' | ']' | '{' | '}' | '|' | '^' | '$' => {
                return None;
            }
            letter => path.push(letter),
        }
    }
    path.starts_with('/').then(|| encoded(&path))
}

/// What an `if` does, if it answers under a condition that routes know.
pub fn conditional(
    directive: &Directive,
    levels: &Levels<'_>,
    variables: &Variables,
    notes: &mut Vec<Note>,
) -> Option<(Condition, Answer)> {
    let inner = levels.within(directive.inner());
    let condition = condition(directive)?;
    let mut answer = None;
    for step in directive.inner() {
        match step.name.as_str() {
            "return" => {
                let body = returned(step, &inner, variables, notes);
                answer = Some(Answer { path: None, body });
                break;
            }
            "rewrite" => {
                let status = redirects(step)?;
                answer = Some(rewritten(step, status, variables, notes)?);
                break;
            }
            "add_header" | "default_type" | "access_log" | "more_set_headers" => {}
            _ => return None,
        }
    }
    Some((condition, answer?))
}

fn condition(directive: &Directive) -> Option<Condition> {
    let (variable, operator, value) = words(directive)?;
    let mut condition = Condition::default();
    let is_name = |value: &str| !value.is_empty() && !value.contains('$');
    match (variable.as_str(), operator.as_str()) {
        ("host" | "http_host", "=") if is_name(&value) => condition.hosts.push(value),
        ("request_method", "=") => condition.methods.push(value),
        ("request_method", "~" | "~*") => {
            let list = value.strip_prefix("^(")?.strip_suffix(")$")?;
            condition.methods.extend(list.split('|').map(str::to_owned));
        }
        ("scheme", "=") => condition.is_tls = Some(value == "https"),
        ("scheme", "!=") => condition.is_tls = Some(value != "https"),
        ("https", "=") => condition.is_tls = Some(value == "on"),
        ("https", "!=") => condition.is_tls = Some(value != "on"),
        (name, "=") if is_name(&value) => {
            let header = name.strip_prefix("http_")?.replace('_', "-");
            condition.headers.push((header, value));
        }
        _ => return None,
    }
    let is_valid = condition
        .methods
        .iter()
        .all(|method| METHODS.contains(&method.as_str()))
        && condition
            .hosts
            .iter()
            .all(|host| HostPattern::parse(host).is_ok())
        && condition.headers.iter().all(|(name, value)| {
            HeaderName::from_bytes(name.as_bytes()).is_ok()
                && HeaderValue::from_str(value).is_ok()
                && value.trim() == value
        });
    is_valid.then_some(condition)
}

/// The variable without its `$`, the operator (none: empty) and the value of an `if`.
fn words(directive: &Directive) -> Option<(String, String, String)> {
    let text = directive.args.join(" ");
    let text = text.strip_prefix('(')?.strip_suffix(')')?.trim();
    let (variable, rest) = text.split_once(' ').unwrap_or((text, ""));
    let (operator, value) = rest
        .trim_start()
        .split_once(' ')
        .unwrap_or((rest.trim(), ""));
    let variable = variable.strip_prefix('$')?.trim_matches(['{', '}']);
    Some((
        variable.to_owned(),
        operator.to_owned(),
        value.trim().to_owned(),
    ))
}

/// Whether an `if` that cannot be said keeps somebody out: what it refuses must not come in.
pub fn protects(directive: &Directive, levels: &Levels<'_>) -> bool {
    let answers = |step: &&Directive| match step.name.as_str() {
        "return" => true,
        "rewrite" => redirects(step).is_some(),
        _ => false,
    };
    let mut answers = directive.inner().iter().filter(answers);
    let sends_away = answers.clone().next().is_some();
    let refuses = answers.any(|step| step.name == "return" && step.arg(0).starts_with(['4', '5']))
        || directive.inner().iter().any(known::is_protecting);
    let Some((variable, operator, value)) = words(directive) else {
        return refuses;
    };
    // Only who shows the right thing comes in, and others perhaps to a page where they log in.
    let is_by_absence = operator.starts_with('!') || operator == "=" && value.is_empty();
    let is_choice = variable == "request_method" || is_of_the_target(&variable);
    if is_by_absence || is_made_of_credentials(&variable, levels) {
        return sends_away && !is_choice || refuses;
    }
    let is_blocklist =
        !operator.is_empty() && (variable.starts_with("http_") || variable.starts_with("cookie_"));
    refuses && !is_choice && !is_blocklist
}

/// Whether it says what is asked for, and not who asks.
fn is_of_the_target(variable: &str) -> bool {
    matches!(
        variable,
        "host" | "scheme" | "https" | "http_host" | "server_port"
    ) || ["request_uri", "uri", "args", "query_string", "arg_"]
        .iter()
        .any(|of| variable.starts_with(of))
}

/// Whether a table makes it of what a client shows of itself, or of its address.
fn is_made_of_credentials(variable: &str, levels: &Levels<'_>) -> bool {
    let shows = |name: &str| {
        let name = name.to_ascii_lowercase();
        name == "http_authorization"
            || [
                "remote_",
                "binary_remote_",
                "cookie_",
                "ssl_client_",
                "jwt_",
                "geoip",
            ]
            .iter()
            .any(|of| name.starts_with(of))
    };
    let makes = |word: Option<&String>| {
        word.is_some_and(|word| word.trim_start_matches('$').eq_ignore_ascii_case(variable))
    };
    let mut maps = levels.every("map").filter(|map| makes(map.args.get(1)));
    maps.any(|map| names(map.arg(0)).any(shows))
        || levels.every("geo").any(|geo| makes(geo.args.last()))
}

/// The expression and replacement of a `rewrite` that changes the path for the server.
pub fn path_rewrite(rewrite: &Directive, notes: &mut Vec<Note>) -> Option<(String, String)> {
    let to = match rewrite.arg(1).strip_suffix('?') {
        Some(to) => {
            notes.push(Note::left_out(rewrite, QUERY_PASSES));
            to
        }
        None => rewrite.arg(1),
    };
    if to.contains('?') {
        notes.push(Note::left_out(rewrite, QUERY_PASSES));
        return None;
    }
    match captures(to) {
        Some(to) if to.starts_with('/') => Some((rewrite.arg(0).to_owned(), to)),
        _ => {
            notes.push(Note::left_out(
                rewrite,
                "the new path has captures, and no variables",
            ));
            None
        }
    }
}

/// The replacement with each capture in braces that a letter follows. `None`: it has variables.
pub fn captures(to: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = to;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let behind = &rest[at + 1..];
        let digits = behind.chars().take_while(char::is_ascii_digit).count();
        if digits == 0 {
            return None;
        }
        let (number, after) = behind.split_at(digits);
        let continues = after.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        match continues {
            true => out.push_str(&format!("${{{number}}}")),
            false => out.push_str(&format!("${number}")),
        }
        rest = after;
    }
    out.push_str(rest);
    Some(out)
}

/// The expression that takes a prefix, and what is behind it as its capture.
pub fn behind_prefix(prefix: &str) -> String {
    format!("^{}(.*)$", escaped(prefix))
}

#[cfg(test)]
mod tests;
