//! `allow` and `deny` of a route.

use super::{Errors, networks};
use crate::auth::Access;
use crate::config::file::cursor::Cursor;

/// `at`: the route.
pub fn access(
    allow: Option<Vec<String>>,
    deny: Option<Vec<String>>,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<Access> {
    let is_damaged = |key: &str| at.has(key) && at.key(key).damaged();
    if allow.as_ref().is_some_and(Vec::is_empty) && !is_damaged("allow") {
        let error = at
            .key("allow")
            .error("\"allow\" is empty: no client could come in");
        errors.push(error.hint("list networks, or leave the key out for any client"));
    }
    let allow = match allow {
        Some(list) => networks(list, at.key("allow"), errors).map(Some),
        None => (!is_damaged("allow")).then_some(None),
    };
    let deny = match deny {
        Some(list) => networks(list, at.key("deny"), errors),
        None => (!is_damaged("deny")).then(Vec::new),
    };
    Some(Access {
        allow: allow?,
        deny: deny?,
    })
}
