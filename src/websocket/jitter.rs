//! What keeps sessions that began together from ending together.

use std::time::Duration;

/// Up to a tenth less or more, so that sessions which began together don't end together.
pub fn jittered(limit: Duration) -> Duration {
    limit.mul_f64(rand::random_range(0.9..=1.1))
}
