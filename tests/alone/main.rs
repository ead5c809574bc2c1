//! Tests that measure the memory of the real binary under a load that would disturb others.
//!
//! Cargo runs one test binary after the other, so nothing of `tests/it` runs beside them: memory
//! that
//! must be given back within a time is given back later on a machine that is busy.

#[path = "../it/support/mod.rs"]
mod support;

mod stalled;
