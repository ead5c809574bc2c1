//! Limits of event streams.

use std::time::Duration;

use super::Errors;
use super::user::per_user;
use crate::config::Stream;
use crate::config::file::cursor::Cursor;
use crate::config::schema::raw;
use crate::config::schema::units::{OffOr, OptionalPeriod};
use crate::limits::Bounds;

const IDLE: Duration = Duration::from_secs(60 * 60);

/// `None`: event streams are answers as any other. `on_expiry`: of the route's `websocket`.
pub fn stream(
    raw: Option<OffOr<raw::Stream>>,
    on_expiry: Option<u16>,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<Stream> {
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
            per_user: per_user(raw.max_sessions_per_user, raw.newest_wins, at, errors),
            per_second: None,
        },
        on_expiry,
    })
}
