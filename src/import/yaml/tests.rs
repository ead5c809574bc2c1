use proptest::prelude::*;

use super::*;

fn list(items: impl IntoIterator<Item = Yaml>) -> Yaml {
    let mut list = List::default();
    for item in items {
        list.push(item);
    }
    Yaml::List(list)
}

#[test]
fn what_fits_stands_on_a_line_and_comments_stand_above() {
    let mut route = Map::default();
    route.comment("server a.test");
    route.set(
        "match",
        Map::default().with("path_prefix", Yaml::text("/a/")),
    );
    route.set("upstream", Yaml::text("app"));
    let mut set = Map::default();
    for name in ["Host", "X-Forwarded-For", "X-Forwarded-Proto", "X-Real-IP"] {
        set.set(name, Yaml::text("$proxy_add_x_forwarded_for"));
    }
    let request = Map::default().with("request", Map::default().with("set", set));
    route.set("headers", request);
    let mut root = Map::default();
    root.comment("top");
    root.set("trusted_proxies", Yaml::texts(["10.0.0.0/8", "::1"]));
    root.set("routes", list([route.into()]));
    root.comment("end");
    assert_eq!(
        root.write(),
        "# top
trusted_proxies: [10.0.0.0/8, \"::1\"]

routes:
  # server a.test
  - match: { path_prefix: /a/ }
    upstream: app
    headers:
      request:
        set:
          Host: $proxy_add_x_forwarded_for
          X-Forwarded-For: $proxy_add_x_forwarded_for
          X-Forwarded-Proto: $proxy_add_x_forwarded_for
          X-Real-IP: $proxy_add_x_forwarded_for
# end
"
    );
}

#[test]
fn what_would_be_read_as_something_else_is_quoted() {
    for (text, written) in [
        ("/app", "/app"),
        ("$host:$server_port", "$host:$server_port"),
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("[::]:80", "\"[::]:80\""),
        ("off", "\"off\""),
        ("12", "\"12\""),
        ("1e3", "\"1e3\""),
        ("", "\"\""),
        ("a: b", "\"a: b\""),
        ("a,b", "\"a,b\""),
        ("^/x\\.php$", "'^/x\\.php$'"),
        ("it's \"so\"", "'it''s \"so\"'"),
        ("a\nb", "\"a\\nb\""),
    ] {
        assert_eq!(scalar(text), written);
    }
}

#[test]
fn a_comment_ends_with_its_line_and_spoils_nothing() {
    let mut root = Map::default();
    root.comment("a\u{feff}b\u{2028}evil: 1\u{85}evil: 2\u{0}\nc");
    root.set("key", Yaml::text("\u{feff}\"\u{2028}\u{ffff}"));
    let read: serde_yaml::Value = serde_yaml::from_str(&root.write()).unwrap();
    assert_eq!(read.as_mapping().map(serde_yaml::Mapping::len), Some(1));
    assert_eq!(read["key"].as_str(), Some("\u{feff}\"\u{2028}\u{ffff}"));
}

proptest! {
    /// By another reader of YAML, in a block and in braces.
    #[test]
    fn every_text_is_read_as_it_was(text in "\\PC{0,12}|[ -~\\n\\t]{0,40}", key in "[!-~ ][ -~]{0,8}") {
        let flow = Map::default().with(key.clone(), Yaml::text(text.clone()));
        let mut block = Map::default();
        block.comment("so that it does not stand on a line");
        block.set(key.clone(), Yaml::text(text.clone()));
        for map in [flow, block] {
            let root = Map::default().with("list", list([list([map.into()])]));
            let read: serde_yaml::Value = serde_yaml::from_str(&root.write()).unwrap();
            let number = key.parse::<u16>().ok().filter(|number| number.to_string() == key);
            let found = match number {
                Some(number) => &read["list"][0][0][serde_yaml::Value::from(number)],
                None => &read["list"][0][0][key.as_str()],
            };
            prop_assert_eq!(found.as_str(), Some(text.as_str()));
        }
    }
}
