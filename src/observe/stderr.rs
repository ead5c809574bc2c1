//! Writes the log to stderr, as `RUST_LOG` says.
//!
//! Libraries warn for each request or connection about what a server or a client does, and do not
//! count their warnings. So their warnings are summed like prusik's own.

use env_logger::{Builder, Env, Logger};
use log::{Level, Log, Metadata, Record};

use super::repeated::{self, Kind};

/// The module that logs the sums.
const SUMMED: &str = "prusik::observe::repeated";

struct Summing(Logger);

/// `default`: the level if the environment does not set one.
pub fn log_to_stderr(default: &str) {
    let logger = Builder::from_env(Env::default().default_filter_or(default)).build();
    log::set_max_level(logger.filter());
    // This fails only if a logger is already set. Then that one is used.
    let _ = log::set_boxed_logger(Box::new(Summing(logger)));
}

impl Log for Summing {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !is_summed(record.metadata()) || !says_sums(&self.0, record.level()) {
            return self.0.log(record);
        }
        if self.0.matches(record) {
            let (target, line) = (record.target(), record.line().unwrap_or_default());
            let kind = Kind::of(format!("{target}:{line}"));
            repeated::say(
                record.level(),
                kind,
                &format!("{target}: {}", record.args()),
            );
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}

/// prusik's own lines are summed where they are made, if necessary.
fn is_summed(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    let is_own = target == "prusik" || target.starts_with("prusik::");
    !is_own && metadata.level() <= Level::Warn
}

/// `RUST_LOG` may enable a library's lines and not prusik's.
fn says_sums(logger: &Logger, level: Level) -> bool {
    let metadata = Metadata::builder().target(SUMMED).level(level).build();
    logger.enabled(&metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(target: &str, level: Level) -> bool {
        is_summed(&Metadata::builder().target(target).level(level).build())
    }

    #[test]
    fn warnings_of_libraries_are_summed() {
        assert!(of("pingora_core::protocols::http::v1::body", Level::Warn));
        assert!(of("prusikish", Level::Error));
        assert!(!of("prusik::app", Level::Warn));
        assert!(!of(SUMMED, Level::Error));
        assert!(!of("pingora_core::server", Level::Info));
    }

    #[test]
    fn a_library_that_alone_is_asked_for_is_heard() {
        let only = Builder::new().parse_filters("pingora_core=warn").build();
        assert!(!says_sums(&only, Level::Warn));
        let all = Builder::new().parse_filters("warn").build();
        assert!(says_sums(&all, Level::Warn));
    }
}
