//! `auth` of a route.

mod basic;
mod forward;
mod jwt;

use std::sync::Arc;

use super::Errors;
use super::tls::SystemAuthorities;
use crate::auth::jwt::finder::Finder;
use crate::auth::{Auth, Forward};
use crate::config::file::cursor::Cursor;
use crate::config::schema::raw;
use crate::config::schema::units::Section;

const METHODS: [&str; 3] = ["basic", "jwt", "forward"];

/// `label`: the route in words. `at`: the route.
pub fn auth(
    raw: Option<Section<raw::Auth>>,
    label: &str,
    system: &SystemAuthorities,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<Option<Arc<Auth>>> {
    let Some(Section(raw)) = raw else {
        return at.lacks("auth").then_some(None);
    };
    let at = at.key("auth");
    if METHODS.iter().all(|method| at.lacks(method)) && !at.damaged() {
        let error = at.key_error(format!("\"auth\" of {label} asks for nothing"));
        errors.push(
            error.hint("write basic: { users: … }, jwt: { keys: … } or forward: { url: … } in it"),
        );
        return None;
    }
    let basic = match raw.basic {
        Some(Section(raw)) => basic::basic(raw, label, at.key("basic"), errors).map(Some),
        None => at.lacks("basic").then_some(None),
    };
    let jwt = match raw.jwt {
        Some(Section(raw)) => jwt::jwt(raw, label, system, at.key("jwt"), errors).map(Some),
        None => at.lacks("jwt").then_some(None),
    };
    let forward = match raw.forward {
        Some(Section(raw)) => {
            let settings = forward::forward(raw, label, system, at.key("forward"), errors);
            settings.map(|settings| Some(Arc::new(Forward::new(settings))))
        }
        None => at.lacks("forward").then_some(None),
    };
    if let (Some(Some(_)), Some(Some(jwt))) = (&basic, &jwt)
        && jwt.finders.0 == [Finder::Bearer]
    {
        let error = at.key("jwt").key_error(format!(
            "{label} asks for a password and for a bearer token, and both are in Authorization: \
             nobody can show both"
        ));
        errors.push(error.hint(
            "let the token be elsewhere (from: [\"cookie:session\"]), or ask for one of the two",
        ));
    }
    Some(Some(Arc::new(Auth {
        basic: basic?,
        jwt: jwt?,
        forward: forward?,
    })))
}
