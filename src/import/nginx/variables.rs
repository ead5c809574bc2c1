//! Texts with nginx's variables, as templates of prusik.

use std::collections::HashMap;

use super::levels::Levels;
use crate::forward::template::Template;
use crate::route::HostPattern;

/// Variables whose values are known here: those of `set`, of `auth_request_set`, and some that
/// depend on where they stand. `None`: the file makes it of something that is not known here.
#[derive(Debug, Clone, Default)]
pub struct Variables(HashMap<String, Option<String>>);

/// A variable that prusik has not.
#[derive(Debug, PartialEq, Eq)]
pub struct Unknown(pub String);

impl Unknown {
    pub fn why(&self) -> String {
        format!("prusik has no variable ${}", self.0)
    }
}

/// nginx's name, and the template that means the same.
const SAME: &[(&str, &str)] = &[
    ("document_uri", "$uri"),
    ("binary_remote_addr", "$remote_addr"),
    ("proxy_protocol_addr", "$remote_addr"),
];

/// Beginnings of names that mean something else here, or that nginx makes itself.
const FOREIGN: [&str; 4] = ["jwt_", "auth_", "user", "upstream_"];

/// Directives that make a variable of something else.
const MAKERS: [&str; 6] = [
    "map",
    "geo",
    "split_clients",
    "js_set",
    "js_var",
    "perl_set",
];

impl Variables {
    /// What `set` and `auth_request_set` say in the blocks around, the innermost last.
    pub fn of(levels: &Levels<'_>) -> Self {
        let mut variables = Self::default();
        for made in MAKERS.into_iter().flat_map(|maker| levels.every(maker)) {
            variables.forget(match made.name.as_str() {
                "map" | "split_clients" => made.args.get(1),
                "geo" => made.args.last(),
                _ => made.args.first(),
            });
        }
        for set in levels.every("auth_request_set") {
            let field = set.arg(1).strip_prefix("$upstream_http_");
            if let (Some(name), Some(field)) = (set.arg(0).strip_prefix('$'), field) {
                variables.set(name, format!("$auth_{field}"));
            }
        }
        let names = levels.every("server_name").last();
        if let Some(name) = names.and_then(|names| names.args.first())
            && HostPattern::parse(name.trim_start_matches('.')).is_ok()
        {
            variables.set("server_name", name.trim_start_matches('.'));
        }
        for set in levels.acting("set") {
            match (set.arg(0).strip_prefix('$'), variables.template(set.arg(1))) {
                (Some(name), Ok(value)) => variables.set(name, value),
                // What stood in it before is not its value.
                _ => variables.forget(set.args.first()),
            }
        }
        for condition in levels.every("if") {
            for set in condition.each("set") {
                variables.forget(set.args.first());
            }
        }
        variables
    }

    pub fn set(&mut self, name: &str, template: impl Into<String>) {
        self.0
            .insert(name.to_ascii_lowercase(), Some(template.into()));
    }

    /// The same when a server has answered.
    pub fn answered(&self) -> Self {
        let mut answered = self.clone();
        let server = answered.0.entry("upstream_addr".to_owned());
        server.or_insert_with(|| Some("$upstream_addr".to_owned()));
        answered
    }

    /// Nobody here knows its value.
    pub fn forget(&mut self, name: Option<&String>) {
        if let Some(name) = name.and_then(|name| name.strip_prefix('$')) {
            self.0.insert(name.to_ascii_lowercase(), None);
        }
    }

    /// The template that has the value which the text has in nginx.
    pub fn template(&self, text: &str) -> Result<String, Unknown> {
        let mut out = String::new();
        for part in parts(text) {
            match part {
                Part::Literal(literal) => {
                    let continues =
                        literal.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
                    if continues {
                        brace_last(&mut out);
                    }
                    out.push_str(literal);
                }
                Part::Variable(name) => out.push_str(&self.variable(name)?),
            }
        }
        Ok(out)
    }

    /// The text if it has no variables but those with fixed values.
    pub fn literal(&self, text: &str) -> Option<String> {
        let template = self.template(text).ok()?;
        (!template.contains('$')).then_some(template)
    }

    fn variable(&self, name: &str) -> Result<String, Unknown> {
        let name = name.to_ascii_lowercase();
        if let Some(value) = self.0.get(&name) {
            return value.clone().ok_or(Unknown(name));
        }
        if let Some((_, same)) = SAME.iter().find(|(theirs, _)| *theirs == name) {
            return Ok((*same).to_owned());
        }
        let is_foreign = FOREIGN.iter().any(|foreign| name.starts_with(foreign));
        let is_ours =
            !name.is_empty() && !is_foreign && Template::parse(&format!("${name}")).is_ok();
        match is_ours {
            true => Ok(format!("${name}")),
            false => Err(Unknown(name)),
        }
    }
}

/// The names of all variables in the text.
pub fn names(text: &str) -> impl Iterator<Item = &str> {
    parts(text).into_iter().filter_map(|part| match part {
        Part::Variable(name) => Some(name),
        Part::Literal(_) => None,
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Part<'a> {
    Literal(&'a str),
    Variable(&'a str),
}

fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let behind = &rest[at + 1..];
        let (name, after) = match behind
            .strip_prefix('{')
            .and_then(|in_braces| in_braces.split_once('}'))
        {
            Some((name, after)) => (name, after),
            None => {
                let end = behind.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                behind.split_at(end.unwrap_or(behind.len()))
            }
        };
        // A `$` without a name is a `$`.
        let literal = if name.is_empty() { at + 1 } else { at };
        if literal > 0 {
            parts.push(Part::Literal(&rest[..literal]));
        }
        if !name.is_empty() {
            parts.push(Part::Variable(name));
        }
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Literal(rest));
    }
    parts
}

/// Puts the variable at the end of the text, if there is one, in braces.
fn brace_last(text: &mut String) {
    let Some(at) = text.rfind('$') else { return };
    let name = &text[at + 1..];
    if !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        let braced = format!("${{{name}}}");
        text.replace_range(at.., &braced);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::syntax::parse;
    use super::*;

    #[test]
    fn a_variable_that_the_file_makes_of_something_else_is_not_known() {
        for text in [
            "map $http_a $x { a b; }",
            "geo $x { default 0; }",
            "set $x a; set $x $1;",
            "set $x a; if ($host = b) { set $x b; }",
        ] {
            let block = parse(&Arc::from("f"), text).unwrap();
            let variables = Variables::of(&Levels::new(&block));
            assert_eq!(
                variables.template("$x"),
                Err(Unknown("x".to_owned())),
                "{text}"
            );
        }
        let block = parse(&Arc::from("f"), "map $http_a $arg_user { a b; }").unwrap();
        let variables = Variables::of(&Levels::new(&block));
        assert!(variables.template("$arg_user").is_err());
    }

    #[test]
    fn variables_that_both_have_stay_and_others_are_named() {
        let file = Arc::from("f");
        let block = parse(
            &file,
            "set $up http://app:80; set $copy $http_x; auth_request_set $who $upstream_http_x_user;",
        )
        .unwrap();
        let variables = Variables::of(&Levels::new(&block));
        for (text, template) in [
            ("$host:$server_port", Ok("$host:$server_port")),
            ("${host}x", Ok("${host}x")),
            ("$host-x", Ok("$host-x")),
            ("$binary_remote_addr", Ok("$remote_addr")),
            ("$up/x", Ok("http://app:80/x")),
            ("$copy", Ok("$http_x")),
            ("$who", Ok("$auth_x_user")),
            ("a$", Ok("a$")),
            ("$request_time", Err("request_time")),
            ("$user", Err("user")),
            ("$auth_x", Err("auth_x")),
        ] {
            let found = variables.template(text);
            let found = found.as_deref().map_err(|Unknown(name)| name.as_str());
            assert_eq!(found, template, "{text}");
        }
        assert_eq!(variables.literal("$UP").as_deref(), Some("http://app:80"));
        assert_eq!(variables.literal("$host"), None);
        assert_eq!(names("a${b}c$d").collect::<Vec<_>>(), ["b", "d"]);
    }
}
