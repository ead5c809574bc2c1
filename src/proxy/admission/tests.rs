use tokio::sync::mpsc;

use super::*;

const CONFIG: &str = "
listeners: [{ listen: 127.0.0.1:0, name: public }, { listen: 127.0.0.1:0, name: inner }]
upstreams: { chat: { servers: [127.0.0.1:9080] } }
routes:
  - { name: inner, match: { path_prefix: /inner, listener: inner }, upstream: chat }
  - { name: chat, match: { path_prefix: /chat }, upstream: chat }
  - { name: admin, match: { path_prefix: /admin }, respond: { status: 403 } }
";

/// The name of the route, and the path in normal form where that is another.
fn found(listener: usize, target: &str) -> Result<(Option<String>, Option<String>), Rejection> {
    let config = crate::config::parse("test", CONFIG).unwrap();
    let (departures, _) = mpsc::unbounded_channel();
    let generation = Generation::new(config, departures);
    let request = RequestHeader::build("GET", target.as_bytes(), None).unwrap();
    let routing = find_route(&generation, ListenerId::new(listener), &request)?;
    let name = routing.route().map(|id| generation.route(id).name.clone());
    Ok((name, routing.path().map(str::to_owned)))
}

fn names(name: &str, path: Option<&str>) -> (Option<String>, Option<String>) {
    (Some(name.to_owned()), path.map(str::to_owned))
}

#[test]
fn the_route_is_found_by_listener_and_by_the_path_in_normal_form() {
    assert_eq!(found(0, "/chat/room?x=1"), Ok(names("chat", None)));
    assert_eq!(
        found(0, "/admin/../chat/room?x=1"),
        Ok(names("chat", Some("/chat/room")))
    );
    assert_eq!(found(1, "/inner"), Ok(names("inner", None)));
    assert_eq!(found(0, "/inner"), Ok((None, None)));
}

#[test]
fn a_path_that_servers_could_read_as_one_of_another_route_is_refused() {
    for target in ["/chat%2f..%2fadmin", "/chat/..%2fadmin"] {
        let rejection = found(0, target).unwrap_err();
        assert_eq!(rejection.status, StatusCode::BAD_REQUEST, "{target}");
    }
}

#[test]
fn a_route_without_room_says_whether_to_come_back_or_to_be_fewer() {
    let statuses =
        [Full::All, Full::Client, Full::User, Full::Rate].map(|full| rejection_of(full).status);
    assert_eq!(statuses.map(|status| status.as_u16()), [503, 429, 429, 429]);
}
