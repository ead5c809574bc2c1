//! `rewrite` of a route.

use super::Errors;
use super::matching::bad_regex;
use super::scope::Scope;
use crate::config::schema::raw;
use crate::config::schema::units::Section;
use crate::route::{PathRegex, Rewrite, RewriteError};

/// The inner `None`: the path stays.
pub fn rewrite(
    raw: Option<Section<raw::Rewrite>>,
    scope: Scope<'_>,
    errors: &mut Errors,
) -> Option<Option<Rewrite>> {
    let Some(Section(raw)) = raw else {
        return Some(None);
    };
    let at = scope.at.key("rewrite");
    if scope.at.has("strip_prefix") {
        errors.push(
            at.key_error(format!(
                "{} has both \"strip_prefix\" and \"rewrite\"",
                scope.label
            ))
            .hint("remove strip_prefix: the regex can take it off, as in ^/prefix(/.*)$"),
        );
    }
    for (key, example) in [("regex", "^/v1/(.*)$"), ("to", "/api/$1")] {
        if at.lacks(key) {
            let error = at.key_error(format!("the rewrite of {} has no \"{key}\"", scope.label));
            errors.push(error.hint(format!("write one, such as {key}: {example:?}")));
        }
    }
    let regex = PathRegex::parse(raw.regex.as_ref()?);
    let regex = regex.map_err(|error| {
        let text = raw.regex.as_deref().unwrap_or_default();
        errors.push(bad_regex("regex", text, &error, at.key("regex")));
    });
    let (regex, to) = (regex.ok()?, raw.to?);
    let rewrite = Rewrite::new(regex, &to);
    let rewrite = rewrite.map_err(|error| {
        let hint = hint(&error, &to);
        errors.push(at.key("to").error(format!("\"{to}\" {error}")).hint(hint));
    });
    rewrite.ok().map(Some)
}

fn hint(error: &RewriteError, to: &str) -> String {
    match error {
        RewriteError::NoSlash => format!("write \"/{to}\""),
        RewriteError::Stray('?') => {
            "write the path alone: the query goes along as it came".to_owned()
        }
        RewriteError::Stray(c) => {
            let mut bytes = [0; 4];
            let bytes = c.encode_utf8(&mut bytes).bytes();
            let encoded: String = bytes.map(|byte| format!("%{byte:02X}")).collect();
            format!("write it as browsers send it, as {encoded}")
        }
        RewriteError::Upwards => "write the path to which it leads".to_owned(),
        RewriteError::NoGroup {
            number: Some(number),
            ..
        } => format!("write ${{{number}}} for the group before other letters"),
        RewriteError::NoGroup { .. } => {
            "groups are in parentheses: $1 is the first one, ${name} is (?<name>…); $$ is a plain $"
                .to_owned()
        }
    }
}
