//! `server` blocks: for which requests each of them is, and the routes of all in one list in which
//! the first match serves.
//!
//! Sockets with the same servers are a family. The routes of a family stand under a condition on
//! the listener and end with one that takes everything, so that nothing comes through to the next.
//! The largest family stands last and needs no such condition.

use super::context::{Condition, Context, Route, respond};
use super::headers::add_response_headers;
use super::levels::Levels;
use super::listen::{self, Listen, Socket};
use super::location;
use super::locations;
use super::names::Names;
use super::notes::Note;
use super::regexes::widened;
use super::tree::Directive;
use super::variables::Variables;
use super::{answer, known, redirects};
use crate::route::{HostPattern, PathMatch};

pub struct Server<'t> {
    pub directive: &'t Directive,
    /// `http` and the server.
    pub levels: Levels<'t>,
    pub names: Names,
    pub listens: Vec<Listen>,
    /// What is to be said of its head.
    notes: Vec<Note>,
    /// Its addresses are only a part of a listener's: nobody may come in.
    closed: bool,
}

/// A route with the requests that come to it.
#[derive(Debug, Clone)]
pub struct Placed {
    /// `None`: any.
    pub listener: Option<String>,
    /// Empty: any.
    pub hosts: Vec<String>,
    pub route: Route,
}

/// The servers of `http`, in the order of the file.
pub fn read<'t>(http: &Levels<'t>) -> Vec<Server<'t>> {
    let blocks = http.own().iter().filter(|block| block.name == "server");
    blocks
        .map(|directive| {
            let mut notes = Vec::new();
            let levels = http.within(directive.inner());
            let names = Names::of(directive, &mut notes);
            if let Some(name) = directive.each("server_name").next().filter(|_| names.has_unsaid) {
                let why = "its requests would come to the default server: where that is another, it \
                           is closed for names that nobody has";
                notes.push(Note::left_out(name, why));
            }
            Server {
                directive,
                levels,
                names,
                listens: listen::listens(directive, &mut notes),
                notes,
                closed: false,
            }
        })
        .collect()
}

/// The sockets of all servers.
pub fn sockets(servers: &mut [Server<'_>]) -> Vec<Socket> {
    let listens: Vec<Vec<Listen>> = servers
        .iter()
        .map(|server| server.listens.clone())
        .collect();
    listen::sockets(&listens, |number, address| {
        let server = &mut servers[number];
        let own = server
            .directive
            .each("listen")
            .find(|listen| address.ends_with(listen.arg(0)));
        let why = "a listener for all addresses of this port takes its requests: closed, unless \
                   the server has that listener too";
        let note = Note::left_out(own.unwrap_or(server.directive), why);
        server.notes.push(note);
        let has_wide = server
            .listens
            .iter()
            .any(|listen| listen.address == listen::wide_of(address).unwrap_or_default());
        server.closed |= !has_wide;
    })
}

/// The routes of a server, without conditions on hosts and listeners.
pub fn routes<'t>(context: &mut Context<'t>, server: &mut Server<'t>) -> Vec<Route> {
    let listens = server.listens.iter().map(|listen| listen.address.clone());
    context.listens = listens.collect();
    let levels = &server.levels;
    let mut notes = std::mem::take(&mut server.notes);
    notes.extend(levels.own().iter().filter_map(known::note));
    let mut names = server.directive.each("server_name");
    let name = names.find_map(|names| names.args.first());
    let name = name.map_or(String::new(), |name| format!("{name}, "));
    let place = &server.directive.place;
    let heading = format!("server: {name}{}:{}", place.file, place.line);
    let variables = Variables::of(levels);
    let mut routes = location::conditions(levels, &PathMatch::Any, &mut notes);
    routes.extend(redirects::partial_redirects(levels, &variables, &mut notes));
    let answer = location::own_answer(levels, &variables, &mut notes);
    let is_closed = protects_itself(levels, &mut notes);
    if server.closed {
        routes = vec![Route::new(PathMatch::Any, respond(403))];
    } else if let Some(mut found) = answer {
        add_response_headers(levels, &variables, &mut found.body, &mut notes);
        routes.push(Route::new(PathMatch::Any, found.body));
    } else if is_closed {
        routes.push(Route::new(PathMatch::Any, respond(403)));
    } else {
        routes.extend(rewrites(levels, &mut notes));
        let located = locations::ordered(levels);
        routes.extend(
            located
                .iter()
                .filter_map(|one| redirects::slash_redirect(one, &located)),
        );
        for one in &located {
            routes.extend(location::routes(context, levels, one));
        }
        let serves_files = levels
            .own_last("root")
            .filter(|_| !routes.iter().any(Route::takes_all));
        notes.extend(serves_files.map(|root| Note::left_out(root, "prusik serves no files: 404")));
    }
    if routes.is_empty() {
        routes.push(Route::new(PathMatch::Any, respond(404)));
    }
    let mut comments = vec![heading];
    comments.extend(context.comments(notes));
    routes[0].comments.splice(0..0, comments);
    routes
}

/// Whether the server keeps somebody out in a way that nothing here can say.
fn protects_itself(levels: &Levels<'_>, notes: &mut Vec<Note>) -> bool {
    let variables = Variables::of(levels);
    let own = levels
        .own()
        .iter()
        .filter(|step| step.name == "if" && answer::protects(step, levels));
    let unsaid =
        own.filter(|step| answer::conditional(step, levels, &variables, &mut Vec::new()).is_none());
    let mut closed = false;
    for step in unsaid {
        notes.push(Note::left_out(
            step,
            "who this keeps out would come in: closed",
        ));
        closed = true;
    }
    closed
}

/// A server's own `rewrite`s without a redirection choose another location. Where one of the
/// locations keeps somebody out, nobody may take this way.
fn rewrites(levels: &Levels<'_>, notes: &mut Vec<Note>) -> Vec<Route> {
    let own = levels.own().iter().filter(|step| step.name == "rewrite");
    let inner = own.filter(|step| answer::redirects(step).is_none());
    let keeps_out = known::keeps_out(levels, levels.own());
    let closed = inner.map(|step| {
        let closes = if keeps_out { ": closed" } else { "" };
        let why = format!("a route changes the path for its own servers alone{closes}");
        notes.push(Note::left_out(step, why));
        let path = widened(step.arg(0)).map_or(PathMatch::Any, PathMatch::Regex);
        keeps_out.then(|| Route::new(path, respond(403)))
    });
    closed.collect::<Vec<_>>().into_iter().flatten().collect()
}

/// All routes in their order. `of`: the routes of each server.
pub fn place(sockets: &[Socket], servers: &[Server<'_>], of: &[Vec<Route>]) -> Vec<Placed> {
    let mut families = families(sockets);
    let size = |family: &Vec<&Socket>| -> usize {
        family[0]
            .servers
            .iter()
            .map(|server| of[*server].len())
            .sum()
    };
    families.sort_by_key(size);
    let mut placed: Vec<Placed> = Vec::new();
    let last = families.len().saturating_sub(1);
    for (number, family) in families.iter().enumerate() {
        let mut own = of_family(family, servers, of);
        if number == last {
            placed.extend(own);
            break;
        }
        let is_closed = own.last().is_some_and(|last| {
            last.hosts.is_empty() && last.listener.is_none() && last.route.takes_all()
        });
        if !is_closed {
            own.push(Placed {
                listener: None,
                hosts: Vec::new(),
                route: Route::new(PathMatch::Any, respond(404)),
            });
        }
        for (turn, socket) in family.iter().enumerate() {
            for mut one in own.iter().cloned() {
                if one
                    .listener
                    .as_ref()
                    .is_some_and(|listener| *listener != socket.address)
                {
                    continue;
                }
                one.listener = Some(socket.address.clone());
                // What was said once is not said again.
                if turn > 0 {
                    one.route.comments.clear();
                }
                placed.push(one);
            }
        }
    }
    reachable(placed)
}

fn families(sockets: &[Socket]) -> Vec<Vec<&Socket>> {
    let mut families: Vec<Vec<&Socket>> = Vec::new();
    for socket in sockets {
        let same = |family: &&mut Vec<&Socket>| {
            family[0].servers == socket.servers && family[0].default == socket.default
        };
        match families.iter_mut().find(same) {
            Some(family) => family.push(socket),
            None => families.push(vec![socket]),
        }
    }
    families
}

/// Whether the default server must not answer for names that nobody has: what no route can tell
/// apart from others' would come to it.
fn closes_the_rest(numbers: &[usize], default: usize, servers: &[Server<'_>]) -> bool {
    let mut others = numbers.iter().filter(|number| **number != default);
    others.any(|number| {
        let Server {
            names,
            closed,
            levels,
            directive,
            ..
        } = &servers[*number];
        let takes_hostless = names.is_nameless
            && !servers[default].names.is_nameless
            && known::keeps_out(levels, directive.inner());
        names.has_unsaid || *closed || takes_hostless
    })
}

/// Exact names before wildcards, long wildcards before short ones, and the default server last,
/// for every name.
fn of_family(family: &[&Socket], servers: &[Server<'_>], of: &[Vec<Route>]) -> Vec<Placed> {
    let Socket {
        servers: numbers,
        default,
        ..
    } = family[0];
    let mut taken: Vec<String> = Vec::new();
    let is_closed = closes_the_rest(numbers, *default, servers);
    // With how long its shortest name is, so that longer ones come first.
    let mut units: Vec<(usize, usize, Vec<String>)> = Vec::new();
    for &number in numbers {
        let names = &servers[number].names;
        let others = || {
            numbers
                .iter()
                .filter(|other| **other != number)
                .map(|other| &servers[*other].names)
        };
        // The first server that has a name is the one that answers for it.
        let mut fresh = |list: &[String]| -> Vec<String> {
            let fresh: Vec<String> = list
                .iter()
                .filter(|name| !taken.contains(name))
                .cloned()
                .collect();
            taken.extend(fresh.iter().cloned());
            fresh
        };
        let (mut exact, wildcards) = (fresh(&names.exact), fresh(&names.wildcards));
        // The default server answers for its own names anyway, unless a wildcard is in the way.
        let is_default = number == *default && !is_closed;
        if is_default && !others().any(|other| names.lies_below(other)) {
            continue;
        }
        if wildcards.is_empty() || others().any(|other| other.lies_below(names)) {
            for wildcard in wildcards {
                units.push((wildcard.len(), number, vec![wildcard]));
            }
        } else {
            exact.extend(wildcards);
        }
        if !exact.is_empty() {
            units.push((usize::MAX, number, exact));
        }
    }
    units.sort_by_key(|(length, ..)| std::cmp::Reverse(*length));
    let mut placed = Vec::new();
    let mut said: Vec<usize> = Vec::new();
    for (_, number, hosts) in units {
        let own = placed_for(family, &hosts, &of[number], said.contains(&number));
        let is_closed = of[number].iter().any(Route::takes_all);
        placed.extend(own);
        if !is_closed {
            placed.push(Placed {
                listener: None,
                hosts,
                route: Route::new(PathMatch::Any, respond(404)),
            });
        }
        said.push(number);
    }
    let closed = [Route::new(PathMatch::Any, respond(403))];
    let (rest, is_said) = match is_closed {
        true => (&closed[..], false),
        false => (&of[*default][..], said.contains(default)),
    };
    placed.extend(placed_for(family, &[], rest, is_said));
    placed
}

/// `hosts`: empty for every name.
fn placed_for(family: &[&Socket], hosts: &[String], routes: &[Route], said: bool) -> Vec<Placed> {
    let mut placed = Vec::new();
    for route in routes {
        let mut route = route.clone();
        if said {
            route.comments.clear();
        }
        let Condition {
            hosts: only,
            is_tls,
            ..
        } = &route.condition;
        let hosts = match (only.is_empty(), hosts.is_empty()) {
            (true, _) => hosts.to_vec(),
            (false, true) => only.clone(),
            (false, false) => only
                .iter()
                .filter(|name| is_among(name, hosts))
                .cloned()
                .collect(),
        };
        if hosts.is_empty() && !only.is_empty() {
            continue;
        }
        let fits = |socket: &&&Socket| is_tls.is_none_or(|is_tls| is_tls == socket.is_tls);
        let fitting: Vec<&&Socket> = family.iter().filter(fits).collect();
        let is_all = fitting.len() == family.len();
        route.condition.hosts.clear();
        route.condition.is_tls = None;
        if is_all {
            placed.push(Placed {
                listener: None,
                hosts,
                route,
            });
            continue;
        }
        for (turn, socket) in fitting.into_iter().enumerate() {
            let mut route = route.clone();
            if turn > 0 {
                route.comments.clear();
            }
            let listener = Some(socket.address.clone());
            placed.push(Placed {
                listener,
                hosts: hosts.clone(),
                route,
            });
        }
    }
    placed
}

fn is_among(name: &str, hosts: &[String]) -> bool {
    hosts.iter().any(|host| host_covers(host, name))
}

fn host_covers(wide: &str, narrow: &str) -> bool {
    let narrow = narrow.to_ascii_lowercase();
    let below = narrow.strip_prefix("*.").unwrap_or(&narrow);
    wide == narrow
        || wide.starts_with("*.") && HostPattern::parse(wide).is_ok_and(|wide| wide.matches(below))
}

/// Without those that an earlier one takes everything from: `check` refuses them. What was said of
/// them is said of the next.
fn reachable(placed: Vec<Placed>) -> Vec<Placed> {
    let mut kept: Vec<Placed> = Vec::new();
    let mut said: Vec<String> = Vec::new();
    for mut one in placed {
        said.append(&mut one.route.comments);
        if kept.iter().any(|earlier| covers(earlier, &one)) {
            continue;
        }
        one.route.comments = std::mem::take(&mut said);
        kept.push(one);
    }
    kept
}

fn covers(earlier: &Placed, later: &Placed) -> bool {
    let hosts = earlier.hosts.is_empty()
        || !later.hosts.is_empty()
            && later
                .hosts
                .iter()
                .all(|name| is_among(name, &earlier.hosts));
    let listeners = earlier.listener.is_none() || earlier.listener == later.listener;
    let conditions =
        earlier.route.condition.methods.is_empty() && earlier.route.condition.headers.is_empty();
    hosts && listeners && conditions && path_covers(&earlier.route.path, &later.route.path)
}

fn path_covers(earlier: &PathMatch, later: &PathMatch) -> bool {
    match (earlier, later) {
        (PathMatch::Any, _) => true,
        (PathMatch::Prefix(prefix), _) if prefix == "/" => true,
        (_, PathMatch::Exact(path)) => earlier.matches(path),
        (PathMatch::Prefix(_), PathMatch::Prefix(path)) => earlier.matches(path),
        (PathMatch::Regex(earlier), PathMatch::Regex(later)) => earlier == later,
        _ => false,
    }
}
