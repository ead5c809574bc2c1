//! The access log: one line for each exchange and for each end of a session, written by a thread of
//! its own.
//!
//! A request never waits for the log. If the reader of the log is slower than the traffic and the
//! queue is full, or the disk is full, lines are dropped and counted. The count is logged on
//! stderr, and is a metric.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use http::HeaderMap;
use jiff::Timestamp;
use log::{info, warn};
use parking_lot::Mutex;
use serde::Serialize;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

use super::combined;
use super::entry::{Done, Entry, Operation};
use super::exposition::Family;
use super::line_buffer::{LineBuffer, Loss};
use super::terminal;
use super::trace::{TraceContext, Tracer};
use crate::config::{self, Config, LogFormat, LogOutput};
use crate::forward::Trust;

/// The line of an operation, with the kind `operation`.
#[derive(Debug, Serialize)]
struct OperationEntry<'a> {
    kind: &'static str,
    operation: Operation,
    by: &'a str,
    of: Option<&'a str>,
    succeeded: bool,
    outcome: &'a str,
}

/// How many lines wait for a slow reader before further ones are dropped.
const QUEUE: usize = 8 * 1024;

/// How often stderr reports lost lines, while lines are lost.
const TELL: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct AccessLog {
    sink: ArcSwapOption<Sink>,
    report: Mutex<Report>,
    /// Makes spans of the entries, as the configuration wants.
    tracer: ArcSwapOption<(config::Tracing, Tracer)>,
}

#[derive(Debug)]
struct Sink {
    writer: NonBlocking,
    dropped: ErrorCounter,
    loss: Arc<Loss>,
    format: LogFormat,
    /// Writes what waits when the sink is replaced or the process ends.
    _guard: WorkerGuard,
}

impl AccessLog {
    pub fn open(config: &Config) -> io::Result<Self> {
        let log = Self {
            sink: ArcSwapOption::empty(),
            report: Mutex::default(),
            tracer: ArcSwapOption::empty(),
        };
        log.reopen(config)?;
        Ok(log)
    }

    /// Opens what the configuration names now. This is also how a rotated file is released.
    pub fn reopen(&self, config: &Config) -> io::Result<()> {
        let format = config.access_log.format;
        let sink = match &config.access_log.output {
            LogOutput::Off => None,
            LogOutput::Stdout => Some(Sink::new(io::stdout(), format)),
            LogOutput::Stderr => Some(Sink::new(io::stderr(), format)),
            LogOutput::File(path) => Some(Sink::new(append_to(path)?, format)),
        };
        let before = self.sink.swap(sink.map(Arc::new));
        if let Some(before) = &before {
            let mut report = self.report.lock();
            report.retired = report.retired.plus(before.lost());
        }
        // Writing what waits may block for a second, for which nobody needs to wait.
        std::thread::spawn(move || drop(before));
        self.trace_to(config.tracing.as_ref());
        Ok(())
    }

    fn trace_to(&self, config: Option<&config::Tracing>) {
        let present = self.tracer.load_full();
        if present.as_ref().map(|present| &present.0) == config {
            return;
        }
        let next = config.and_then(|config| Some((config.clone(), Tracer::new(config)?)));
        self.tracer.store(next.map(Arc::new));
        // Exporting what waits may take a while.
        std::thread::spawn(move || drop(present));
    }

    /// The position of a new request in its trace. `None`: tracing is off.
    pub fn trace(&self, headers: &HeaderMap, trust: Trust) -> Option<TraceContext> {
        let tracer = self.tracer.load();
        tracer.as_ref().map(|tracer| tracer.1.begin(headers, trust))
    }

    /// Writes what waits, and nothing after that. Blocks for at most a second, and for another one
    /// if a collector of spans is slow.
    pub fn close(&self) {
        if let Some(sink) = self.sink.swap(None) {
            let (dropped, loss) = (sink.dropped.clone(), sink.loss.clone());
            // This writes or loses what waits.
            drop(sink);
            let mut report = self.report.lock();
            let lost = report.retired.plus(Lost::of(&dropped, &loss));
            report.retired = lost;
            report.tell(lost, loss.error(), None);
        }
        if let Some(tracer) = self.tracer.swap(None) {
            tracer.1.finish();
        }
    }

    pub fn is_on(&self) -> bool {
        self.sink.load().is_some() || self.tracer.load().is_some()
    }

    pub fn write(&self, entry: &Entry<'_>) {
        if let (Some(trace), Some(tracer)) = (entry.trace, &*self.tracer.load()) {
            tracer.1.record(entry, trace);
        }
        let Some(sink) = &*self.sink.load() else {
            return;
        };
        let mut line = Vec::with_capacity(512);
        // The value is plain data, so only a bug could make this fail, and a log line is not worth
        // ending a session.
        let written = match sink.format {
            LogFormat::Json => write_json(&mut line, entry),
            LogFormat::Combined => combined::write(&mut line, entry, Timestamp::now()),
        };
        if written.is_ok() && !line.is_empty() {
            let _ = sink.writer.clone().write_all(&line);
        }
    }

    /// The combined format has no line for operations.
    pub fn write_operation(&self, done: &Done) {
        let Some(sink) = &*self.sink.load() else {
            return;
        };
        let entry = OperationEntry {
            kind: "operation",
            operation: done.operation,
            by: &done.by,
            of: done.of.as_deref(),
            succeeded: done.succeeded,
            outcome: &done.outcome,
        };
        let mut line = Vec::with_capacity(256);
        if sink.format == LogFormat::Json && write_json(&mut line, &entry).is_ok() {
            // A full queue is counted elsewhere.
            let _ = sink.writer.clone().write_all(&line);
        }
    }

    /// Reports on stderr how many lines were lost and why: at once, and then every minute. Must be
    /// called about every second.
    pub fn tell_lost(&self) {
        let sink = self.sink.load();
        let mut report = self.report.lock();
        let (now, error) = match &*sink {
            Some(sink) => (sink.lost(), sink.loss.error()),
            None => Default::default(),
        };
        let lost = report.retired.plus(now);
        report.tell(lost, error, Some(Instant::now()));
    }

    pub fn families(&self) -> [Family; 1] {
        let mut family = Family::counter(
            "prusik_access_log_lost_total",
            "Lines of the access log that were lost, as its reader is too slow or they cannot be \
             written.",
        );
        let now = self.sink.load().as_ref().map(|sink| sink.lost());
        let lost = self.report.lock().retired.plus(now.unwrap_or_default());
        family.add(&[("reason", "reader")], lost.to_reader as f64);
        family.add(&[("reason", "error")], lost.to_error as f64);
        [family]
    }
}

/// Lines that were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Lost {
    /// Because the file or pipe was too slow.
    to_reader: u64,
    /// Because they could not be written.
    to_error: u64,
}

impl Lost {
    fn of(dropped: &ErrorCounter, loss: &Loss) -> Self {
        Self {
            to_reader: dropped.dropped_lines() as u64,
            to_error: loss.lines(),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            to_reader: self.to_reader + other.to_reader,
            to_error: self.to_error + other.to_error,
        }
    }
}

/// What was reported of lost lines.
#[derive(Debug, Default)]
struct Report {
    /// The lines that replaced sinks have lost.
    retired: Lost,
    told: Lost,
    told_at: Option<Instant>,
    /// Whether stderr was told that nothing can be written.
    is_failing: bool,
}

impl Report {
    /// `now`: `None` for the last report.
    fn tell(&mut self, lost: Lost, error: Option<String>, now: Option<Instant>) {
        let was_failing = std::mem::replace(&mut self.is_failing, error.is_some());
        let is_recent = |now| {
            let told_at = self.told_at;
            told_at.is_some_and(|told_at| now < told_at + TELL)
        };
        let slow = lost.to_reader - self.told.to_reader;
        let failed = lost.to_error - self.told.to_error;
        let has_recovered = was_failing && error.is_none();
        let is_news = slow > 0 || failed > 0 || (error.is_some() && !was_failing);
        if !has_recovered && (!is_news || now.is_some_and(is_recent)) {
            // What is not reported now is reported later.
            self.is_failing |= was_failing;
            return;
        }
        self.told = lost;
        self.told_at = now.or(self.told_at);
        if slow > 0 {
            let all = lost.to_reader;
            warn!("access log: {slow} lines dropped, its reader is too slow ({all} in all)");
        }
        let all = lost.to_error;
        match error {
            Some(error) => warn!(
                "access log: cannot be written: {error}; {failed} lines lost ({all} in all), and \
                 requests go on"
            ),
            None if has_recovered => {
                info!("access log: is written again; {failed} more lines were lost ({all} in all)");
            }
            None if failed > 0 => warn!("access log: {failed} lines lost ({all} in all)"),
            None => {}
        }
    }
}

impl Sink {
    fn new(output: impl Write + Send + 'static, format: LogFormat) -> Self {
        let loss = Arc::new(Loss::default());
        let (writer, guard) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(QUEUE)
            .thread_name("access-log")
            .finish(LineBuffer::new(output, loss.clone()));
        let dropped = writer.error_counter();
        Self {
            writer,
            dropped,
            loss,
            format,
            _guard: guard,
        }
    }

    fn lost(&self) -> Lost {
        Lost::of(&self.dropped, &self.loss)
    }
}

fn write_json(line: &mut Vec<u8>, entry: &impl Serialize) -> io::Result<()> {
    write!(line, "{{\"time\":\"{:.3}\",", Timestamp::now())?;
    let start = line.len();
    terminal::write_json(&mut *line, entry)?;
    line.remove(start);
    line.push(b'\n');
    Ok(())
}

fn append_to(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("access_log: cannot open {}: {error}", path.display()),
            )
        })
}
