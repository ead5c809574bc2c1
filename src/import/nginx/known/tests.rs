use std::collections::HashSet;

use super::*;

#[test]
fn no_directive_is_in_two_lists() {
    let lists = NO_MEANING
        .iter()
        .chain(LEFT_OUT)
        .flat_map(|(names, _)| *names);
    let mut seen = HashSet::new();
    for name in TRANSLATED.iter().chain(lists).chain(PROTECTING) {
        assert!(seen.insert(name), "{name}");
    }
}
