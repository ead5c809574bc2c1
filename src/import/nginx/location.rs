//! The routes of a location: what answers, who may come in, and what cannot be said of it.
//!
//! A location that nothing here can serve is a route all the same: else its requests would come to
//! a wider one.

use super::answer::{self, Answer, redirect, redirects, returned, rewritten};
use super::context::{Context, Route, respond};
use super::headers::response_headers;
use super::levels::Levels;
use super::locations::{self, Located};
use super::notes::Note;
use super::protect::{Protection, protection};
use super::proxied::proxied;
use super::tree::Directive;
use super::variables::Variables;
use super::{known, units};
use crate::import::yaml::{Map, Yaml};
use crate::route::{METHODS, PathMatch};

/// Handlers that speak to servers in another way than by HTTP.
const FOREIGN: [&str; 5] = [
    "fastcgi_pass",
    "uwsgi_pass",
    "scgi_pass",
    "grpc_pass",
    "memcached_pass",
];

/// `server`: the blocks down to the server's.
pub fn routes<'t>(
    context: &mut Context<'t>,
    server: &Levels<'t>,
    located: &Located<'t>,
) -> Vec<Route> {
    let mut notes = located.notes.clone();
    let levels = &located.levels;
    notes.extend(levels.own().iter().filter_map(known::note));
    if let Some(internal) = levels.last("internal") {
        // Nobody from outside finds it.
        notes.extend(unled(internal, server, located));
        let comments = context.comments(notes);
        return vec![Route {
            comments,
            ..Route::new(located.path.clone(), respond(404))
        }];
    }
    if located.closed {
        let comments = context.comments(notes);
        return vec![Route {
            comments,
            ..Route::new(located.path.clone(), respond(403))
        }];
    }
    let mut routes = conditions(levels, &located.path, &mut notes);
    let within = |route: &Route| match (&route.path, located.prefix.as_deref()) {
        (PathMatch::Prefix(path) | PathMatch::Exact(path), Some(prefix)) => {
            path.starts_with(prefix)
        }
        _ => false,
    };
    let redirects = partial_redirects(levels, &Variables::of(levels));
    routes.extend(redirects.into_iter().filter(within));
    if routes
        .iter()
        .any(|route| route.path == located.path && route.condition.is_empty())
    {
        routes[0].comments = context.comments(notes);
        return routes;
    }
    let (mut main, closed) = handled(context, server, located, &mut notes);
    let excepted = excepted_methods(levels, closed, &mut notes);
    let mut comments = context.comments(notes);
    if let Some(first) = routes.first_mut() {
        first.comments = std::mem::take(&mut comments);
    }
    main.comments = comments;
    if let Some(methods) = excepted {
        let rest = Route::new(main.path.clone(), respond(403));
        main.condition.methods = methods;
        routes.extend([main, rest]);
    } else {
        routes.push(main);
    }
    routes
}

/// If nothing in the file leads to an internal location, answers of servers do.
fn unled(internal: &Directive, server: &Levels<'_>, located: &Located<'_>) -> Option<Note> {
    const LEADING: [&str; 5] = [
        "error_page",
        "auth_request",
        "try_files",
        "mirror",
        "post_action",
    ];
    let path = located.prefix.as_deref().unwrap_or("/");
    let leads = |step: &Directive| {
        LEADING.contains(&step.name.as_str()) && step.args.iter().any(|word| word.starts_with(path))
    };
    let why = "an X-Accel-Redirect of a server is a header as any other";
    (!any(server.own(), &leads)).then(|| Note::left_out(internal, why))
}

/// Whether a directive is so, or one within it.
fn any(block: &[Directive], is_so: &impl Fn(&Directive) -> bool) -> bool {
    block
        .iter()
        .any(|step| is_so(step) || any(step.inner(), is_so))
}

/// The routes for the block's `if`s, which stand before that of the location.
pub fn conditions(levels: &Levels<'_>, path: &PathMatch, notes: &mut Vec<Note>) -> Vec<Route> {
    let variables = Variables::of(levels);
    let mut routes = Vec::new();
    for directive in levels
        .own()
        .iter()
        .filter(|directive| directive.name == "if")
    {
        let mut own = Vec::new();
        match answer::conditional(directive, levels, &variables, &mut own) {
            Some((
                condition,
                Answer {
                    path: narrower,
                    mut body,
                },
            )) => {
                notes.extend(own);
                add_response_headers(
                    &levels.within(directive.inner()),
                    &variables,
                    &mut body,
                    notes,
                );
                let path = narrower.unwrap_or_else(|| path.clone());
                let mut route = Route::new(path, body);
                route.condition = condition;
                routes.push(route);
            }
            // What protects is told where the route is closed.
            None if answer::protects(directive, levels) => {}
            None => notes.push(Note::left_out(directive, "no route has such a condition")),
        }
    }
    routes
}

/// The route of the location itself, and whether it is closed.
fn handled<'t>(
    context: &mut Context<'t>,
    server: &Levels<'t>,
    located: &Located<'t>,
    notes: &mut Vec<Note>,
) -> (Route, bool) {
    let levels = &located.levels;
    let variables = Variables::of(levels);
    let route = |body: Map| Route::new(located.path.clone(), body);
    // These come before anybody is kept out.
    if let Some(Answer { path, mut body }) = own_answer(levels, &variables, notes) {
        add_response_headers(levels, &variables, &mut body, notes);
        return (
            Route::new(path.unwrap_or_else(|| located.path.clone()), body),
            false,
        );
    }
    let mut kept_out = protection(context, server, levels, notes);
    let tried = tried(levels, server);
    if let Some((tried, named)) = tried.as_ref().filter(|_| !kept_out.closed) {
        notes.extend(named.own().iter().filter_map(known::note));
        if let Some(Answer { mut body, .. }) = own_answer(named, &variables, notes) {
            add_response_headers(named, &variables, &mut body, notes);
            return (route(body), false);
        }
        let inner = protection(context, server, named, notes);
        kept_out = both(kept_out, inner, tried, notes);
        notes.extend(unsaid_steps(named));
    }
    let Protection { map, closed } = kept_out;
    if closed {
        return (route(respond(403)), true);
    }
    let (pass, at) = match passes(levels, tried, notes) {
        Some(found) => found,
        None => return (unserved(levels, located, notes), false),
    };
    match proxied(context, located, &at, pass, server, notes) {
        Ok(mut body) => {
            body.append(map);
            body_size(context, levels, &mut body);
            (route(body), false)
        }
        Err(why) => {
            notes.push(Note::left_out(pass, why));
            (route(respond(501)), false)
        }
    }
}

/// A `return` or a redirecting `rewrite` of the block itself.
pub fn own_answer(
    levels: &Levels<'_>,
    variables: &Variables,
    notes: &mut Vec<Note>,
) -> Option<Answer> {
    for step in levels.own() {
        match step.name.as_str() {
            "return" => {
                let body = returned(step, levels, variables, notes);
                return Some(Answer { path: None, body });
            }
            "rewrite" => {
                if let Some(status) = redirects(step)
                    && let Some(answer) = rewritten(step, status, variables, notes)
                    && answer.path.is_none()
                {
                    return Some(answer);
                }
            }
            _ => {}
        }
    }
    None
}

/// The block's own redirects for some of its paths.
pub fn partial_redirects(levels: &Levels<'_>, variables: &Variables) -> Vec<Route> {
    let own = levels.own().iter().filter(|step| step.name == "rewrite");
    let answers =
        own.filter_map(|step| rewritten(step, redirects(step)?, variables, &mut Vec::new()));
    answers
        .filter_map(|Answer { path, body }| Some(Route::new(path?, body)))
        .collect()
}

pub fn add_response_headers(
    levels: &Levels<'_>,
    variables: &Variables,
    body: &mut Map,
    notes: &mut Vec<Note>,
) {
    let response = response_headers(levels, variables, notes);
    if response.is_empty() {
        return;
    }
    // A `Content-Type` that stands there already is the answer's.
    if body.has("headers") {
        return;
    }
    body.set("headers", Map::default().with("response", response));
}

/// The `@name` to which a location without a `proxy_pass` of its own sends what is no file.
fn tried<'t>(levels: &Levels<'t>, server: &Levels<'t>) -> Option<(&'t Directive, Levels<'t>)> {
    if levels.own_last("proxy_pass").is_some() {
        return None;
    }
    let tried = levels.last("try_files")?;
    let named = server.named(tried.args.last()?)?;
    Some((tried, named))
}

/// A request passes the protection of the location, and then that of the `@name`.
fn both(
    outer: Protection,
    inner: Protection,
    tried: &Directive,
    notes: &mut Vec<Note>,
) -> Protection {
    let closed = outer.closed || inner.closed;
    let map = match (outer.map, inner.map) {
        (outer, inner) if inner.is_empty() || inner == outer => outer,
        (outer, inner) if outer.is_empty() => inner,
        (outer, _) => {
            let why = "a location and its @name keep out in two ways: closed";
            notes.push(Note::left_out(tried, why));
            return Protection {
                map: outer,
                closed: true,
            };
        }
    };
    Protection { map, closed }
}

/// What a `@name` does to some of its requests.
fn unsaid_steps(named: &Levels<'_>) -> Vec<Note> {
    let is_unsaid = |step: &&Directive| match step.name.as_str() {
        "if" => !answer::protects(step, named),
        "rewrite" => redirects(step).is_some(),
        _ => false,
    };
    let own = named.own().iter().filter(is_unsaid);
    own.map(|step| Note::left_out(step, "no route has such a condition"))
        .collect()
}

/// The `proxy_pass` of the location, or of the `@name` that its `try_files` ends with.
fn passes<'t>(
    levels: &Levels<'t>,
    tried: Option<(&'t Directive, Levels<'t>)>,
    notes: &mut Vec<Note>,
) -> Option<(&'t Directive, Levels<'t>)> {
    if let Some(pass) = levels.own_last("proxy_pass") {
        let tries = levels.last("try_files");
        notes.extend(
            tries.map(|tries| Note::left_out(tries, "prusik serves no files: all is proxied")),
        );
        return Some((pass, levels.clone()));
    }
    let (tried, named) = tried?;
    let pass = named.own_last("proxy_pass")?;
    let last = tried.args.last().map_or("", String::as_str);
    let why = format!("prusik serves no files: all goes to {last}");
    notes.push(Note::left_out(tried, why));
    Some((pass, named))
}

/// What answers where nothing here can serve.
fn unserved(levels: &Levels<'_>, located: &Located<'_>, notes: &mut Vec<Note>) -> Route {
    let route = |status| Route::new(located.path.clone(), respond(status));
    for step in levels.own() {
        if FOREIGN.contains(&step.name.as_str()) {
            notes.push(Note::left_out(
                step,
                "servers are reached by HTTP alone: 501",
            ));
            return route(501);
        }
        if step.name == "stub_status" {
            notes.push(Note::no_meaning(
                step,
                "numbers are at /metrics of admin.listen",
            ));
            return route(404);
        }
        if step.name.contains("_by_lua") || matches!(step.name.as_str(), "js_content" | "perl") {
            return route(501);
        }
    }
    let files = ["try_files", "alias", "root", "index"];
    let own = levels
        .own()
        .iter()
        .find(|step| files.contains(&step.name.as_str()));
    let said = own.unwrap_or(located.directive);
    notes.push(Note::left_out(said, "prusik serves no files: 404"));
    route(404)
}

/// The methods that `limit_except` leaves open, if all others are denied.
fn excepted_methods(
    levels: &Levels<'_>,
    closed: bool,
    notes: &mut Vec<Note>,
) -> Option<Vec<String>> {
    let except = levels.own_last("limit_except")?;
    let denies_all =
        matches!(except.inner(), [deny] if deny.name == "deny" && deny.arg(0) == "all");
    if closed {
        return None;
    }
    if !denies_all {
        notes.push(Note::left_out(
            except,
            "of other methods all are refused, or none",
        ));
    }
    let mut methods = except.args.clone();
    methods.retain(|method| METHODS.contains(&method.as_str()));
    if methods.is_empty() {
        return None;
    }
    if methods.iter().any(|method| method == "GET")
        && !methods.iter().any(|method| method == "HEAD")
    {
        methods.push("HEAD".to_owned());
    }
    Some(methods)
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
    if !is_proxied || is_taken || matches!(located.path, PathMatch::Exact(_)) {
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

/// nginx's own limit, if the location's is not that of the listener.
fn body_size(context: &Context<'_>, levels: &Levels<'_>, body: &mut Map) {
    let own = most_of_body(levels);
    if own != most_of_body(&context.http) {
        body.set("body_size", body_size_value(own));
    }
}

/// `None`: no limit.
pub fn most_of_body(levels: &Levels<'_>) -> Option<u64> {
    const DEFAULT: u64 = 1 << 20;
    let written = levels.value("client_max_body_size").and_then(units::size);
    Some(written.unwrap_or(DEFAULT)).filter(|most| *most > 0)
}

pub fn body_size_value(most: Option<u64>) -> Yaml {
    match most {
        Some(most) => Yaml::plain(units::written_size(most)),
        None => Yaml::plain("off"),
    }
}
