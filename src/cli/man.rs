//! The man pages: clap's text for each command, more that clap does not know (files, signals, exit
//! codes, examples), and prusik.yaml(5) from the schema.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::Command;
use clap_mangen::Man;

use crate::config::schema::reference;
use crate::config::schema::roff::Roff;
use crate::config::{self};

/// Writes all pages into the folder, including those of section 5.
pub fn write(folder: &Path, command: Command) -> io::Result<()> {
    // The page of `prusik help` would repeat the others.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let subcommands: Vec<Command> = command
        .get_subcommands()
        .filter(|subcommand| !subcommand.is_hide_set())
        .cloned()
        .collect();
    page(folder, "prusik", command, OVERVIEW)?;
    for subcommand in subcommands {
        let short = subcommand.get_name().to_owned();
        let examples = EXAMPLES.iter().find(|(name, _)| *name == short);
        let sections = examples.map_or("", |(_, sections)| sections);
        let name = format!("prusik-{short}");
        page(folder, &name, subcommand, sections)?;
    }
    fs::write(
        folder.join("prusik.yaml.5"),
        reference::man(&config::json_schema()),
    )
}

fn page(folder: &Path, name: &str, command: Command, sections: &str) -> io::Result<()> {
    let command = command.display_name(name.to_owned());
    let has_subcommands = command
        .get_subcommands()
        .any(|subcommand| !subcommand.is_hide_set());
    let source = concat!("prusik ", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command).manual("prusik").source(source);
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    if has_subcommands {
        man.render_subcommands_section(&mut out)?;
    }
    write!(out, "{}", Roff(sections))?;
    write!(out, "{}", Roff(COMMON))?;
    fs::write(folder.join(format!("{name}.1")), out)
}

const COMMON: &str = "\
# EXIT STATUS
- 0 : done
- 1 : it failed; why stands on stderr
- 2 : the command line is wrong
- 78 : the configuration is wrong; every error stands on stderr, with its place
# SEE ALSO
prusik(1), prusik.yaml(5)
";

const OVERVIEW: &str = "\
# SIGNALS
- HUP : the file is read again, as by prusik reload; log files are opened again
- USR2 : the binary on disk takes over, as by prusik upgrade
- TERM, QUIT : a stop with a drain: no new clients, sessions are told to go within server.drain.window, what is left is cut at server.drain.deadline
- INT : a stop at once
# FILES
- /etc/prusik/prusik.yaml : the configuration, unless --config names another; prusik.yaml(5)
- /etc/prusik/prusik.schema.json : its JSON Schema, for editors
- /run/prusik/admin.sock : the operator's API, where admin.listen says so
# ENVIRONMENT
- RUST_LOG : how much is said on stderr: error, warn, info (the default), debug
- NO_COLOR : no colours in tables
- NOTIFY_SOCKET, WATCHDOG_USEC, LISTEN_FDS : systemd's, see sd_notify(3) and sd_listen_fds(3)
# EXAMPLES
Check a file, serve it, and take a change in:

    prusik check /etc/prusik/prusik.yaml
    prusik run --config /etc/prusik/prusik.yaml
    prusik check && prusik reload

Take a server out without losing a session:

    prusik drain chat/10.0.0.11:9080 --wait
    prusik enable chat/10.0.0.11:9080
";

/// More text for the pages of commands.
const EXAMPLES: [(&str, &str); 12] = [
    ("run", "\
# SIGNALS
HUP reload, USR2 upgrade, TERM and QUIT stop with a drain, INT stop now: see prusik(1).
# EXAMPLES
    prusik run
    prusik run -c conf/prusik.yaml
"),
    ("check", "\
# DESCRIPTION OF WHAT IS CHECKED
What the file says, the certificates that it names, and what a start needs of the machine: directories
for logs, the pid file and sockets, the admin token. What depends on the moment is left to the start: a
port that is in use, an address that the machine does not have, what the service's user may write. On a
terminal the first hundred errors are shown, in a file or pipe all of them.
# EXAMPLES
    prusik check
    prusik check conf/prusik.yaml && prusik reload
    prusik check conf/prusik.yaml 2>errors
"),
    ("import", "\
# DESCRIPTION OF WHAT IS WRITTEN
The file on stdout passes prusik check. A directive that has no equivalent is a comment at its place and a
line on stderr, and the exit status is 1 then. Who is kept out in a way that cannot be said stays out: the
route is closed.
# EXAMPLES
    prusik import nginx /etc/nginx/nginx.conf > prusik.yaml
    prusik import nginx /etc/nginx/sites-enabled/chat > chat.yaml
"),
    ("demo", "\
# EXAMPLES
    prusik demo
    prusik demo --port 7000
"),
    ("schema", "\
# EXAMPLES
    prusik schema > prusik.schema.json
    prusik schema --format yaml
"),
    ("reload", "\
# EXAMPLES
    prusik reload
    prusik reload --admin unix:/run/prusik/admin.sock --json
"),
    ("upgrade", "\
# EXAMPLES
    install prusik /usr/local/bin/ && prusik upgrade
"),
    ("status", "\
# EXAMPLES
    prusik status
    prusik status --json | jq '.upstreams[].servers[].state'
"),
    ("sessions", "\
# EXAMPLES
    prusik sessions --upstream chat --older-than 12h
    prusik sessions --client 192.0.2.7 --json
    prusik sessions --user alice
"),
    ("drain", "\
# EXAMPLES
    prusik drain chat/10.0.0.11:9080 --wait
    prusik drain chat/10.0.0.11:9080 --window 5m --code 1001
"),
    ("enable", "\
# EXAMPLES
    prusik enable chat/10.0.0.11:9080
"),
    ("close", "\
# EXAMPLES
    prusik close 0190aaaa-0000-7000-8000-000000000001 --code 4000
    prusik close --user alice --code 4401
"),
];

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_example_is_of_a_command() {
        let command = super::super::Cli::command();
        for (name, _) in EXAMPLES {
            assert!(command.find_subcommand(name).is_some(), "{name}");
        }
    }
}
