//! Times and sizes, from nginx's spelling to ours.

use std::time::Duration;

/// As long as prusik takes a time to be meant.
const LONGEST: Duration = Duration::from_secs(3650 * 86_400);

/// `60`, `30s`, `1h 30m`, `500ms`: a number without a unit counts seconds.
pub fn time(text: &str) -> Option<Duration> {
    let mut total = 0_u64;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit());
        let (number, behind) = rest.split_at(digits.unwrap_or(rest.len()));
        let number: u64 = number.parse().ok()?;
        let letters = behind.find(|letter: char| !letter.is_ascii_alphabetic());
        let (unit, behind) = behind.split_at(letters.unwrap_or(behind.len()));
        let milliseconds: u64 = match unit {
            "ms" => 1,
            "s" | "" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 7 * 86_400_000,
            "M" => 30 * 86_400_000,
            "y" => 365 * 86_400_000,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(milliseconds)?)?;
        rest = behind.trim_start();
    }
    Some(Duration::from_millis(total).min(LONGEST))
}

/// In the largest unit that needs no fraction, but seconds up to two minutes.
pub fn written(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    for (unit, length) in [("h", 3_600_000), ("m", 60_000)] {
        if milliseconds >= 2 * 60_000 && milliseconds.is_multiple_of(length) {
            return format!("{}{unit}", milliseconds / length);
        }
    }
    match milliseconds % 1_000 {
        0 => format!("{}s", milliseconds / 1_000),
        _ => format!("{milliseconds}ms"),
    }
}

/// `8k`, `20m`, `1g` or bytes.
pub fn size(text: &str) -> Option<u64> {
    let (number, factor) = match text.strip_suffix(['k', 'K', 'm', 'M', 'g', 'G']) {
        Some(number) => (
            number,
            match text.as_bytes().last()?.to_ascii_lowercase() {
                b'k' => 1 << 10,
                b'm' => 1 << 20,
                _ => 1_u64 << 30,
            },
        ),
        None => (text, 1),
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

pub fn written_size(bytes: u64) -> String {
    for (unit, length) in [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= length && bytes.is_multiple_of(length) {
            return format!("{}{unit}", bytes / length);
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_nginx_reads_them() {
        for (text, shown) in [
            ("60", "60s"),
            ("3000s", "50m"),
            ("1h 30m", "90m"),
            ("1h30m", "90m"),
            ("1d", "24h"),
            ("500ms", "500ms"),
            ("120", "2m"),
            ("0", "0s"),
        ] {
            assert_eq!(time(text).map(written).as_deref(), Some(shown), "{text}");
        }
        for text in ["", "x", "5 parsecs", "-1", "99999999999999999999"] {
            assert_eq!(time(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_powers_of_two() {
        for (text, shown) in [
            ("20m", "20MiB"),
            ("8k", "8KiB"),
            ("1024", "1KiB"),
            ("7", "7B"),
        ] {
            assert_eq!(size(text).map(written_size).as_deref(), Some(shown));
        }
        assert_eq!(size("x"), None);
    }
}
