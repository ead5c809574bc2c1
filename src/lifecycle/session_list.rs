//! Selects the sessions that an operator asks for, and checks the names in the question.

use std::sync::atomic::Ordering::Relaxed;

use uuid::Uuid;

use crate::admin::{ControlError, SessionFilter, view};
use crate::generation::Generation;
use crate::session::live::LiveSession;
use crate::session::registry::Registry;

/// A typing error in a name must not look like a process without sessions. A name that is no longer
/// in the file is known as long as it has sessions.
pub fn check_names(
    generation: &Generation,
    sessions: &Registry,
    filter: &SessionFilter,
) -> Result<(), ControlError> {
    let is_live = |is_it: &dyn Fn(&LiveSession) -> bool| sessions.any(is_it);
    if let Some(name) = &filter.upstream
        && generation.find_group(name).is_none()
        && !is_live(&|live| *live.identity.upstream == **name)
    {
        return Err(no_upstream(generation, name));
    }
    if let Some(name) = &filter.route
        && !generation
            .labels
            .routes
            .iter()
            .any(|known| **known == **name)
        && !is_live(&|live| *live.identity.route == **name)
    {
        let names = generation.labels.routes.iter().map(|name| &**name);
        return Err(ControlError::not_found(
            format!("there is no route {name:?}"),
            one_of(names),
        ));
    }
    if let Some(server) = filter.server {
        let groups = generation.groups().iter().filter(|group| {
            let wanted = filter.upstream.as_deref();
            wanted.is_none_or(|wanted| wanted == group.name())
        });
        let members = || groups.clone().flat_map(|group| group.members());
        if !members().any(|member| member.server.address == server)
            && !is_live(&|live| live.identity.server == server)
        {
            let addresses: Vec<String> = members()
                .map(|member| member.server.address.to_string())
                .collect();
            return Err(ControlError::not_found(
                format!("there is no server {server}"),
                one_of(addresses.iter().map(String::as_str)),
            ));
        }
    }
    Ok(())
}

pub fn no_session(id: Uuid) -> ControlError {
    ControlError::not_found(
        format!("no live session has the id {id}"),
        "`prusik sessions` lists those that live",
    )
}

pub fn no_upstream(generation: &Generation, name: &str) -> ControlError {
    let names = generation.groups().iter().map(|group| group.name());
    ControlError::not_found(format!("there is no upstream {name:?}"), one_of(names))
}

/// Lists as many names as fit on a line.
pub fn one_of<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const SHOWN: usize = 20;
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names.dedup();
    let more = names.len().saturating_sub(SHOWN);
    names.truncate(SHOWN);
    let rest = match more {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("it is one of: {}{rest}", names.join(", "))
}

pub fn is_wanted(live: &LiveSession, filter: &SessionFilter) -> bool {
    let identity = &live.identity;
    let client = || identity.client.parse().ok();
    filter
        .upstream
        .as_deref()
        .is_none_or(|upstream| *identity.upstream == *upstream)
        && filter.server.is_none_or(|server| identity.server == server)
        && filter.client.is_none_or(|wanted| client() == Some(wanted))
        && filter.older_than.is_none_or(|age| live.age() > age)
        && filter.kind.is_none_or(|kind| live.kind == kind)
        && filter
            .user
            .as_deref()
            .is_none_or(|user| identity.user.as_deref() == Some(user))
        && filter.id.is_none_or(|id| identity.id == id)
        && filter
            .route
            .as_deref()
            .is_none_or(|route| *identity.route == *route)
        && filter
            .path
            .as_deref()
            .is_none_or(|part| identity.path.contains(part))
        && filter
            .search
            .as_deref()
            .is_none_or(|part| is_found(live, part))
}

/// `parts`: in lower case. Each part must occur in one of the session's texts.
fn is_found(live: &LiveSession, parts: &str) -> bool {
    let identity = &live.identity;
    let texts: [&str; 6] = [
        &identity.client,
        identity.user.as_deref().unwrap_or_default(),
        &identity.upstream,
        &identity.route,
        &identity.path,
        &identity.host,
    ];
    let ends = [identity.server.to_string(), identity.id.to_string()];
    parts.split_whitespace().all(|part| {
        let has = |text: &str| text.to_lowercase().contains(part);
        texts.into_iter().any(has) || ends.iter().any(|text| has(text))
    })
}

pub fn session(live: &LiveSession) -> view::Session {
    let identity = &live.identity;
    let traffic = &live.traffic;
    view::Session {
        id: identity.id.to_string(),
        kind: live.kind.name().to_owned(),
        listener: identity.listener.to_string(),
        route: identity.route.to_string(),
        upstream: identity.upstream.to_string(),
        server: identity.server.to_string(),
        client: identity.client.to_string(),
        host: identity.host.to_string(),
        path: identity.path.to_string(),
        user_agent: identity.user_agent.as_ref().map(ToString::to_string),
        user: identity.user.as_ref().map(ToString::to_string),
        age_ms: live.age().as_millis() as u64,
        bytes_in: traffic.bytes_in.load(Relaxed),
        bytes_out: traffic.bytes_out.load(Relaxed),
        messages_in: traffic.messages_in.load(Relaxed),
        messages_out: traffic.messages_out.load(Relaxed),
    }
}
