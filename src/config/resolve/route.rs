//! Routes: the whole of each, and what holds among them: names, and that each can match.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::{Errors, action, headers, matching};
use crate::config::at::At;
use crate::config::raw;
use crate::config::units::{OffOr, OptionalPeriod, Period, Section};
use crate::config::{Action, Forwarded, HeaderRules, Route, Timeouts, WebSocket};
use crate::route::{Matcher, first_cover};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const WEBSOCKET_IDLE: Duration = Duration::from_secs(60 * 60);

/// What routes may refer to. The positions are the indices in the resolved configuration.
pub struct Names<'a> {
    /// `None`: this listener's name could not be decoded.
    pub listeners: Vec<Option<String>>,
    /// Whether there are listeners beyond these, which could not be decoded.
    pub listeners_lost: bool,
    pub upstreams: Vec<&'a str>,
    pub upstreams_lost: bool,
}

pub fn routes(
    raw: Vec<Section<raw::Route>>,
    at: At<'_>,
    names: &Names<'_>,
    errors: &mut Errors,
) -> Option<Vec<Route>> {
    let route_names = route_names(&raw, at, errors);
    let mut matchers: Vec<(usize, Matcher)> = Vec::new();
    let mut routes = Vec::new();
    for (i, (Section(mut raw), name)) in raw.into_iter().zip(route_names).enumerate() {
        let at = at.index(i);
        let label = match &raw.name {
            Some(name) => format!("route \"{name}\""),
            None => "this route".to_owned(),
        };
        let matching = match raw.matching.take() {
            Some(Section(matching)) => matching,
            None => raw::Match::default(),
        };
        let path_prefix = matching.path_prefix.clone().or_else(|| matching.path.clone());
        let matcher = matching::matcher(matching, at.key("match"), &label, names, errors);
        // Half a match says nothing about what it covers.
        if let Some(matcher) = matcher.as_ref().filter(|_| !at.key("match").damaged()) {
            let earlier: Vec<&Matcher> = matchers.iter().map(|(_, matcher)| matcher).collect();
            if let Some((cover, _)) = first_cover(&earlier, matcher).and_then(|i| matchers.get(i)) {
                errors.push(
                    at.key("match")
                        .key_error(format!("{label} can never match: an earlier route covers it"))
                        .hint(format!("move it before the one on line {cover}, or remove it")),
                );
            }
            matchers.push((at.line(), matcher.clone()));
        }
        routes.push(route(
            name,
            raw,
            matcher,
            path_prefix.as_deref(),
            at,
            &label,
            names,
            errors,
        ));
    }
    routes.into_iter().collect()
}
