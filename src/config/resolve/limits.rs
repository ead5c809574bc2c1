//! The limits of a listener for its clients.

use std::time::Duration;

use super::Errors;
use crate::config::ListenerLimits;
use crate::config::file::cursor::Cursor;
use crate::config::schema::raw;
use crate::config::schema::units::{OptionalSize, Period, Section, Size};
use crate::http1::head::{FIELDS_MAX, HeadLimits};
use crate::limits::Bounds;

/// Pingora waits no longer for a first head.
const HEADER_TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// The head of a browser has about a kilobyte. Pingora reads at most a megabyte.
const HEADER_SIZES: std::ops::RangeInclusive<u64> = 1024..=512 * 1024;

/// Each stream has a window of its own, which takes memory.
const STREAMS: std::ops::RangeInclusive<u32> = 1..=16_384;

pub fn limits(
    raw: Option<Section<raw::Limits>>,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> ListenerLimits {
    let Some(Section(raw)) = raw else {
        return ListenerLimits::default();
    };
    let default = ListenerLimits::default();
    let header_timeout = raw
        .header_timeout
        .map_or(default.header_timeout, |Period(timeout)| timeout);
    if header_timeout > HEADER_TIMEOUT_MAX {
        errors.push(
            at.key("header_timeout")
                .error("\"header_timeout\" is longer than 60s")
                .hint("a head is sent at once: 10s are enough for the slowest line"),
        );
    }
    let header_size = raw
        .header_size
        .map_or(default.head.size as u64, |Size(size)| size);
    if !HEADER_SIZES.contains(&header_size) {
        errors.push(
            at.key("header_size")
                .error("\"header_size\" must be from 1KiB to 512KiB")
                .hint("64KiB has room for every cookie that a browser keeps"),
        );
    }
    let header_count = raw.header_count.unwrap_or(default.head.fields as u64);
    if !(1..=FIELDS_MAX as u64).contains(&header_count) {
        errors.push(
            at.key("header_count")
                .error(format!("\"header_count\" must be from 1 to {FIELDS_MAX}"))
                .hint("leave the key out for the default"),
        );
    }
    let streams = raw.streams.unwrap_or(default.streams);
    if !STREAMS.contains(&streams) {
        let (least, most) = STREAMS.into_inner();
        errors.push(
            at.key("streams")
                .error(format!("\"streams\" must be from {least} to {most}"))
                .hint("browsers ask for some hundred things at once: 256 are enough"),
        );
    }
    ListenerLimits {
        bounds: Bounds {
            all: raw.connections.filter(|most| *most > 0),
            per_client: raw.connections_per_client.filter(|most| *most > 0),
            per_user: None,
            per_second: None,
        },
        header_timeout,
        head: HeadLimits {
            size: header_size as usize,
            fields: header_count as usize,
        },
        idle: raw.idle.map_or(default.idle, |Period(idle)| idle),
        stall: raw.stall.map_or(default.stall, |Period(stall)| stall),
        streams,
        body_size: raw.body_size.and_then(|OptionalSize(size)| size),
        body_rate: raw.body_rate.and_then(|OptionalSize(rate)| rate),
    }
}
