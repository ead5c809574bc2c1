use std::sync::Arc;

use proptest::prelude::*;

use super::super::syntax::parse;
use super::*;

/// What nginx does (`ngx_http_core_find_location`), in its own order of steps.
fn by_nginx<'l, 't>(locations: &'l [Location<'t>], path: &str) -> Option<&'l Location<'t>> {
    if let Some(exact) = of_kind(locations, Kind::Exact).find(|exact| exact.pattern == path) {
        return Some(exact);
    }
    let prefixes = locations
        .iter()
        .filter(|location| matches!(location.kind, Kind::Prefix | Kind::FinalPrefix));
    let longest = prefixes
        .filter(|location| path.starts_with(&location.pattern))
        .max_by_key(|location| location.pattern.len());
    if let Some(longest) = longest {
        let within = by_nginx(&longest.inner, path);
        match within {
            // An exact one, or an expression, within decides.
            Some(found) if matches!(found.kind, Kind::Exact | Kind::Regex) => return within,
            _ => {}
        }
        if longest.kind != Kind::FinalPrefix
            && let Some(regex) = first_regex(locations, path)
        {
            return Some(regex);
        }
        return within.or(Some(longest));
    }
    first_regex(locations, path)
}

fn first_regex<'l, 't>(locations: &'l [Location<'t>], path: &str) -> Option<&'l Location<'t>> {
    of_kind(locations, Kind::Regex).find(|location| {
        PathMatch::Regex(PathRegex::parse(&location.pattern).unwrap()).matches(path)
    })
}

/// The directives that serve the path, by nginx and by the list.
fn both(text: &str, path: &str) -> (Option<String>, Option<String>) {
    let tree = parse(&Arc::from("f"), text).unwrap();
    let levels = Levels::new(&tree);
    let locations = read(&levels, 0);
    let nginx = by_nginx(&locations, path).map(|location| location.directive.text());
    let listed = ordered(&levels);
    let list = listed.iter().find(|located| located.path.matches(path));
    (nginx, list.map(|located| located.directive.text()))
}

#[test]
fn the_first_of_the_list_is_what_nginx_takes() {
    let text = "
        location / { }
        location /app { }
        location /app/ { location ~ \\.php$ { } location /app/deep/ { } location = /app/one { } }
        location = /app { }
        location ^~ /static/ { location /static/x { } }
        location /static/y/z { }
        location ~ \\.php$ { }
        location ~* \\.PNG$ { }
        location ~ ^/app/v[0-9] { }
        location /images { }";
    for path in [
        "/",
        "/x",
        "/app",
        "/application",
        "/app/",
        "/app/x",
        "/app/x.php",
        "/app/deep/x",
        "/app/deep/x.php",
        "/app/one",
        "/app/v1",
        "/static/a.php",
        "/static/x",
        "/static/x.png",
        "/static/y/z",
        "/static/y/z.js",
        "/images/a.png",
        "/images/a.gif",
        "/a.php",
        "/b.PnG",
    ] {
        let (nginx, list) = both(text, path);
        assert_eq!(list, nginx, "{path}");
    }
}

#[test]
fn an_expression_is_narrowed_to_a_prefix_or_not_at_all() {
    for (regex, prefix, narrow) in [
        ("\\.php$", "/", Narrowed::To("\\.php$".into())),
        (
            "\\.(a|b)$",
            "/x/",
            Narrowed::To("^/x/.*(?:\\.(a|b)$)".into()),
        ),
        ("(?i)\\.a$", "/x", Narrowed::To("^/x.*(?i)(?:\\.a$)".into())),
        ("^/x/y", "/x/", Narrowed::To("^/x/y".into())),
        ("^/z", "/x/", Narrowed::Never),
        ("^/x?y", "/x/", Narrowed::Unknown),
        ("^/(x|y)/", "/x/", Narrowed::Unknown),
        ("\\.a$", "/x.y/", Narrowed::Unknown),
        ("x", "/x/", Narrowed::Unknown),
    ] {
        assert_eq!(narrowed(regex, prefix), narrow, "{regex} in {prefix}");
    }
}

#[test]
fn a_prefix_without_a_slash_is_of_characters() {
    let matches = |path| prefix("/app").matches(path);
    assert!(matches("/app") && matches("/app/x") && matches("/application"));
    assert!(!matches("/ap"));
    assert_eq!(prefix("/app/"), PathMatch::Prefix("/app/".to_owned()));
    assert_eq!(encoded("/a b"), "/a%20b");
}

proptest! {
    /// Without the two things that no expression can say, the list is what nginx does.
    #[test]
    fn any_locations_are_found_as_nginx_finds_them(
        heads in proptest::collection::vec(
            prop_oneof![
                "(/[ab]{0,2}){1,3}".prop_map(|path| format!("/{}", path.trim_matches('/'))),
                "/[ab]{1,2}/",
                "= /[ab]{1,2}/?",
                "\\^~ /[ab]{1,2}/?",
                "~ \\\\\\.[cd]\\$",
            ],
            1..7,
        ),
        paths in proptest::collection::vec("/[ab]{0,2}(/[ab]{0,2})?(\\.[cd])?", 12),
    ) {
        // nginx refuses a prefix that is there twice.
        let mut seen = std::collections::HashSet::new();
        let mut heads = heads;
        heads.retain(|head| seen.insert(head.trim_start_matches("^~ ").to_owned()));
        let text: String = heads.iter().map(|head| format!("location {head} {{ }}\n")).collect();
        prop_assume!(!text.contains("//"));
        for path in paths.iter().filter(|path| !path.contains("//")) {
            let (nginx, list) = both(&text, path);
            prop_assert_eq!(list, nginx, "{} in {}", path, text);
        }
    }
}
