//! The redirects of a location: those of its own `rewrite`s, and that to the slash at its end.

use super::answer::{Answer, redirect, redirects, rewritten};
use super::context::Route;
use super::headers::add_response_headers;
use super::known::FOREIGN;
use super::levels::Levels;
use super::locations::{self, Located, Narrowed, narrowed};
use super::notes::Note;
use super::variables::Variables;
use crate::route::PathMatch;

/// `None`: for which of its paths one of them is cannot be said, so that it must be closed.
pub fn of_location(located: &Located<'_>, notes: &mut Vec<Note>) -> Option<Vec<Route>> {
    let levels = &located.levels;
    let mut routes = Vec::new();
    for mut redirect in partial_redirects(levels, &Variables::of(levels), notes) {
        match placement(&redirect.path, located) {
            Placement::Within => routes.push(redirect),
            Placement::Whole => {
                redirect.path = located.path.clone();
                routes.push(redirect);
            }
            Placement::Beside => {}
            Placement::Unknown => {
                let own = levels.own().iter().find(|step| step.name == "rewrite");
                let why = "which of its paths this redirects cannot be said: closed";
                notes.extend(own.map(|own| Note::left_out(own, why)));
                return None;
            }
        }
    }
    Some(routes)
}

/// Which paths of a location a redirect is for.
enum Placement {
    Within,
    Whole,
    Beside,
    Unknown,
}

fn placement(path: &PathMatch, located: &Located<'_>) -> Placement {
    let Some(prefix) = located.prefix.as_deref() else {
        return match path {
            PathMatch::Exact(path) if located.path.matches(path) => Placement::Within,
            PathMatch::Exact(_) => Placement::Beside,
            PathMatch::Any => Placement::Whole,
            PathMatch::Prefix(_) | PathMatch::Regex(_) => Placement::Unknown,
        };
    };
    let is_all = |path: &str| prefix.starts_with(&format!("{}/", path.trim_end_matches('/')));
    match path {
        PathMatch::Any => Placement::Whole,
        PathMatch::Exact(path) | PathMatch::Prefix(path) if path.starts_with(prefix) => {
            Placement::Within
        }
        PathMatch::Exact(_) => Placement::Beside,
        PathMatch::Prefix(path) if is_all(path) => Placement::Whole,
        PathMatch::Prefix(path) if prefix.starts_with(path) => Placement::Unknown,
        PathMatch::Prefix(_) => Placement::Beside,
        PathMatch::Regex(regex) => match narrowed(regex.as_str(), prefix) {
            Narrowed::To(same) if same == regex.as_str() => Placement::Within,
            Narrowed::Never => Placement::Beside,
            Narrowed::To(_) | Narrowed::Unknown => Placement::Unknown,
        },
    }
}

/// The block's own redirects for some of its paths.
pub fn partial_redirects(
    levels: &Levels<'_>,
    variables: &Variables,
    notes: &mut Vec<Note>,
) -> Vec<Route> {
    let own = levels.own().iter().filter(|step| step.name == "rewrite");
    let answers = own.filter_map(|step| rewritten(step, redirects(step)?, variables, notes));
    answers
        .filter_map(|Answer { path, body }| Some(Route::new(path?, body)))
        .collect()
}

/// A path without the slash at the end of a proxied prefix is sent to the one with it.
pub fn slash_redirect(located: &Located<'_>, all: &[Located<'_>]) -> Option<Route> {
    let prefix = located.prefix.as_deref()?;
    let bare = prefix.strip_suffix('/').filter(|bare| !bare.is_empty())?;
    let has_pass = |name: &&str| located.levels.own_last(name).is_some();
    let is_proxied = has_pass(&"proxy_pass") || FOREIGN.iter().any(has_pass);
    let is_taken = all
        .iter()
        .any(|other| other.prefix.as_deref() == Some(bare));
    if !is_proxied || is_taken {
        return None;
    }
    let to = format!("{}$is_args$args", locations::encoded(prefix));
    let path = PathMatch::Exact(locations::encoded(bare));
    let mut body = redirect(&to, 301);
    // What is to be said of them is said at the location itself.
    let variables = Variables::of(&located.levels);
    add_response_headers(&located.levels, &variables, &mut body, &mut Vec::new());
    Some(Route::new(path, body))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::syntax::parse;
    use super::*;

    #[test]
    fn a_redirect_is_of_its_location_alone() {
        // How many routes; none: it is closed.
        for (location, rewrite, routes) in [
            ("/app/", "^/app/old$ /new permanent", Some(1)),
            ("/app/", "^/app$ /app/ permanent", Some(0)),
            ("/app/", "^/(.*)$ https://a.test/$1 permanent", Some(0)),
            ("/app/x", "^/app/(.*)$ /new/$1 permanent", Some(1)),
            ("/app/", "^/app/(a|b)$ /login redirect", Some(1)),
            ("/app/", "^/other/(a|b)$ /login redirect", Some(0)),
            ("/app/", "(a|b)$ /login redirect", None),
            ("~ ^/old", "^/old/x$ /login redirect", Some(1)),
            ("~ ^/old", "^/new/x$ /login redirect", Some(0)),
            ("~ ^/old", "^/old/(.*)$ /new/$1 redirect", None),
        ] {
            let text = format!("location {location} {{ rewrite {rewrite}; }}");
            let tree = parse(&Arc::from("f"), &text).unwrap();
            let located = locations::ordered(&Levels::new(&tree)).remove(0);
            let found = of_location(&located, &mut Vec::new());
            assert_eq!(found.map(|routes| routes.len()), routes, "{text}");
        }
    }
}
