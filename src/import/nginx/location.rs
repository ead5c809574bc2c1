//! The routes of a location: what answers, who may come in, and what cannot be said of it.
//!
//! A location that nothing here can serve is a route all the same: else its requests would come to
//! a wider one.

use super::answer::{self, Answer, returned, rewritten};
use super::context::{Context, Route, respond, responds};
use super::headers::add_response_headers;
use super::levels::Levels;
use super::locations::Located;
use super::notes::Note;
use super::protect::{Protection, protection};
use super::proxied::proxied;
use super::tree::Directive;
use super::variables::Variables;
use super::{known, redirects, units};
use crate::import::yaml::{Map, Yaml};
use crate::route::{METHODS, PathMatch};

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
    match redirects::of_location(located, &mut notes) {
        Some(redirects) => routes.extend(redirects),
        None => {
            let comments = context.comments(notes);
            return vec![Route {
                comments,
                ..Route::new(located.path.clone(), respond(403))
            }];
        }
    }
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
        let mut rest = Route::new(main.path.clone(), respond(403));
        rest.comments = context.comments(unsaid_pages(levels, &rest.body));
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
                let inner = levels.within(directive.inner());
                add_response_headers(&inner, &variables, &mut body, notes);
                notes.extend(unsaid_pages(&inner, &body));
                let path = narrower.unwrap_or_else(|| path.clone());
                let mut route = Route::new(path, body);
                route.condition = condition;
                routes.push(route);
            }
            // What protects is told where the route is closed.
            None if answer::protects(directive, levels) => {}
            None => {
                let refuses = directive
                    .each("return")
                    .any(|step| step.arg(0).starts_with('4'));
                let why = match refuses {
                    true => "no route has such a condition: whom it keeps out comes in",
                    false => "no route has such a condition",
                };
                notes.push(Note::left_out(directive, why));
            }
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
    kept_out.closed |= leads_elsewhere(levels, server, notes);
    let tried = tried(levels, server);
    if let Some((tried, named)) = tried.as_ref().filter(|_| !kept_out.closed) {
        notes.extend(named.own().iter().filter_map(known::note));
        if let Some(Answer { mut body, .. }) = own_answer(named, &variables, notes) {
            add_response_headers(named, &variables, &mut body, notes);
            return (route(body), false);
        }
        let inner = protection(context, server, named, notes);
        kept_out = both(kept_out, inner, tried, notes);
        let unsaid = unsaid_steps(named);
        kept_out.closed |= !unsaid.is_empty();
        notes.extend(unsaid);
    }
    let Protection { map, closed } = kept_out;
    if closed {
        let body = respond(403);
        notes.extend(unsaid_pages(levels, &body));
        return (route(body), true);
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
                notes.extend(unsaid_pages(levels, &body));
                return Some(Answer { path: None, body });
            }
            "rewrite" => {
                if let Some(status) = answer::redirects(step)
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

/// The pages or locations that nginx has instead of an answer of the location's own.
fn unsaid_pages(levels: &Levels<'_>, body: &Map) -> Vec<Note> {
    let Some(status) = responds(body) else {
        return Vec::new();
    };
    let is_so = |page: &&Directive| {
        let codes = page.args.split_last().map_or(&[][..], |(_, codes)| codes);
        codes.iter().any(|code| code.parse() == Ok(status))
    };
    let pages = levels.list(&["error_page"]).into_iter().filter(is_so);
    pages
        .map(|page| Note::left_out(page, "what a route answers by itself is all that it says"))
        .collect()
}

/// Whether requests may leave the location for an answer that is none of its server's.
fn leads_elsewhere(levels: &Levels<'_>, server: &Levels<'_>, notes: &mut Vec<Note>) -> bool {
    let mut closed = false;
    let tries = levels
        .own_last("try_files")
        .filter(|_| levels.own_last("proxy_pass").is_some());
    if let Some(tries) =
        tries.filter(|tries| tries.args.last().is_some_and(|word| word.starts_with('=')))
    {
        notes.push(Note::left_out(
            tries,
            "prusik has no files: closed for all that would be none",
        ));
        closed = true;
    }
    let leads_on = |step: &&Directive| {
        step.name == "rewrite" && answer::redirects(step).is_none() && step.arg(2) != "break"
    };
    if let Some(step) = levels
        .own()
        .iter()
        .find(leads_on)
        .filter(|_| known::keeps_out(server, server.own()))
    {
        let why = "the location to which this leads may keep out who comes: closed";
        notes.push(Note::left_out(step, why));
        closed = true;
    }
    closed
}

/// The `@name` to which a location without a `proxy_pass` of its own sends what is no file.
fn tried<'t>(levels: &Levels<'t>, server: &Levels<'t>) -> Option<(&'t Directive, Levels<'t>)> {
    if levels.own_last("proxy_pass").is_some() {
        return None;
    }
    let tried = levels.own_last("try_files")?;
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

/// What a `@name` does to some of its requests. No route here has it: they are kept out.
fn unsaid_steps(named: &Levels<'_>) -> Vec<Note> {
    let is_unsaid = |step: &&Directive| match step.name.as_str() {
        "if" | "limit_except" => true,
        "rewrite" => answer::redirects(step).is_some() || step.arg(2) != "break",
        _ => false,
    };
    let own = named.own().iter().filter(is_unsaid);
    own.map(|step| Note::left_out(step, "no route for a @name has this: closed"))
        .collect()
}

/// The `proxy_pass` of the location, or of the `@name` that its `try_files` ends with.
fn passes<'t>(
    levels: &Levels<'t>,
    tried: Option<(&'t Directive, Levels<'t>)>,
    notes: &mut Vec<Note>,
) -> Option<(&'t Directive, Levels<'t>)> {
    if let Some(pass) = levels.own_last("proxy_pass") {
        let tries = levels.own_last("try_files");
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
        if known::FOREIGN.contains(&step.name.as_str()) {
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
    let methods = except.args.iter().map(|method| method.to_ascii_uppercase());
    let mut methods: Vec<String> = methods.collect();
    methods.retain(|method| METHODS.contains(&method.as_str()));
    if methods.iter().any(|method| method == "GET")
        && !methods.iter().any(|method| method == "HEAD")
    {
        methods.push("HEAD".to_owned());
    }
    Some(methods)
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
    const MOST: u64 = 1 << 50;
    let written = levels.value("client_max_body_size").and_then(units::size);
    let written = written.map(|most| most.min(MOST));
    Some(written.unwrap_or(DEFAULT)).filter(|most| *most > 0)
}

pub fn body_size_value(most: Option<u64>) -> Yaml {
    match most {
        Some(most) => Yaml::plain(units::written_size(most)),
        None => Yaml::plain("off"),
    }
}
