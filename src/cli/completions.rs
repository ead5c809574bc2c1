//! The scripts by which shells complete prusik's commands: clap's, and those that ask the running
//! process for its servers, upstreams and sessions (see [`super::candidates`]).

use clap::Command;
use clap_complete::{Shell, generate};

use super::candidates::LIVE_OPTIONS;

/// Commands with the name of something in the running process.
const LIVE_COMMANDS: [&str; 3] = ["drain", "enable", "close"];

pub fn script(shell: Shell, mut command: Command) -> String {
    let mut script = Vec::new();
    let sessions = command.find_subcommand("sessions").cloned();
    generate(shell, &mut command, "prusik", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    match shell {
        Shell::Bash => script + BASH,
        Shell::Zsh => zsh(&script),
        Shell::Fish => {
            let options: Vec<String> = sessions
                .iter()
                .flat_map(Command::get_arguments)
                .filter_map(|argument| argument.get_long().map(str::to_owned))
                .filter(|name| LIVE_OPTIONS.contains(&name.as_str()))
                .collect();
            script + &fish(&options)
        }
        _ => script,
    }
}

/// Uses the line as it was typed, because bash splits an address into several words.
const BASH: &str = r#"
_prusik_live() {
    local line="${COMP_LINE:0:COMP_POINT}" word before candidate
    local -a words
    read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    word="${words[${#words[@]}-1]}"
    COMPREPLY=()
    while IFS= read -r candidate; do
        [[ $candidate == "$word"* ]] && COMPREPLY+=("$candidate")
    done < <("${words[0]/#\~/$HOME}" candidates -- "${words[@]:1}" 2>/dev/null)
    if (( ${#COMPREPLY[@]} == 0 )); then
        _prusik "$@"
        return
    fi
    # What is in front of the last colon stays on the line.
    if [[ $word == *:* && $COMP_WORDBREAKS == *:* ]]; then
        before="${word%"${word##*:}"}"
        COMPREPLY=("${COMPREPLY[@]#"$before"}")
    fi
}

complete -F _prusik_live -o bashdefault -o default prusik
"#;

/// Used where clap's script would suggest files.
fn zsh(script: &str) -> String {
    let live = r#"
_prusik_live() {
    local -a found
    found=(${(f)"$(prusik candidates -- "${(@Q)words[1,CURRENT]}" 2>/dev/null)"})
    if (( $#found )); then
        compadd -a found
    else
        _default
    fi
}
"#;
    let script = script.replace(":_default'", ":_prusik_live'");
    // Functions must stand before their first call, and the line that names the command must stay
    // the first line.
    match script.split_once('\n') {
        Some((first, rest)) => format!("{first}\n{live}{rest}"),
        None => script,
    }
}

fn fish(options: &[String]) -> String {
    let mut script = String::from(
        r#"
function __prusik_live
    set -l words (commandline -opc) (commandline -ct)
    $words[1] candidates -- $words[2..-1] 2>/dev/null
end
"#,
    );
    for command in LIVE_COMMANDS {
        script += &format!(
            "complete -c prusik -n \"__fish_prusik_using_subcommand {command}\" -f -a \
             \"(__prusik_live)\"\n"
        );
    }
    for option in options {
        script += &format!(
            "complete -c prusik -n \"__fish_prusik_using_subcommand sessions\" -l {option} -r -f -a \
             \"(__prusik_live)\"\n"
        );
    }
    script
}
