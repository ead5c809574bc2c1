//! The binary: everything is in the library, so that tests, benches and fuzzers reach it too.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// A request costs some 90 allocations, nearly all of them Pingora's.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    prusik::cli::main()
}
