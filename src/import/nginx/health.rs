//! The health checks of the module `nginx_upstream_check_module`, which many builds have.

use super::notes::Note;
use super::tree::Directive;
use crate::import::yaml::{Map, Yaml};

/// `None`: the group has no `check`.
pub fn check(upstream: &Directive, notes: &mut Vec<Note>) -> Option<Map> {
    let check = upstream.each("check").last()?;
    let value = |name: &str| {
        let words = check.args.iter().filter_map(|word| word.split_once('='));
        let found = words.rev().find(|(key, _)| *key == name);
        found.map(|(_, value)| value)
    };
    let mut map = Map::default();
    match value("type").unwrap_or("tcp") {
        "http" => map.set("type", Yaml::text("http")),
        "tcp" => map.set("type", Yaml::text("tcp")),
        other => {
            map.set("type", Yaml::text("tcp"));
            notes.push(Note::left_out(
                check,
                format!("a check by {other} is one by tcp here"),
            ));
        }
    }
    let is_http = value("type") == Some("http");
    if is_http {
        request(upstream, &mut map, notes);
        expect(upstream, &mut map);
    }
    let number = |name: &str| value(name).and_then(|value| value.parse::<u16>().ok());
    if let Some(port) = number("port").filter(|port| *port > 0) {
        map.set("port", Yaml::plain(port));
    }
    // The module's defaults are not ours.
    let milliseconds = |name: &str, default: u64| {
        let written = value(name).and_then(|value| value.parse().ok());
        std::time::Duration::from_millis(written.filter(|time| *time > 0).unwrap_or(default))
    };
    let time = |time| Yaml::plain(super::units::written(time));
    map.set("interval", time(milliseconds("interval", 30_000)));
    map.set("timeout", time(milliseconds("timeout", 1_000)));
    map.set("rise", Yaml::plain(number("rise").unwrap_or(2).max(1)));
    map.set("fall", Yaml::plain(number("fall").unwrap_or(5).max(1)));
    if value("default_down") != Some("false") {
        map.set("start", Yaml::text("down"));
    }
    Some(map)
}

/// `check_http_send "HEAD /healthz HTTP/1.0\r\nHost: a\r\n\r\n"`.
fn request(upstream: &Directive, map: &mut Map, notes: &mut Vec<Note>) {
    let Some(send) = upstream.each("check_http_send").last() else {
        return;
    };
    let mut lines = send.arg(0).lines();
    let mut words = lines.next().unwrap_or_default().split_whitespace();
    let method = words.next().unwrap_or("GET");
    if let Some(path) = words
        .next()
        .filter(|path| path.starts_with('/') && *path != "/")
    {
        map.set("path", Yaml::text(path));
    }
    let fields = lines.filter_map(|line| line.split_once(':'));
    let mut hosts = fields.filter(|(name, _)| name.eq_ignore_ascii_case("host"));
    if let Some((_, host)) = hosts.next() {
        // One that could not be sent was none.
        if http::HeaderValue::from_str(host.trim()).is_ok() && !host.trim().is_empty() {
            map.set("host", Yaml::text(host.trim()));
        }
    }
    if method != "GET" {
        notes.push(Note::no_meaning(send, "checks ask by GET"));
    }
}

fn expect(upstream: &Directive, map: &mut Map) {
    let words = upstream.each("check_http_expect_alive").last();
    let words = words.map_or(&[][..], |expect| &expect.args);
    let ranges = words.iter().filter_map(|word| {
        let class = word.strip_prefix("http_")?.strip_suffix("xx")?;
        matches!(class, "1" | "2" | "3" | "4" | "5").then(|| format!("{class}00-{class}99"))
    });
    let ranges: Vec<String> = ranges.collect();
    // 200-399 is the default of both.
    if !ranges.is_empty() && ranges != ["200-299", "300-399"] {
        map.set("expect", Yaml::texts(ranges));
    }
}
