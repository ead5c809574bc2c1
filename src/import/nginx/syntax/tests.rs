use proptest::prelude::*;

use super::super::tree::quoted;
use super::*;

fn read(text: &str) -> Result<Vec<Directive>, String> {
    parse(&Arc::from("f"), text).map_err(|error| error.to_string())
}

fn words(text: &str) -> Vec<String> {
    let directives = read(text).unwrap();
    let first = &directives[0];
    [&[first.name.clone()][..], &first.args].concat()
}

#[test]
fn a_directive_has_words_and_perhaps_a_block() {
    let tree = read("a; b c { d 'e f'; # no }\n g\n h; }\ni {}").unwrap();
    assert_eq!(tree.len(), 3);
    let texts: Vec<String> = tree[1].inner().iter().map(Directive::text).collect();
    assert_eq!(texts, ["d \"e f\";", "g h;"]);
    assert_eq!(tree[1].inner()[1].place.to_string(), "f:2:2");
    assert_eq!(tree[2].block, Some(Vec::new()));
}

#[test]
fn quotes_escapes_and_variables_are_read_as_nginx_reads_them() {
    for (text, found) in [
        ("a b\\ c;", &["a", "b\\ c"][..]),
        ("a ~ \\.php$;", &["a", "~", "\\.php$"]),
        ("a 'it\\'s' \"\\\"\";", &["a", "it's", "\""]),
        ("a \"x\\\\y\\n\";", &["a", "x\\y\n"]),
        ("a ${b}c $d;", &["a", "${b}c", "$d"]),
        ("a b#c;", &["a", "b#c"]),
        ("a \"^/x{2}$\";", &["a", "^/x{2}$"]),
        ("a ($b = \"\");", &["a", "($b", "=", "", ")"]),
        ("a\n\tb\r\n;", &["a", "b"]),
        ("\u{feff}a;", &["a"]),
    ] {
        assert_eq!(words(text), found, "{text}");
    }
}

#[test]
fn lua_is_skipped_by_its_own_rules() {
    let tree = read(
        "content_by_lua_block { local a = \"}\" -- }\n local b = { [[ } ]], '}' } --[[ } ]] }\n\
         set_by_lua_block $x { return [==[ ]] } ]==] } b;",
    )
    .unwrap();
    let names: Vec<&str> = tree
        .iter()
        .map(|directive| directive.name.as_str())
        .collect();
    assert_eq!(names, ["content_by_lua_block", "set_by_lua_block", "b"]);
}

#[test]
fn what_is_broken_has_a_place_and_a_hint() {
    for (text, error) in [
        ("a", "f:1:1: \"a\" is not ended\n  hint: write ; behind it"),
        (
            "a {\n b }",
            "f:2:2: \"b\" is not ended\n  hint: write ; behind it",
        ),
        (
            "x;\n a { b;",
            "f:2:2: the block of \"a\" has no end\n  hint: close it with }",
        ),
        (
            "a; }",
            "f:1:4: unexpected \"}\"\n  hint: no block is open here",
        ),
        (
            " ;",
            "f:1:2: unexpected \";\"\n  hint: it ends no directive: remove it",
        ),
        (
            "{ }",
            "f:1:1: unexpected \"{\"\n  hint: a block has a name before it",
        ),
        (
            "a 'b",
            "f:1:3: a quoted word has no end\n  hint: close it with '",
        ),
        (
            "a 'b'c;",
            "f:1:6: unexpected \"c\"\n  hint: a blank or ; follows a quoted word",
        ),
        (
            "a_by_lua_block { (",
            "f:1:16: this block of Lua has no end\n  hint: close it with }",
        ),
    ] {
        assert_eq!(read(text).unwrap_err(), error, "{text}");
    }
    assert!(read(&"a {".repeat(100)).unwrap_err().contains("too deeply"));
    assert!(read("a \u{fffd};").unwrap_err().contains("not UTF-8"));
}

fn written(directives: &[Directive]) -> String {
    let mut text = String::new();
    for directive in directives {
        text.push_str(&quoted(&directive.name));
        for arg in &directive.args {
            text.push(' ');
            text.push_str(&quoted(arg));
        }
        match &directive.block {
            Some(block) => text.push_str(&format!(" {{ {} }}\n", written(block))),
            None => text.push_str(" ;\n"),
        }
    }
    text
}

fn plain(directives: &[Directive]) -> Vec<(String, Vec<String>, Option<String>)> {
    let of = |one: &Directive| {
        let block = one
            .block
            .as_ref()
            .map(|block| format!("{:?}", plain(block)));
        (one.name.clone(), one.args.clone(), block)
    };
    directives.iter().map(of).collect()
}

fn any_directive() -> impl Strategy<Value = Directive> {
    let place = Place {
        file: Arc::from("f"),
        line: 1,
        col: 1,
    };
    let leaf = (
        "[a-z_]{1,8}",
        proptest::collection::vec("[ -~\\n]{0,12}", 0..4),
    )
        .prop_map(move |(name, args)| Directive {
            name,
            args,
            block: None,
            place: place.clone(),
        });
    leaf.prop_recursive(3, 20, 4, |inner| {
        (inner.clone(), proptest::collection::vec(inner, 0..4)).prop_map(|(mut outer, block)| {
            outer.block = Some(block);
            outer
        })
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_as_it_was(tree in proptest::collection::vec(any_directive(), 0..5)) {
        let text = written(&tree);
        let again = read(&text);
        prop_assert_eq!(again.map(|again| plain(&again)), Ok(plain(&tree)), "{}", text);
    }

    #[test]
    fn no_text_is_a_panic_and_each_error_has_a_place(text in "[a-z {};\"'#\\\\$\\n]{0,60}") {
        if let Err(error) = read(&text) {
            prop_assert!(error.starts_with("f:"), "{}", error);
        }
    }
}
