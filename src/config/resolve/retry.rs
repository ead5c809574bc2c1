//! `retry_on` of an upstream.

use super::Errors;
use crate::config::RetryOn;
use crate::config::file::cursor::Cursor;
use crate::config::schema::raw::RetryCase;

const KNOWN: [&str; 5] = ["connect", "502", "503", "504", "timeout"];

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
    for (i, case) in raw.iter().enumerate() {
        let word = match case {
            RetryCase::Status(status) => status.to_string(),
            RetryCase::Word(word) => word.clone(),
        };
        match word.as_str() {
            "connect" => {}
            "502" => retry_on.bad_gateway = true,
            "503" => retry_on.unavailable = true,
            "504" => retry_on.gateway_timeout = true,
            "timeout" => retry_on.timeout = true,
            _ => errors.push(
                at.index(i)
                    .error(format!("\"{word}\" is not tried at another server"))
                    .hint_one_of(&word, "known cases", KNOWN),
            ),
        }
    }
    retry_on
}
