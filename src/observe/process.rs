//! The kernel's numbers about this process, under the names that Prometheus' own clients use.

use std::fs;
use std::sync::OnceLock;

use super::exposition::Family;

/// The kernel counts in hundredths of a second (`USER_HZ`), whatever its own clock is.
const TICKS: f64 = 100.0;

/// Empty if there is no `/proc`, or it is hidden.
pub fn families() -> Vec<Family> {
    let mut families = Vec::new();
    let mut add = |family: fn(&str, &str) -> Family, name: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            let mut family = family(name, help);
            family.add(&[], value);
            families.push(family);
        }
    };
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let stat = Stat::parse(&stat);
    let of = |value: fn(&Stat) -> f64| stat.as_ref().map(value);
    add(
        Family::counter,
        "process_cpu_seconds_total",
        "User and system time of all threads.",
        of(|stat| stat.cpu_ticks / TICKS),
    );
    add(
        Family::gauge,
        "process_open_fds",
        "Open descriptors.",
        open_descriptors(),
    );
    add(
        Family::gauge,
        "process_max_fds",
        "How many descriptors may be open.",
        max_descriptors(),
    );
    add(
        Family::gauge,
        "process_virtual_memory_bytes",
        "Address space.",
        of(|stat| stat.virtual_bytes),
    );
    add(
        Family::gauge,
        "process_resident_memory_bytes",
        "Memory that is resident.",
        of(|stat| stat.resident_pages * rustix::param::page_size() as f64),
    );
    add(
        Family::gauge,
        "process_threads",
        "Threads.",
        of(|stat| stat.threads),
    );
    let start = stat.as_ref().and_then(|stat| {
        let booted = booted()?;
        Some(booted + stat.start_ticks / TICKS)
    });
    add(
        Family::gauge,
        "process_start_time_seconds",
        "When the process began, in seconds since 1970.",
        start,
    );
    families
}

/// From proc_pid_stat(5).
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_ticks: f64,
    threads: f64,
    start_ticks: f64,
    virtual_bytes: f64,
    resident_pages: f64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The fields after the name, which may contain anything. The first of them is the third
        // field.
        let (_, fields) = text.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        Some(Self {
            cpu_ticks: field(14)? + field(15)?,
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

/// Counting them means to look at each: with 100,000 sessions this takes some milliseconds, unless
/// the kernel (Linux 6.2 and later) gives the number as the size of the directory.
fn open_descriptors() -> Option<f64> {
    let size = fs::metadata("/proc/self/fd").ok()?.len();
    if size > 0 {
        return Some(size as f64);
    }
    Some(fs::read_dir("/proc/self/fd").ok()?.count() as f64)
}

fn max_descriptors() -> Option<f64> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    Some(limit.current? as f64)
}

/// When the machine was started, in seconds since 1970.
fn booted() -> Option<f64> {
    static BOOTED: OnceLock<Option<f64>> = OnceLock::new();
    *BOOTED.get_or_init(|| {
        let stat = fs::read_to_string("/proc/stat").ok()?;
        let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
        line.trim().parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::exposition::render;

    #[test]
    fn the_fields_are_found_behind_any_name() {
        let text =
            "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 9 0 4242 1048576 12 18";
        let expected = Stat {
            cpu_ticks: 200.0,
            threads: 9.0,
            start_ticks: 4242.0,
            virtual_bytes: 1_048_576.0,
            resident_pages: 12.0,
        };
        assert_eq!(Stat::parse(text), Some(expected));
        assert_eq!(Stat::parse("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_is_told_of() {
        let text = render(families());
        for name in [
            "process_cpu_seconds_total",
            "process_open_fds",
            "process_max_fds",
            "process_resident_memory_bytes",
            "process_start_time_seconds",
        ] {
            assert!(text.contains(&format!("\n{name} ")), "{name}: {text}");
        }
    }
}
