//! The command line, and the exit codes that scripts rely on.
//!
//! [`operate`] has the commands that talk to a running process, [`reach`] finds the process,
//! [`client`] makes the calls, [`table`] and [`progress`] show results, [`completions`] and
//! [`candidates`] serve shells, [`man`] writes the manual pages, and [`keep`] is for systemd.

mod address;
mod arguments;
mod candidates;
mod client;
mod completions;
mod import;
mod keep;
mod layout;
mod man;
mod operate;
mod progress;
mod reach;
mod table;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use log::error;
use pingora::prelude::fast_timeout::set_fast_timeout_to_tokio_threshold;

use crate::config::schema::reference;
use crate::config::{self, Config, ConfigErrors, Extent};
use crate::lifecycle::{Origin, exec};
use crate::observe::stderr::log_to_stderr;
use crate::{demo, lifecycle};

use arguments::{
    ChangeArgs, CloseArgs, DrainArgs, EnableArgs, ReloadArgs, SessionsArgs, StatusArgs,
};
use client::ClientError;

/// A WebSocket-first reverse proxy and load balancer.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve in the foreground
    Run(RunArgs),
    /// Read the configuration and print every error in it
    Check(FileToCheck),
    /// Run the two-tier example on loopback, with chat servers and a page to watch it
    Demo {
        /// The client LB's port; the server LB takes the next one, the admin APIs of server LB and
        /// client LB those 810 and 811 above
        #[arg(long, default_value_t = 9090)]
        port: u16,
    },
    /// Print the configuration's JSON Schema, for editors
    Schema {
        /// Or the same for people: a page, or a file with every key
        #[arg(long, value_enum, default_value_t)]
        format: SchemaFormat,
    },
    /// Make the running process read its file again; returns when done
    Reload(ReloadArgs),
    /// Make the binary on disk take over; returns when it serves, or the old process has kept on
    Upgrade(ChangeArgs),
    /// Show listeners, routes, upstreams, servers and how many sessions they have
    Status(StatusArgs),
    /// List the live sessions
    Sessions(SessionsArgs),
    /// Give a server no new sessions, and tell its sessions to go
    Drain(DrainArgs),
    /// Use a drained server again
    Enable(EnableArgs),
    /// End one session with a Close frame, or all sessions of a user
    Close(CloseArgs),
    /// What the systemd unit runs before it stops the process: in a restart, the sessions are kept
    /// for the next process
    Keep(KeepArgs),
    /// Write another proxy's file as one of prusik, on stdout
    ///
    /// What has no equivalent is a comment where it would stand, and a line on stderr.
    Import {
        #[command(subcommand)]
        of: import::Import,
    },
    /// Print what makes a shell complete prusik's commands
    Completions { shell: clap_complete::Shell },
    /// Write the man pages into a folder
    Man { folder: PathBuf },
    /// What a shell offers for the last of these words: for the scripts of `completions`
    #[command(hide = true)]
    Candidates {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum SchemaFormat {
    #[default]
    Json,
    Markdown,
    Yaml,
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", default_value = config::DEFAULT_FILE)]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    file: ConfigFile,
    /// If a prusik answers at the file's `server.hand_over`, take its listeners and sessions over
    /// first: it may be in another container, or of another path
    #[arg(long)]
    take_over: bool,
}

#[derive(Debug, Args)]
struct KeepArgs {
    #[command(flatten)]
    file: ConfigFile,
    /// The unit that is stopped: %n in its file
    #[arg(long, value_name = "UNIT")]
    unit: String,
}

#[derive(Debug, Args)]
struct FileToCheck {
    /// The configuration file [default: /etc/prusik/prusik.yaml]
    #[arg(conflicts_with = "config")]
    file: Option<PathBuf>,
    /// The same
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl FileToCheck {
    fn path(&self) -> &Path {
        let named = self.file.as_deref().or(self.config.as_deref());
        named.unwrap_or(Path::new(config::DEFAULT_FILE))
    }
}

/// Something failed while the command ran.
const FAILED: u8 = 1;
/// The configuration is wrong: `EX_CONFIG` of sysexits(3).
const CONFIG_WRONG: u8 = 78;

/// Parses the arguments (a wrong one exits with 2), runs the command, and returns its exit code.
pub fn main() -> ExitCode {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == exec::HOLD)
    {
        return exec::hold();
    }
    let cli = Cli::parse();
    match cli.command {
        Command::Run(args) => run(&args.file.config, args.take_over),
        Command::Check(file) => check(file.path()),
        Command::Demo { port } => run_demo(port),
        Command::Schema { format } => print_schema(format),
        Command::Reload(args) => ask(operate::reload(args)),
        Command::Upgrade(args) => ask(operate::upgrade(args)),
        Command::Status(args) => ask(operate::status(args)),
        Command::Sessions(args) => ask(operate::sessions(args)),
        Command::Drain(args) => ask(operate::drain(args, progress::is_watched())),
        Command::Enable(args) => ask(operate::enable(args)),
        Command::Close(args) => ask(operate::close(args)),
        Command::Keep(args) => keep::keep(&args.file.config, &args.unit),
        Command::Import { of } => import::import(&of),
        Command::Completions { shell } => print(&completions::script(shell, Cli::command())),
        Command::Man { folder } => write_man(&folder),
        Command::Candidates { words } => ask(async { Ok(candidates::candidates(&words).await) }),
    }
}

fn run(path: &Path, takes_over: bool) -> ExitCode {
    log_to_stderr("info");
    let origin = match Origin::find(takes_over) {
        Ok(origin) => origin,
        Err(error) => {
            error!("cannot find out how this process was started: {error}");
            return ExitCode::from(FAILED);
        }
    };
    match config::load(path, Extent::Start) {
        Ok(config) => finish(config.server.threads, lifecycle::run(path, config, origin)),
        Err(errors) => {
            eprintln!("{errors}");
            origin.refuse(&errors.to_string());
            ExitCode::from(CONFIG_WRONG)
        }
    }
}

fn check(path: &Path) -> ExitCode {
    match load(path) {
        Ok(config) => {
            for warning in config.warnings() {
                eprintln!("{}: warning: {warning}", path.display());
            }
            print(&format!(
                "{}: ok: {} listeners, {} upstreams, {} routes\n",
                path.display(),
                config.listeners.len(),
                config.upstreams.len(),
                config.routes.len()
            ))
        }
        Err(code) => code,
    }
}

fn run_demo(port: u16) -> ExitCode {
    log_to_stderr("warn");
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    finish(threads, demo::run(port))
}

fn write_man(folder: &Path) -> ExitCode {
    match man::write(folder, Cli::command()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("prusik: cannot write into {}: {error}", folder.display());
            ExitCode::from(FAILED)
        }
    }
}

fn print_schema(format: SchemaFormat) -> ExitCode {
    let schema = config::json_schema();
    let text = match format {
        SchemaFormat::Json => format!("{schema:#}\n"),
        SchemaFormat::Markdown => reference::markdown(&schema),
        SchemaFormat::Yaml => reference::yaml(&schema),
    };
    print(&text)
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        // In `prusik sessions | head` the reader has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("prusik: it is done, but the outcome cannot be written: {error}");
            ExitCode::from(FAILED)
        }
    }
}

/// Runs a command that talks to a running process, and prints its result.
fn ask(work: impl Future<Output = Result<String, ClientError>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::from(FAILED);
        }
    };
    match outcome {
        Ok(text) => print(&text),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(match error {
                ClientError::WrongFile(_) => CONFIG_WRONG,
                _ => FAILED,
            })
        }
    }
}

/// Errors go to stderr, so that a pipe on stdout does not hide them. A terminal shows the first
/// hundred; a program or a file gets all.
fn load(path: &Path) -> Result<Config, ExitCode> {
    config::load(path, Extent::Start).map_err(|errors: ConfigErrors| {
        match io::stderr().is_terminal() {
            true => eprintln!("{errors}"),
            false => eprintln!("{}", errors.all()),
        }
        ExitCode::from(CONFIG_WRONG)
    })
}

fn finish<E: std::fmt::Display>(
    threads: usize,
    work: impl Future<Output = Result<(), E>>,
) -> ExitCode {
    // Pingora's own timers need a thread that wakes a hundred times a second, and each stays in
    // memory until its time has come. With this setting Pingora uses tokio's timers.
    set_fast_timeout_to_tokio_threshold(Some(Duration::ZERO));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            error!("cannot start {threads} worker threads: {error}");
            return ExitCode::from(FAILED);
        }
    };
    let outcome = runtime.block_on(work);
    // Sessions and checks of servers may still run. They end here, at once.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error}");
            ExitCode::from(FAILED)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_consistent() {
        Cli::command().debug_assert();
    }
}
