//! `retry_on` of an upstream.

use super::Errors;
use crate::config::RetryOn;
use crate::config::file::cursor::Cursor;
use crate::config::schema::raw::RetryCase;

const KNOWN: [&str; 5] = ["connect", "502", "503", "504", "timeout"];

fn word(case: &RetryCase) -> String {
    match case {
        RetryCase::Status(status) => status.to_string(),
        RetryCase::Word(word) => word.clone(),
    }
}

/// Whatever fails is not tried again where only one server is tried. `at`: the upstream.
pub fn never(retry_on: RetryOn, attempts: usize, at: Cursor<'_>, errors: &mut Errors) {
    if attempts == 1 && retry_on != RetryOn::default() {
        errors.push(
            at.key("retry_on")
                .key_error("\"retry_on\" has no effect: attempts: 1 tries one server")
                .hint("give attempts a larger number, or remove one of the two"),
        );
    }
}

/// `at`: the list.
pub fn retry_on(raw: Option<Vec<RetryCase>>, at: Cursor<'_>, errors: &mut Errors) -> RetryOn {
    let Some(raw) = raw else {
        return RetryOn::default();
    };
    if raw.is_empty() && !at.damaged() {
        errors.push(
            at.error(
                "\"retry_on\" is empty: a connection that does not come about is always tried",
            )
            .hint("leave the key out; attempts: 1 in the upstream tries one server"),
        );
    }
    let mut retry_on = RetryOn::default();
    let words: Vec<String> = raw.iter().map(word).collect();
    for (i, word) in words.iter().enumerate() {
        if words[..i].contains(word) {
            let error = at.index(i).error(format!("\"{word}\" is there twice"));
            errors.push(error.hint("remove one of the two"));
        }
        match word.as_str() {
            "connect" => {}
            "502" => retry_on.bad_gateway = true,
            "503" => retry_on.unavailable = true,
            "504" => retry_on.gateway_timeout = true,
            "timeout" => retry_on.timeout = true,
            _ => errors.push(
                at.index(i)
                    .error(format!("\"{word}\" is not tried at another server"))
                    .hint_one_of(word, "known cases", KNOWN),
            ),
        }
    }
    retry_on
}
