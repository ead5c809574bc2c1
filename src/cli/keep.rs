//! What `ExecStop=` of the systemd unit runs before the process is stopped. systemd tells nobody
//! why it stops a unit, so this asks for its jobs: if the unit is to start again at once, the
//! process is told to keep its sessions for the next one.
//!
//! Whatever is wrong here, the stop goes on, and then sessions are told to go as at any stop.

use std::env;
use std::io;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use crate::config::{self, Extent};
use crate::lifecycle::mark;

/// Never fails: a failed `ExecStop=` would be the result of the unit.
pub fn keep(file: &Path, unit: &str) -> ExitCode {
    // systemd sets it. Without it, the process has ended already.
    let pid = env::var("MAINPID").ok().and_then(|pid| pid.parse().ok());
    let Some(pid) = pid else {
        return ExitCode::SUCCESS;
    };
    mark::remove();
    match will_start_again(unit) {
        Ok(true) => {}
        Ok(false) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!(
                "prusik: cannot ask systemd whether {unit} is only restarted, so sessions are told \
                 to go: {error}"
            );
            return ExitCode::SUCCESS;
        }
    }
    // A process that does not start again would strand the sessions.
    if let Err(errors) = config::load(file, Extent::Start) {
        eprintln!(
            "{errors}\nprusik: with this file no process would start, so sessions are told to go"
        );
        return ExitCode::SUCCESS;
    }
    if let Err(error) = mark::leave_for(pid) {
        eprintln!(
            "prusik: sessions are told to go, as the process cannot be told otherwise: {error}"
        );
    }
    ExitCode::SUCCESS
}

fn will_start_again(unit: &str) -> io::Result<bool> {
    let asked = Command::new("systemctl")
        .args(["list-jobs", "--no-legend", "--no-pager", "--plain"])
        .env("SYSTEMD_COLORS", "0")
        .stdin(Stdio::null())
        .output()?;
    if !asked.status.success() {
        let said = String::from_utf8_lossy(&asked.stderr);
        return Err(io::Error::other(format!("systemctl: {}", said.trim())));
    }
    Ok(is_restarted(unit, &String::from_utf8_lossy(&asked.stdout)))
}

/// `jobs`: a line for each job, with its number, its unit, its type and its state.
fn is_restarted(unit: &str, jobs: &str) -> bool {
    jobs.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        matches!(&words[..], [_, of, "restart" | "try-restart", ..] if *of == unit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_restart_of_this_unit_is_one() {
        let unit = "prusik.service";
        assert!(is_restarted(unit, "172 prusik.service restart running\n"));
        assert!(is_restarted(
            unit,
            "1 a.service start waiting\n2 prusik.service try-restart running\n"
        ));
        for jobs in [
            "",
            "No jobs running.\n",
            "172 prusik.service stop running\n",
            "172 other-prusik.service restart running\n",
            "172 prusik.service.d restart running\n",
        ] {
            assert!(!is_restarted(unit, jobs), "{jobs:?}");
        }
    }
}
