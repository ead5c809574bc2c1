//! `user` of a route, and the keys that have an effect only where users, or the ends of their
//! credentials, are known.

use super::Errors;
use super::upstream::template;
use crate::auth::Auth;
use crate::config::file::cursor::Cursor;
use crate::config::{Listener, Route};
use crate::forward::template::Template;
use crate::limits::{Bounds, UserBound};

/// `at`: the route. The inner `None`: the file has none.
pub fn user(raw: Option<String>, at: Cursor<'_>, errors: &mut Errors) -> Option<Option<Template>> {
    let Some(text) = raw else {
        return (!at.has("user")).then_some(None);
    };
    let at = at.key("user");
    let template = template(&text, "user", at, errors)?;
    let wrong = match () {
        () if text.is_empty() => "\"user\" is empty, and names nobody",
        () if template.reads_user() => "\"user\" reads itself",
        () => return Some(Some(template)),
    };
    errors.push(
        at.error(wrong)
            .hint("write where the name is found, such as $arg_userId or $ssl_client_s_dn"),
    );
    None
}

/// What stands in a token or an auth server's answer is nowhere without these. `at`: the key with
/// the template.
pub fn nameless(template: &Template, auth: Option<&Auth>, at: Cursor<'_>, errors: &mut Errors) {
    let has_jwt = auth.is_some_and(|auth| auth.jwt.is_some());
    let has_forward = auth.is_some_and(|auth| auth.forward.is_some());
    let (variable, missing) = match () {
        () if template.reads_claims() && !has_jwt => ("$jwt_…", "auth.jwt"),
        () if template.reads_auth_fields() && !has_forward => ("$auth_…", "auth.forward"),
        () => return,
    };
    let error = at.error(format!(
        "{variable} is always empty on this route, which has no {missing}"
    ));
    errors.push(error.hint(format!(
        "give the route {missing}, or say where else it is found"
    )));
}

/// `at`: the section that has both keys.
pub fn per_user(
    most: Option<usize>,
    newest_wins: Option<bool>,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<UserBound> {
    let is_known = most.is_some() || at.lacks("max_sessions_per_user");
    let most = most.filter(|most| *most > 0);
    let newest_wins = newest_wins.unwrap_or(false);
    if newest_wins && most.is_none() && is_known {
        errors.push(
            at.key("newest_wins")
                .error("\"newest_wins\" has no effect without \"max_sessions_per_user\"")
                .hint("say how many sessions a user may have, or leave this key out"),
        );
    }
    most.map(|most| UserBound { most, newest_wins })
}

/// A limit for each user counts nobody on a route that knows no users. `at`: the route.
pub fn unknown(bounds: &[(&str, Option<Bounds>)], at: Cursor<'_>, errors: &mut Errors) {
    for (section, bounds) in bounds {
        if bounds.is_some_and(|bounds| bounds.per_user.is_some()) {
            errors.push(
                at.key(section)
                    .key("max_sessions_per_user")
                    .error("this route knows no users, so this limit counts nobody")
                    .hint("say where the name is found (user: $arg_userId), or give the route auth.jwt"),
            );
        }
    }
}

/// The rate of each user counts nobody on a route that knows no users. `at`: the route.
pub fn uncounted(at: Cursor<'_>, errors: &mut Errors) {
    errors.push(
        at.key("requests_per_second")
            .key("key")
            .error("this route knows no users, so this rate counts nobody")
            .hint("say where the name is found (user: $arg_userId), or give the route auth.jwt"),
    );
}

/// Without a credential that ends, no session ends with it. `at`: the routes.
pub fn endless(
    routes: &[Route],
    listeners: &[Option<Listener>],
    at: Cursor<'_>,
    errors: &mut Errors,
) {
    for (position, route) in routes.iter().enumerate() {
        let websocket = route.websocket.as_ref();
        if websocket.is_some_and(|websocket| websocket.on_expiry.is_some())
            && !has_token(route)
            && !may_see_certificates(route, listeners)
        {
            errors.push(
                at.index(position)
                    .key("websocket")
                    .key("on_expiry")
                    .error("\"on_expiry\" has no effect: nothing that lets clients in here expires")
                    .hint("give the route auth.jwt or its listener a client_ca, or leave it out"),
            );
        }
    }
}

fn has_token(route: &Route) -> bool {
    route.auth.as_ref().is_some_and(|auth| auth.jwt.is_some())
}

/// Whether a client of the route may have shown a certificate, as far as the file could be read.
fn may_see_certificates(route: &Route, listeners: &[Option<Listener>]) -> bool {
    let asks = |listener: &Listener| {
        let tls = listener.tls.as_ref();
        tls.is_some_and(|tls| tls.authorities().is_some())
    };
    let mut listeners = listeners.iter().enumerate();
    listeners.any(|(position, listener)| {
        let wanted = route.matcher.listener;
        wanted.is_none_or(|wanted| wanted.index() == position) && listener.as_ref().is_none_or(asks)
    })
}
