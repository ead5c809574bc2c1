//! See `token` in `checks.rs`.

#![no_main]

#[allow(dead_code, reason = "each target has its own check")]
#[path = "../checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::token(bytes));
