//! Query parameters and bodies of calls. Each value is checked, and unknown ones are refused. The
//! command line checks its arguments by the same rules.

use std::borrow::Cow;
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use uuid::Uuid;

use super::answer::Problem;
use super::{DrainOrder, SessionFilter, SessionOrder};
use crate::session::live::SessionKind;
use crate::websocket::frames::may_be_sent;

const DEFAULT_LIMIT: usize = 1000;
/// The most sessions on one page.
pub const MAX_LIMIT: usize = 10_000;
/// The limit of the file: timers add durations to the clock, and an unlimited sum would overflow.
const LONGEST: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

/// A duration in the notation of the file: `250ms`, `1h 30m`. `off` means zero.
pub fn duration(text: &str) -> Result<Duration, &'static str> {
    match humantime::parse_duration(text) {
        _ if text == "off" => Ok(Duration::ZERO),
        Ok(duration) if duration <= LONGEST => Ok(duration),
        Ok(_) => Err("write a duration of at most 3650d"),
        Err(_) => Err("write a duration with its unit, such as 30s or 5m"),
    }
}

/// A close code that may be sent.
pub fn code(text: &str) -> Result<u16, &'static str> {
    match text.parse() {
        Ok(code) if may_be_sent(code) => Ok(code),
        _ => Err("1012 says service restart, 1001 going away; 3000 to 4999 are yours"),
    }
}

pub fn filter(query: Option<&str>) -> Result<SessionFilter, Problem> {
    let names = [
        "upstream",
        "server",
        "client",
        "route",
        "path",
        "id",
        "kind",
        "user",
        "search",
        "older_than",
        "limit",
        "after",
        "order",
    ];
    let query = Query::parse(query, &names)?;
    let filter = SessionFilter {
        upstream: query.value("upstream").map(str::to_owned),
        server: query.parsed(
            "server",
            "write an address and port, such as 127.0.0.1:9080",
        )?,
        client: query.parsed("client", "write an IP address, such as 192.0.2.7")?,
        route: query.value("route").map(str::to_owned),
        path: query.value("path").map(str::to_owned),
        id: query.parsed("id", "take it from the list of sessions, or the log")?,
        kind: query.read("kind", kind)?,
        user: query.read("user", user)?,
        search: query.value("search").map(str::to_lowercase),
        older_than: query.read("older_than", duration)?,
        after: query.parsed("after", "take it from \"next\" of the page before")?,
        limit: query.read("limit", limit)?.unwrap_or(DEFAULT_LIMIT),
        order: query.read("order", order)?.unwrap_or_default(),
    };
    Ok(filter)
}

/// The name of a kind of session.
pub fn kind(text: &str) -> Result<SessionKind, &'static str> {
    SessionKind::of_name(text).ok_or("write websocket or stream")
}

/// The name of a user. The empty one is nobody's.
pub fn user(text: &str) -> Result<String, &'static str> {
    match text {
        "" => Err("name a user, as `prusik sessions` shows it"),
        _ => Ok(text.to_owned()),
    }
}

/// Whose sessions a call ends, and with which code.
pub fn close_user(query: Option<&str>) -> Result<(String, Option<u16>), Problem> {
    let query = Query::parse(query, &["user", "code"])?;
    let code = query.read("code", code)?;
    match query.read("user", user)? {
        Some(user) => Ok((user, code)),
        None => Err(Problem::bad_request(
            "no user is named, so no session is closed",
            "add ?user=NAME; one session is closed by its id: /api/v1/sessions/ID",
        )),
    }
}

/// The only parameter of a call that ends a session.
pub fn close_code(query: Option<&str>) -> Result<Option<u16>, Problem> {
    Query::parse(query, &["code"])?.read("code", code)
}

/// For calls that take no parameters.
pub fn none(query: Option<&str>) -> Result<(), Problem> {
    Query::parse(query, &[]).map(drop)
}

pub fn session_id(text: &str) -> Result<Uuid, Problem> {
    text.parse().map_err(|_| {
        wrong(
            "the session's id",
            text,
            "take it from the list of sessions",
        )
    })
}

/// The body of a drain. An empty body means the values of the file.
pub fn drain_order(body: &[u8]) -> Result<DrainOrder, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Order {
        window: Option<String>,
        code: Option<i64>,
    }

    if body.trim_ascii().is_empty() {
        return Ok(DrainOrder::default());
    }
    let no_order = |why: &dyn Display| {
        Problem::bad_request(
            format!("the body is no order: {why}"),
            "write {\"window\": \"30s\", \"code\": 1012}, either or both, or leave the body out",
        )
    };
    // serde would also accept a list of the values, in the order of the struct's fields.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(no_order(&"it is not a JSON object"));
    }
    let order: Order = serde_json::from_slice(body).map_err(|error| no_order(&error))?;
    let window = order
        .window
        .map(|text| duration(&text).map_err(|hint| wrong("\"window\"", &text, hint)));
    let code = order.code.map(|number| {
        let text = number.to_string();
        code(&text).map_err(|hint| wrong("\"code\"", &text, hint))
    });
    Ok(DrainOrder {
        window: window.transpose()?,
        code: code.transpose()?,
    })
}

fn order(text: &str) -> Result<SessionOrder, &'static str> {
    match text {
        "oldest" => Ok(SessionOrder::OldestFirst),
        "newest" => Ok(SessionOrder::NewestFirst),
        _ => Err("write oldest or newest, which comes first"),
    }
}

fn limit(text: &str) -> Result<usize, &'static str> {
    match text.parse() {
        Ok(limit) if (1..=MAX_LIMIT).contains(&limit) => Ok(limit),
        _ => Err("write a number from 1 to 10000"),
    }
}

fn wrong(what: &str, text: &str, hint: &str) -> Problem {
    Problem::bad_request(format!("{what} cannot be {text:?}"), hint)
}

/// Only known names, each at most once.
struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    fn parse(query: Option<&'a str>, known: &[&str]) -> Result<Self, Problem> {
        let mut pairs: Vec<(Cow<'_, str>, Cow<'_, str>)> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if !known.contains(&name.as_ref()) {
                let hint = match known {
                    [] => "this call takes none".to_owned(),
                    _ => format!("this call takes {}", known.join(", ")),
                };
                let error = format!("unknown parameter {name:?}");
                return Err(Problem::bad_request(error, hint));
            }
            if pairs.iter().any(|(other, _)| *other == name) {
                let error = format!("the parameter {name:?} is there twice");
                return Err(Problem::bad_request(error, "give it once"));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    fn value(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(known, _)| known == name)?;
        Some(value)
    }

    /// The error of `reader` is the hint.
    fn read<T>(
        &self,
        name: &str,
        reader: impl Fn(&str) -> Result<T, &'static str>,
    ) -> Result<Option<T>, Problem> {
        let Some(text) = self.value(name) else {
            return Ok(None);
        };
        match reader(text) {
            Ok(value) => Ok(Some(value)),
            Err(hint) => Err(wrong(&format!("\"{name}\""), text, hint)),
        }
    }

    fn parsed<T: FromStr>(&self, name: &str, hint: &'static str) -> Result<Option<T>, Problem> {
        self.read(name, |text| text.parse().map_err(|_| hint))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of<T: std::fmt::Debug>(result: Result<T, Problem>) -> String {
        let problem = result.unwrap_err();
        assert_eq!(problem.status, 400);
        assert!(!problem.failure.hint.is_empty());
        problem.failure.error
    }

    #[test]
    fn without_parameters_the_filter_admits_all_a_thousand_a_page() {
        let expected = SessionFilter {
            limit: 1000,
            ..SessionFilter::default()
        };
        assert_eq!(filter(None).unwrap(), expected);
        assert_eq!(filter(Some("")).unwrap(), expected);
    }

    #[test]
    fn every_parameter_of_the_filter_is_read() {
        let query = "upstream=chat%20a&server=%5B::1%5D:9080&client=192.0.2.7&older_than=1h+30m\
                     &route=c%3Ad&path=%3Fa%3D1&id=0190aaaa-0000-7000-8000-000000000002&search=Chat\
                     &kind=stream&user=CN%3Da+b&limit=10000&after=0190aaaa-0000-7000-8000-000000000001&order=newest";
        let expected = SessionFilter {
            upstream: Some("chat a".to_owned()),
            server: Some("[::1]:9080".parse().unwrap()),
            client: Some("192.0.2.7".parse().unwrap()),
            route: Some("c:d".to_owned()),
            path: Some("?a=1".to_owned()),
            id: Some("0190aaaa-0000-7000-8000-000000000002".parse().unwrap()),
            kind: Some(SessionKind::Stream),
            user: Some("CN=a b".to_owned()),
            search: Some("chat".to_owned()),
            older_than: Some(Duration::from_secs(90 * 60)),
            after: Some("0190aaaa-0000-7000-8000-000000000001".parse().unwrap()),
            limit: 10_000,
            order: SessionOrder::NewestFirst,
        };
        assert_eq!(filter(Some(query)).unwrap(), expected);
    }

    #[test]
    fn a_wrong_parameter_is_named() {
        for (query, name) in [
            ("server=chat", "\"server\""),
            ("client=10.0.0.0/8", "\"client\""),
            ("older_than=30", "\"older_than\""),
            ("older_than=4000d", "\"older_than\""),
            ("limit=0", "\"limit\""),
            ("limit=10001", "\"limit\""),
            ("limit=-1", "\"limit\""),
            ("after=1", "\"after\""),
            ("order=first", "\"order\""),
            ("user=", "\"user\""),
            ("sever=127.0.0.1:1", "\"sever\""),
            ("limit=1&limit=2", "\"limit\""),
        ] {
            let error = error_of(filter(Some(query)));
            assert!(error.contains(name), "{query}: {error}");
        }
        assert!(error_of(none(Some("pretty"))).contains("\"pretty\""));
    }

    #[test]
    fn a_close_code_is_one_that_may_be_sent() {
        assert_eq!(close_code(None).unwrap(), None);
        assert_eq!(close_code(Some("code=4001")).unwrap(), Some(4001));
        for query in ["code=1005", "code=999", "code=5000", "code=x", "code=70000"] {
            assert!(error_of(close_code(Some(query))).contains("\"code\""));
        }
    }

    #[test]
    fn sessions_are_closed_only_of_a_user_who_is_named() {
        let alice = |code| ("alice".to_owned(), code);
        assert_eq!(close_user(Some("user=alice")).unwrap(), alice(None));
        let with_code = close_user(Some("code=4001&user=alice")).unwrap();
        assert_eq!(with_code, alice(Some(4001)));
        for query in [
            None,
            Some(""),
            Some("code=4001"),
            Some("user="),
            Some("user=&code=4001"),
        ] {
            assert!(error_of(close_user(query)).contains("user"), "{query:?}");
        }
        assert!(error_of(close_user(Some("user=a&code=1006"))).contains("\"code\""));
        assert!(error_of(close_user(Some("user=a&route=b"))).contains("\"route\""));
    }

    #[test]
    fn an_order_says_what_it_wants_or_nothing() {
        for empty in ["", " \n", "{}"] {
            assert_eq!(
                drain_order(empty.as_bytes()).unwrap(),
                DrainOrder::default()
            );
        }
        let order = drain_order(br#"{"window": "30s", "code": 1001}"#).unwrap();
        assert_eq!(order.window, Some(Duration::from_secs(30)));
        assert_eq!(order.code, Some(1001));
        for off in [r#"{"window": "0s"}"#, r#"{"window": "off"}"#] {
            let order = drain_order(off.as_bytes()).unwrap();
            assert_eq!(order.window, Some(Duration::ZERO));
        }
    }

    #[test]
    fn a_wrong_order_is_refused() {
        for (body, word) in [
            (r#"{"window": "30"}"#, "window"),
            (r#"{"code": 1006}"#, "code"),
            (r#"{"code": -1}"#, "code"),
            (r#"{"code": 66548}"#, "code"),
            (r#"{"windw": "30s"}"#, "windw"),
            (r#"["30s", 1012]"#, "order"),
            ("window=30s", "order"),
        ] {
            let error = error_of(drain_order(body.as_bytes()));
            assert!(error.contains(word), "{body}: {error}");
        }
    }
}
