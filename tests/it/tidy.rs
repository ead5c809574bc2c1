//! Holds the house: what `docs/architecture.md` and CONTRIBUTING.md say of the source tree is read
//! from the tree itself.
//!
//! A violation is shown as `file:line: what is wrong; what to do`. What may stay for now is in
//! `exceptions::EXCEPTIONS` with its reason, and an entry there that nothing needs any more fails
//! the test too, so that the list only ever says what is true.

mod checks;
mod circles;
mod exceptions;
mod source;

use std::collections::HashSet;
use std::path::Path;

use checks::{Violation, imports, layers, lengths, pure};
use circles::circles;
use exceptions::{EXCEPTIONS, LAYERS, PURE};
use source::Source;

#[test]
fn the_tree_is_as_the_house_rules_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = source::read(root, &["src", "tests", "fuzz", "benches"]);
    assert!(sources.len() > 200, "only {} files", sources.len());
    let mut found = lengths(&sources);
    found.extend(pure(&sources, PURE));
    found.extend(imports(&sources));
    found.extend(layers(&sources, LAYERS));
    found.extend(circles(&sources));
    let wrong = compare(&found, EXCEPTIONS);
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// What is neither right nor excepted, and what is excepted for nothing.
fn compare(found: &[Violation], exceptions: &[(&str, &str)]) -> Vec<String> {
    let excepted: HashSet<&str> = exceptions.iter().map(|(key, _)| *key).collect();
    let mut wrong: Vec<String> = found
        .iter()
        .filter(|violation| !excepted.contains(violation.key.as_str()))
        .map(|violation| format!("{} (its key: {:?})", violation.text, violation.key))
        .collect();
    let needed: HashSet<&str> = found
        .iter()
        .map(|violation| violation.key.as_str())
        .collect();
    for (key, reason) in exceptions {
        if !needed.contains(key) {
            wrong.push(format!(
                "tests/it/tidy/exceptions.rs: {key:?} no longer applies; take its line out"
            ));
        }
        if reason.is_empty() {
            wrong.push(format!(
                "tests/it/tidy/exceptions.rs: {key:?} has no reason"
            ));
        }
    }
    wrong
}

/// The keys of what the checks find in files of these texts.
fn keys(files: &[(&str, &str)], check: impl Fn(&[Source]) -> Vec<Violation>) -> Vec<String> {
    let sources = source::of_texts(files);
    check(&sources).into_iter().map(|found| found.key).collect()
}

#[test]
fn folders_that_import_each_other_are_found_in_every_way_of_writing_it() {
    for to_b in [
        "use crate::b::X;",
        "use crate::{c, b::{X, Y}};",
        "fn f() { crate::b::x() }",
        "use super::super::b::X;",
    ] {
        let files = [("src/a/one.rs", to_b), ("src/b/mod.rs", "use crate::a::Y;")];
        assert_eq!(keys(&files, imports), ["imports a b"], "{to_b}");
    }
}

#[test]
fn what_imports_upwards_or_has_no_layer_is_found() {
    let check = |sources: &[Source]| layers(sources, &[&["a"], &["b", "c"]]);
    let files = [
        ("src/a/mod.rs", "use crate::b::X;\nuse crate::c::Y;"),
        ("src/b.rs", "use crate::a::X;"),
        ("src/c/mod.rs", "use crate::b::X;"),
        ("src/d.rs", "use crate::b::X;"),
    ];
    assert_eq!(keys(&files, check), ["layer b a", "layer c b", "layer d"]);
}

#[test]
fn files_that_import_one_another_in_a_circle_are_found() {
    let circle = [
        ("src/a/mod.rs", "mod x; mod y; use x::X;"),
        ("src/a/x.rs", "use super::y::{self, Y as Z};"),
        ("src/a/y.rs", "use crate::{b::{B, c::C}, z};"),
        ("src/b/mod.rs", "pub mod c; fn b() {}"),
        ("src/b/c.rs", "fn c() { crate::a::x::f() }"),
        ("src/z.rs", ""),
    ];
    assert_eq!(keys(&circle, circles), ["circle a::x a::y b::c"]);
    // What a module says of its own children, and its children of it, is no circle by itself.
    let tree = [
        ("src/a/mod.rs", "mod x; use self::x::X;"),
        ("src/a/x.rs", "use super::super::z::Z;"),
        ("src/z.rs", "use std::a::x;"),
    ];
    assert_eq!(keys(&tree, circles), Vec::<String>::new());
}

#[test]
fn imports_of_tests_comments_and_strings_do_not_count() {
    for to_b in [
        "#[cfg(test)]\nmod tests { use crate::b::X; }",
        "// crate::b::X\n/* crate::b */ const A: &str = \"crate::b\";",
        "const A: &str = r#\"crate::b\"#; const Q: char = '\"'; // crate::b",
        "use crate::{c::{b::X}, d};",
        "#[cfg(test)]\nmod fake;",
    ] {
        let files = [
            ("src/a/mod.rs", to_b),
            (
                "src/a/fake.rs",
                if to_b.contains("fake") {
                    "use crate::b::X;"
                } else {
                    ""
                },
            ),
            ("src/a/tests.rs", "use crate::b::X;"),
            ("src/b/mod.rs", "use crate::a::Y;"),
        ];
        assert!(keys(&files, imports).is_empty(), "{to_b}");
    }
}

#[test]
fn sockets_and_pingora_in_pure_folders_are_found() {
    let check = |sources: &[Source]| pure(sources, &["src/pure", "src/half/one.rs"]);
    for text in [
        "use pingora::Error;",
        "use pingora_proxy::Session;",
        "use tokio::net::TcpStream;",
        "use tokio::{io, net::TcpStream};",
    ] {
        let files = [
            ("src/pure/a.rs", text),
            ("src/half/two.rs", text),
            ("src/half/one.rs", text),
        ];
        let found = keys(&files, check);
        assert_eq!(
            found,
            ["pure src/pure/a.rs", "pure src/half/one.rs"],
            "{text}"
        );
    }
    let harmless = [(
        "src/pure/a.rs",
        "// As pingora does.\nuse tokio::time::Instant;",
    )];
    assert_eq!(
        keys(&harmless, check),
        ["pure src/half/one.rs is not there"]
    );
}

#[test]
fn what_is_too_long_is_found() {
    let long_function = format!("fn long<'a>() {{{}}}\nfn short() {{}}", "\n".repeat(70));
    let long_file = "\n".repeat(501);
    let wide = format!("/// {}", "x".repeat(97));
    let code = format!("const A: &str = \"// {}\";", "x".repeat(97));
    let files = [
        ("src/a.rs", long_function.as_str()),
        ("src/b.rs", long_file.as_str()),
        ("src/c.rs", wide.as_str()),
        ("src/d.rs", code.as_str()),
    ];
    assert_eq!(
        keys(&files, lengths),
        [
            "function src/a.rs long",
            "file src/b.rs",
            "comment src/c.rs"
        ]
    );
    let just = format!("fn just() {{{}}}", "\n".repeat(69));
    assert!(keys(&[("src/a.rs", just.as_str())], lengths).is_empty());
}

#[test]
fn an_exception_without_need_or_reason_fails() {
    let sources = source::of_texts(&[("src/b.rs", &"\n".repeat(501))]);
    let found = lengths(&sources);
    assert!(compare(&found, &[("file src/b.rs", "It is a table.")]).is_empty());
    assert_eq!(compare(&found, &[]).len(), 1);
    assert_eq!(compare(&found, &[("file src/b.rs", "")]).len(), 1);
    assert_eq!(
        compare(&found, &[("file src/b.rs", "x"), ("file src/c.rs", "x")]).len(),
        1
    );
}
