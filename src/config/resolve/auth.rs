//! `auth` of a route.

mod jwt;

use std::sync::Arc;

use super::Errors;
use super::tls::SystemAuthorities;
use crate::auth::Auth;
use crate::config::file::cursor::Cursor;
use crate::config::schema::raw;
use crate::config::schema::units::Section;

/// `label`: the route in words. `at`: the route.
pub fn auth(
    raw: Option<Section<raw::Auth>>,
    label: &str,
    system: &SystemAuthorities,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<Option<Arc<Auth>>> {
    let at = at.key("auth");
    let Some(Section(raw)) = raw else {
        return (!at.damaged()).then_some(None);
    };
    if raw.jwt.is_none() && !at.has("jwt") && !at.damaged() {
        let error = at.key_error(format!("\"auth\" of {label} asks for nothing"));
        errors.push(error.hint("write jwt: { keys: … } in it, or leave it out"));
        return None;
    }
    let jwt = match raw.jwt {
        Some(Section(raw)) => jwt::jwt(raw, label, system, at.key("jwt"), errors).map(Some),
        None => (!at.key("jwt").damaged()).then_some(None),
    };
    Some(Some(Arc::new(Auth { jwt: jwt? })))
}
