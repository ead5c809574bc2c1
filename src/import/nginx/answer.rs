//! `return`, and `rewrite` that redirects: answers that prusik gives itself. And `if`, as far as a
//! route's conditions can say the same.

use super::context::{Condition, respond};
use super::known::{self, QUERY_PASSES};
use super::levels::Levels;
use super::locations::{encoded, escaped};
use super::notes::Note;
use super::regexes::{encoded_regex, widened};
use super::tree::Directive;
use super::variables::{Variables, names};
use crate::import::yaml::{Map, Yaml};
use crate::route::{HostPattern, METHODS, PathMatch, PathRegex};
use http::{HeaderName, HeaderValue};

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
    if found.is_some() {
        if rewrite.arg(0).ends_with("/?(.*)$") {
            notes.push(Note::left_out(
                rewrite,
                "the rest of the path begins with a slash",
            ));
        }
        return found;
    }
    let why = "a redirect keeps the rest of a path, and no other parts of it: closed";
    notes.push(Note::left_out(rewrite, why));
    let path = widened(rewrite.arg(0)).map_or(PathMatch::Any, PathMatch::Regex);
    Some(Answer {
        path: Some(path),
        body: respond(403),
    })
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
    let anchored = regex.strip_prefix('^').unwrap_or_default();
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
    if (1..=9).any(|group| to.contains(&format!("${group}"))) {
        return None;
    }
    let body = redirect(&format!("{}{query}", template(to)?), status);
    let exact = anchored.strip_suffix('$').and_then(literal);
    let path = match exact.filter(|exact| !exact.contains(['*', ';'])) {
        Some(exact) => PathMatch::Exact(exact),
        None => PathMatch::Regex(PathRegex::parse(&encoded_regex(regex)?).ok()?),
    };
    let path = Some(path);
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
                let found = rewritten(step, status, variables, notes)?;
                // What follows it is for the other paths.
                let is_last = std::ptr::eq(step, directive.inner().last()?);
                if found.path.is_some() && !is_last {
                    return None;
                }
                answer = Some(found);
                break;
            }
            "add_header" | "default_type" | "access_log" | "more_set_headers" | "set" => {}
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
        ("request_method", "~" | "~*") if !value.contains('$') || value.ends_with('$') => {
            let flags = if operator == "~*" { "(?i)" } else { "" };
            let regex = PathRegex::parse(&format!("{flags}{value}")).ok()?;
            let regex = PathMatch::Regex(regex);
            let listed = METHODS.iter().filter(|method| regex.matches(method));
            condition
                .methods
                .extend(listed.map(|method| (*method).to_owned()));
            // Another word may be a method that no route can name.
            let words = value.split(|c: char| !c.is_ascii_alphabetic());
            let mut words = words.filter(|word| !word.is_empty());
            let is_listed = |word: &str| METHODS.contains(&word.to_ascii_uppercase().as_str());
            if condition.methods.is_empty() || !words.all(is_listed) {
                return None;
            }
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
    let mut steps = directive.inner().iter();
    let sends_away = steps
        .clone()
        .any(|step| matches!(&*step.name, "return" | "rewrite" | "proxy_pass"));
    let refuses = steps.any(|step| {
        step.name == "return" && step.arg(0).starts_with(['4', '5']) || known::is_protecting(step)
    });
    let Some((variable, operator, value)) = words(directive) else {
        return sends_away || refuses;
    };
    // Only who shows the right thing comes in, and others perhaps to a page where they log in.
    let takes_nothing = operator.starts_with('~')
        && PathRegex::parse(&value).is_ok_and(|regex| PathMatch::Regex(regex).matches(""));
    let is_by_absence =
        operator.starts_with('!') || operator == "=" && value.is_empty() || takes_nothing;
    let is_choice = variable == "request_method" || is_of_the_target(&variable);
    if is_by_absence || is_made_of_credentials(&variable, levels, CHAIN) {
        return sends_away && !is_choice || refuses;
    }
    // Whoever says of itself what is kept out comes in, which is said.
    let is_blocklist =
        !operator.is_empty() && (variable.starts_with("http_") || variable.starts_with("cookie_"));
    refuses && !is_blocklist
}

/// How many tables may make one variable of another.
const CHAIN: usize = 8;

/// Whether it says what is asked for, and not who asks.
fn is_of_the_target(variable: &str) -> bool {
    matches!(
        variable,
        "host" | "scheme" | "https" | "http_host" | "server_port"
    ) || ["request_uri", "uri", "args", "query_string", "arg_"]
        .iter()
        .any(|of| variable.starts_with(of))
}

/// Whether it is the client's address or certificate, or is made of that or of what the client
/// shows of itself: by a table, by a `set` under a condition, or by a script.
fn is_made_of_credentials(variable: &str, levels: &Levels<'_>, chain: usize) -> bool {
    let is = |name: &str, begins: &[&str]| begins.iter().any(|of| name.starts_with(of));
    let own = [
        "remote_",
        "binary_remote_",
        "ssl_client_",
        "geoip",
        "realip_",
    ];
    let variable = variable.to_ascii_lowercase();
    if is(&variable, &own) {
        return true;
    }
    let Some(chain) = chain.checked_sub(1) else {
        return true;
    };
    let shown = |name: &str| {
        is(
            &name.to_ascii_lowercase(),
            &["http_", "cookie_", "jwt_", "secure_link"],
        ) || is_made_of_credentials(name, levels, chain)
    };
    let is_it = |word: Option<&String>| {
        word.is_some_and(|word| word.trim_start_matches('$').eq_ignore_ascii_case(&variable))
    };
    let by_map = levels.every("map").filter(|map| is_it(map.args.get(1)));
    let mut by_if = levels
        .every("if")
        .filter(|found| found.each("set").any(|set| is_it(set.args.first())));
    let mut by_set = levels.every("set").filter(|set| is_it(set.args.first()));
    by_map.flat_map(|map| names(map.arg(0))).any(shown)
        || by_set.any(|set| names(set.arg(1)).any(|name| name != variable && shown(name)))
        || by_if.any(|found| words(found).is_none_or(|(name, ..)| name != variable && shown(&name)))
        || levels.every("geo").any(|geo| is_it(geo.args.last()))
        || [
            "js_set",
            "js_var",
            "perl_set",
            "set_by_lua",
            "set_by_lua_block",
            "set_by_lua_file",
        ]
        .into_iter()
        .any(|script| levels.every(script).any(|made| is_it(made.args.first())))
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
