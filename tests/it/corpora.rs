//! Replays what the fuzz targets begin with, and what they have found, through the same checks.

#[path = "../../fuzz/checks.rs"]
mod checks;

use std::fs;
use std::path::Path;

fn replay(name: &str, at_least: usize, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(name);
    let mut count = 0;
    for entry in fs::read_dir(&folder).expect("the folder is there") {
        let path = entry.expect("it can be read").path();
        let bytes = fs::read(&path).expect("it can be read");
        check(&bytes);
        // Cut anywhere, as a fuzzer would.
        for end in (0..bytes.len()).step_by(bytes.len() / 16 + 1) {
            check(&bytes[..end]);
        }
        count += 1;
    }
    assert!(count >= at_least, "only {count} in {}", folder.display());
}

#[test]
fn configurations() {
    replay("config", 20, checks::config);
}

#[test]
fn messages_of_the_hand_over() {
    replay("hand_over", 10, checks::hand_over);
}

#[test]
fn records_of_tls() {
    replay("tls_record", 10, checks::tls_record);
}

#[test]
fn templates() {
    replay("template", 10, checks::template);
}

#[test]
fn client_addresses() {
    replay("client_address", 10, checks::client_address);
}

#[test]
fn proxy_headers() {
    replay("proxy_header", 20, checks::proxy_header);
}

#[test]
fn tokens() {
    replay("token", 10, checks::token);
}

#[test]
fn routes() {
    replay("route", 15, checks::route);
}
