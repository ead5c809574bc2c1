use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::*;

#[tokio::test]
async fn a_process_finds_its_own_pid_and_the_descriptors_in_order() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (mut other, second) = UnixStream::pair().unwrap();
    let script = "test $LISTEN_PID = $$ && test $WATCHDOG_PID = $$ && \
                      echo \"$LISTEN_FDS $LISTEN_FDNAMES\" >&3 && echo second >&4";
    let args = ["-c", script].map(OsString::from);
    let given = vec![("one", theirs.into()), ("two", second.into())];
    let started = spawn(Path::new("/bin/sh"), &args, given).unwrap();
    started.ended().await;
    assert!(!started.pidfd.is_alive());
    let mut said = String::new();
    (&ours).read_to_string(&mut said).unwrap();
    assert_eq!(said, "2 one:two\n");
    said.clear();
    other.flush().unwrap();
    other.read_to_string(&mut said).unwrap();
    assert_eq!(said, "second\n");
}

#[tokio::test]
async fn a_process_that_is_killed_is_no_more() {
    let args = ["600".into()];
    let started = spawn(Path::new("/bin/sleep"), &args, Vec::new()).unwrap();
    assert!(started.pidfd.is_alive());
    started.signal(Signal::KILL);
    started.ended().await;
    assert!(!started.pidfd.is_alive());
}

#[tokio::test]
async fn a_program_that_is_not_there_is_an_error_here() {
    let failed = spawn(Path::new("/nonexistent/prusik"), &[], Vec::new());
    let Err(error) = failed else {
        panic!("there is no such program");
    };
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}
