use std::sync::Arc;

use super::super::syntax::parse;
use super::*;

/// The YAML of the block's only `return`, `rewrite` or `if`.
fn answer(text: &str) -> (Option<PathMatch>, String, usize) {
    let tree = parse(&Arc::from("f"), text).unwrap();
    let levels = Levels::new(&tree);
    let variables = Variables::default();
    let mut notes = Vec::new();
    let last = tree.last().unwrap();
    let found = match last.name.as_str() {
        "return" => Some(Answer {
            path: None,
            body: returned(last, &levels, &variables, &mut notes),
        }),
        _ => rewritten(last, redirects(last).unwrap(), &variables, &mut notes),
    };
    let (path, yaml) = match found {
        Some(Answer { path, body }) => (path, body.write().replace('\n', " ")),
        None => (None, String::new()),
    };
    (path, yaml, notes.len())
}

#[test]
fn a_return_redirects_or_responds() {
    for (text, yaml) in [
        (
            "return 301 https://$host$request_uri;",
            "redirect: to: https://$host$request_uri status: 301",
        ),
        ("return /new;", "redirect: to: /new status: 302"),
        ("return 204;", "respond: status: 204"),
        (
            "return 200 'ok ok';",
            "respond: status: 200 body: \"ok ok\"",
        ),
        (
            "default_type application/json; return 200 '{}';",
            "respond: status: 200 body: \"{}\"  headers: response: { set: { Content-Type: application/json } }",
        ),
    ] {
        let (_, found, notes) = answer(text);
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(
            (words(&found).as_str(), notes),
            (words(yaml).as_str(), 0),
            "{text}"
        );
    }
    for text in [
        "return 444;",
        "return 301 https://$none;",
        "return 200 $host;",
    ] {
        assert_eq!(answer(text).2, 1, "{text}");
    }
}

#[test]
fn a_rewrite_redirects_with_the_rest_of_the_path() {
    let below = |path: &str| Some(PathMatch::Prefix(path.to_owned()));
    for (text, path, to) in [
        (
            "rewrite ^ https://$host$request_uri? permanent;",
            None,
            "https://$host$request_uri",
        ),
        (
            "rewrite ^(.*)$ https://$host$1 permanent;",
            None,
            "https://$host$uri$is_args$args",
        ),
        (
            "rewrite ^/(.*)$ https://a.test/$1 redirect;",
            None,
            "https://a.test$uri$is_args$args",
        ),
        (
            "rewrite ^/old/(.*)$ /new/$1 permanent;",
            below("/old/"),
            "/new$uri$is_args$args",
        ),
        (
            "rewrite ^/old(/.*)?$ /new$1 permanent;",
            below("/old"),
            "/new$uri$is_args$args",
        ),
        (
            "rewrite ^/a\\.html$ /b permanent;",
            Some(PathMatch::Exact("/a.html".into())),
            "/b$is_args$args",
        ),
    ] {
        let (found, yaml, notes) = answer(text);
        assert_eq!((found, notes), (path, 0), "{text}");
        assert!(yaml.contains(&format!("to: {to} ")), "{text}: {yaml}");
    }
    for text in [
        "rewrite ^/(a|b)/(.*)$ /$2/$1 permanent;",
        "rewrite /x(.*) /y$1 redirect;",
    ] {
        assert_eq!(answer(text).2, 1, "{text}");
    }
}

#[test]
fn a_condition_is_one_of_routes() {
    let of = |text: &str| {
        let tree = parse(&Arc::from("f"), &format!("if {text} {{ return 403; }}")).unwrap();
        (condition(&tree[0]), protects(&tree[0], &Levels::new(&tree)))
    };
    let is = |change: fn(&mut Condition)| {
        let mut condition = Condition::default();
        change(&mut condition);
        Some(condition)
    };
    for (text, found) in [
        ("($host = a.test)", is(|c| c.hosts = vec!["a.test".into()])),
        (
            "($request_method = 'OPTIONS')",
            is(|c| c.methods = vec!["OPTIONS".into()]),
        ),
        (
            "($request_method ~ ^(PUT|POST)$)",
            is(|c| c.methods = vec!["POST".into(), "PUT".into()]),
        ),
        ("($scheme != https)", is(|c| c.is_tls = Some(false))),
        (
            "($http_x_a = \"b\")",
            is(|c| c.headers = vec![("x-a".into(), "b".into())]),
        ),
        ("($http_x_a = \"\")", None),
        ("(-f $request_filename)", None),
    ] {
        assert_eq!(of(text).0, found, "{text}");
    }
    for (text, closes) in [
        ("($http_user_agent ~* bot)", false),
        ("($request_method !~ ^GET$)", true),
        ("($host != good.test)", true),
        ("($arg_key != s3)", true),
        ("($cookie_s = \"\")", true),
        ("($http_x_key = \"\")", true),
        ("($arg_old = 1)", true),
        ("($http_x_key != secret)", true),
        ("($allowed = 0)", true),
        ("($blocked)", true),
    ] {
        assert_eq!(of(text).1, closes, "{text}");
    }
}

#[test]
fn captures_are_kept_apart_from_what_follows() {
    assert_eq!(captures("/a/$1b/$2/").as_deref(), Some("/a/${1}b/$2/"));
    assert_eq!(captures("/a/$host"), None);
}
