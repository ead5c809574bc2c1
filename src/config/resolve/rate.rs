//! `requests_per_second` of a route.

use super::Errors;
use super::scope::Scope;
use super::upstream::template;
use crate::config::policy::{RateKey, RequestRate};
use crate::config::schema::raw;
use crate::config::schema::units::OffOr;
use crate::limits::Rate;

const RATES: std::ops::RangeInclusive<f64> = 0.001..=1_000_000.0;

/// More than a machine can handle.
const BURST_MAX: u32 = 1_000_000;

const CLIENT: &str = "$remote_addr";

/// The inner `None`: no limit.
pub fn rate(
    raw: Option<OffOr<raw::RequestRate>>,
    scope: Scope<'_>,
    errors: &mut Errors,
) -> Option<Option<Box<RequestRate>>> {
    let raw = match raw {
        Some(OffOr::On(raw)) => raw,
        Some(OffOr::Off) | None => return Some(None),
    };
    let at = scope.at.key("requests_per_second");
    let Some(rate) = raw.rate else {
        if at.lacks("rate") {
            errors.push(
                at.key_error(format!(
                    "\"requests_per_second\" of {} has no \"rate\"",
                    scope.label
                ))
                .hint("write one, such as { rate: 50, burst: 100 }, or requests_per_second: off"),
            );
        }
        return None;
    };
    if !RATES.contains(&rate) {
        errors.push(
            at.key("rate")
                .error(format!(
                    "\"rate\" must be from 0.001 to 1000000, not {rate}"
                ))
                .hint("0.1 is six requests a minute; requests_per_second: off sets no limit"),
        );
        return None;
    }
    let burst = raw.burst.map_or(rate.ceil() as u32, |burst| burst.get());
    if burst > BURST_MAX {
        let error = at
            .key("burst")
            .error(format!("\"burst\" is more than {BURST_MAX}"));
        errors.push(error.hint("it is how many requests may come at once"));
    }
    let key = match raw.key.as_deref() {
        None | Some(CLIENT) => RateKey::Client,
        Some(key) => {
            let at = at.key("key");
            let template = template(key, "key", at, errors)?;
            if template.reads_caller() {
                let error = at.error(format!("\"{key}\" is not known yet: auth comes later"));
                errors.push(error.hint("count by what the request says, such as $http_NAME"));
            }
            if key.is_empty() {
                let error = at.error("\"key\" is empty: nothing would be counted");
                errors.push(error.hint("leave it out for each client, or write a template"));
            }
            RateKey::Value(template)
        }
    };
    let rate = Rate::new(rate, burst);
    Some(Some(Box::new(RequestRate { rate, key })))
}
