//! The access log: one line for each exchange and for each end of a session, written by a thread of its own.
//!
//! A request never waits for it: when the reader of the log is slower than the traffic and the
//! queue is full, lines are dropped and counted, and the count is told on stderr.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use arc_swap::ArcSwapOption;
use http::{HeaderMap, Version};
use jiff::Timestamp;
use log::warn;
use serde::Serialize;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use uuid::Uuid;

use super::combined;
use super::trace::{TraceContext, Tracer, as_trace_id};
use crate::config::{self, Config, LogFormat, LogOutput};
use crate::forward::Trust;

/// What ended or began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An exchange ended.
    Request,
    /// The 101 goes out.
    SessionOpen,
    SessionClose,
}

/// One line. Every field is always there; `null` says unknown, or not of this kind.
#[derive(Debug, Serialize)]
pub struct Entry<'a> {
    pub kind: Kind,
    pub id: Uuid,
    /// What a trusted proxy calls it, if that is no UUID or is somebody else's already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<&'a str>,
    /// Only where tracing is on.
    #[serde(
        rename = "trace_id",
        serialize_with = "as_trace_id",
        skip_serializing_if = "Option::is_none"
    )]
    pub trace: Option<TraceContext>,
    pub listener: &'a str,
    pub route: Option<&'a str>,
    pub upstream: Option<&'a str>,
    pub server: Option<String>,
    pub client: String,
    pub method: &'a str,
    /// Of HTTP; in the combined format only, as the next.
    #[serde(skip)]
    pub version: Version,
    #[serde(skip)]
    pub referer: Option<&'a str>,
    pub host: Option<&'a str>,
    pub path: &'a str,
    /// What the client got; 499 when it left before it got anything.
    pub status: u16,
    pub duration_ms: f64,
    /// From the request's head to the 101.
    pub handshake_ms: Option<f64>,
    /// From the client.
    pub bytes_in: u64,
    /// To the client.
    pub bytes_out: u64,
    pub messages_in: Option<u64>,
    pub messages_out: Option<u64>,
    pub close_code: Option<u32>,
    pub closed_by: Option<&'static str>,
    /// Servers tried.
    pub attempts: usize,
    pub user_agent: Option<&'a str>,
    /// Why prusik itself answered, or why the exchange failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'a str>,
}

/// Lines that wait for a slow reader before more are dropped.
const QUEUE: usize = 8 * 1024;

#[derive(Debug)]
pub struct AccessLog {
    sink: ArcSwapOption<Sink>,
    /// Dropped lines of sinks that were replaced, and of the present one when last told.
    told: AtomicUsize,
    /// Makes spans of the same, as this configuration has it.
    tracer: ArcSwapOption<(config::Tracing, Tracer)>,
}

#[derive(Debug)]
struct Sink {
    writer: NonBlocking,
    dropped: ErrorCounter,
    format: LogFormat,
    /// Writes out what waits when the sink is replaced or the process ends.
    _guard: WorkerGuard,
}

impl AccessLog {
    pub fn open(config: &Config) -> io::Result<Self> {
        let log = Self {
            sink: ArcSwapOption::empty(),
            told: AtomicUsize::new(0),
            tracer: ArcSwapOption::empty(),
        };
        log.reopen(config)?;
        Ok(log)
    }

    /// Opens what the configuration names now: also the way to let go of a rotated file.
    pub fn reopen(&self, config: &Config) -> io::Result<()> {
        let format = config.access_log.format;
        let sink = match &config.access_log.output {
            LogOutput::Off => None,
            LogOutput::Stdout => Some(Sink::new(io::stdout(), format)),
            LogOutput::Stderr => Some(Sink::new(io::stderr(), format)),
            LogOutput::File(path) => Some(Sink::new(append_to(path)?, format)),
        };
        self.tell_dropped();
        let before = self.sink.swap(sink.map(Arc::new));
        self.told.store(0, Relaxed);
        // Writing out what waits may block for a second: nobody here has to wait for that.
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
        // Exports what waits, which may take a while.
        std::thread::spawn(move || drop(present));
    }

    /// The place of a request that has just come in its trace; `None`: nothing is traced.
    pub fn trace(&self, headers: &HeaderMap, trust: Trust) -> Option<TraceContext> {
        let tracer = self.tracer.load();
        tracer.as_ref().map(|tracer| tracer.1.begin(headers, trust))
    }

    /// Writes out what waits and writes nothing more. Blocks for a second at most, and with a
    /// collector of spans that is slow for another.
    pub fn close(&self) {
        self.tell_dropped();
        self.sink.store(None);
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
        // Plain data into memory: only a bug could make this fail, and a log line is not worth
        // a session.
        let written = match sink.format {
            LogFormat::Json => write_json(&mut line, entry),
            LogFormat::Combined => combined::write(&mut line, entry, Timestamp::now()),
        };
        if written.is_ok() && !line.is_empty() {
            let _ = sink.writer.clone().write_all(&line);
        }
    }

    /// Says on stderr how many lines were dropped since it last did.
    pub fn tell_dropped(&self) {
        let Some(sink) = &*self.sink.load() else {
            return;
        };
        let dropped = sink.dropped.dropped_lines();
        let new = dropped.saturating_sub(self.told.swap(dropped, Relaxed));
        if new > 0 {
            warn!("access log: {new} lines dropped, its reader is too slow ({dropped} in all)");
        }
    }
}

impl Sink {
    fn new(output: impl Write + Send + 'static, format: LogFormat) -> Self {
        let (writer, guard) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(QUEUE)
            .thread_name("access-log")
            .finish(BufWriter::with_capacity(64 * 1024, output));
        let dropped = writer.error_counter();
        Self {
            writer,
            dropped,
            format,
            _guard: guard,
        }
    }
}

fn write_json(line: &mut Vec<u8>, entry: &Entry<'_>) -> io::Result<()> {
    write!(line, "{{\"time\":\"{:.3}\",", Timestamp::now())?;
    let start = line.len();
    serde_json::to_writer(&mut *line, entry)?;
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
