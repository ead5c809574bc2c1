//! Limits of event streams.

use std::time::Duration;

use crate::config::Stream;
use crate::config::schema::raw;
use crate::config::schema::units::{OffOr, OptionalPeriod};
use crate::limits::Bounds;

const IDLE: Duration = Duration::from_secs(60 * 60);

/// `None`: event streams are answers as any other.
pub fn stream(raw: Option<OffOr<raw::Stream>>) -> Option<Stream> {
    let raw = match raw {
        Some(OffOr::Off) => return None,
        Some(OffOr::On(raw)) => raw,
        None => raw::Stream::default(),
    };
    Some(Stream {
        idle: raw.idle.map_or(Some(IDLE), |OptionalPeriod(idle)| idle),
        max_session: raw.max_session.and_then(|OptionalPeriod(max)| max),
        ping: raw.ping.and_then(|OptionalPeriod(ping)| ping),
        bounds: Bounds {
            all: raw.max_sessions.filter(|most| *most > 0),
            per_client: raw.max_sessions_per_client.filter(|most| *most > 0),
            per_second: None,
        },
    })
}
