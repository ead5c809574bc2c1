//! Keeps sessions that began together from ending together.

use std::time::Duration;

/// Varies the limit by up to a tenth, so that sessions that began together do not end together.
pub fn jittered(limit: Duration) -> Duration {
    limit.mul_f64(rand::random_range(0.9..=1.1))
}
