//! The binary: everything is in the library, so that tests, benches and fuzzers reach it too.

use std::process::ExitCode;

fn main() -> ExitCode {
    prusik::cli::main()
}
