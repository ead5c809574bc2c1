use Failure::{Answered, By, Cut, Deadline, Shortage};

use super::*;

const FAULTS: [Fault; 6] = [
    Fault::Status(502),
    Fault::ConnectTimedOut,
    Fault::ReadTimedOut,
    Fault::WriteTimedOut,
    Fault::Lost,
    Fault::Other,
];

const SIDES: [Side; 3] = [Side::Client, Side::Server, Side::Proxy];

const ALL: RetryOn = RetryOn {
    bad_gateway: true,
    unavailable: true,
    gateway_timeout: true,
    timeout: true,
};

const BOTH: [bool; 2] = [false, true];

fn failures() -> Vec<Failure> {
    let stalled = |server_stalled| Deadline { server_stalled };
    let by = |side| FAULTS.map(|fault| By(side, fault));
    [Cut, Shortage, Answered(503), Answered(500)]
        .into_iter()
        .chain(BOTH.map(stalled))
        .chain(SIDES.map(by).into_iter().flatten())
        .collect()
}

fn stages() -> Vec<Stage> {
    let stage = |request_sent| {
        BOTH.map(|answer_begun| Stage {
            request_sent,
            answer_begun,
        })
    };
    BOTH.map(stage).concat()
}

fn requests() -> Vec<Request> {
    let mut requests = Vec::new();
    for is_repeatable in BOTH {
        for on_kept_connection in BOTH {
            for has_another_server in BOTH {
                for retry_on in [RetryOn::default(), ALL] {
                    requests.extend((0..=MAX_STALE + 1).map(|stale| Request {
                        is_repeatable,
                        on_kept_connection,
                        stale,
                        has_another_server,
                        retry_on,
                    }));
                }
            }
        }
    }
    requests
}

/// Every combination of what [`decide`] is asked, with its verdict.
fn all(during: During) -> Vec<(Failure, Stage, Request, Verdict)> {
    let mut all = Vec::new();
    for failure in failures() {
        for stage in stages() {
            for request in requests() {
                let verdict = decide(failure, during, stage, request);
                all.push((failure, stage, request, verdict));
            }
        }
    }
    assert_eq!(all.len(), 24 * 4 * 80);
    all
}

#[test]
fn what_was_never_sent_goes_to_another_server_unless_the_process_waits_no_more() {
    for (failure, stage, request, verdict) in all(During::Connecting) {
        let retry = match (failure, request.has_another_server) {
            (Cut, _) | (_, false) => Retry::No,
            (_, true) => Retry::OtherServer,
        };
        assert_eq!(verdict.retry, retry, "{failure:?} {stage:?} {request:?}");
        let blames_server = failure != Cut && failure != Shortage;
        assert_eq!(verdict.blames_server, blames_server, "{failure:?}");
    }
}

#[test]
fn what_was_sent_goes_out_again_only_for_a_cause_of_its_upstream_and_if_it_may_be_repeated() {
    for (failure, stage, request, verdict) in all(During::Exchange) {
        let is_lost = failure == By(Side::Server, Fault::Lost);
        let wants_another = match failure {
            Answered(status) => status == 503 && !stage.answer_begun,
            Deadline { .. } => stage.request_sent && !stage.answer_begun,
            By(Side::Server, Fault::ReadTimedOut | Fault::WriteTimedOut) => true,
            _ => false,
        };
        let wants_another = wants_another && request.retry_on == ALL;
        let is_on_new = is_lost && !request.on_kept_connection;
        let retry = match request.is_repeatable {
            true if is_lost && request.on_kept_connection && request.stale < 3 => {
                Retry::NewConnection
            }
            true if (is_on_new || wants_another) && request.has_another_server => {
                Retry::OtherServer
            }
            _ => Retry::No,
        };
        assert_eq!(verdict.retry, retry, "{failure:?} {stage:?} {request:?}");
    }
}

#[test]
fn a_failure_of_the_server_counts_against_it_but_not_a_kept_connection_that_was_dead() {
    for (failure, stage, request, verdict) in all(During::Exchange) {
        let blames_server = match failure {
            By(Side::Server, Fault::Lost) => !request.on_kept_connection,
            By(Side::Server, _) => true,
            Deadline { server_stalled } => {
                (server_stalled || stage.request_sent) && !stage.answer_begun
            }
            By(Side::Client | Side::Proxy, _) | Cut | Shortage | Answered(_) => false,
        };
        let found = verdict.blames_server;
        assert_eq!(found, blames_server, "{failure:?} {stage:?} {request:?}");
    }
}

#[test]
fn a_new_connection_is_tried_for_the_third_dead_one_and_not_for_the_fourth() {
    let lost = By(Side::Server, Fault::Lost);
    let retries = (0..5).map(|stale| {
        let request = Request {
            is_repeatable: true,
            on_kept_connection: true,
            stale,
            has_another_server: false,
            retry_on: ALL,
        };
        decide(lost, During::Exchange, Stage::default(), request).retry
    });
    let again = Retry::NewConnection;
    let expected = [again, again, again, Retry::No, Retry::No];
    assert_eq!(retries.collect::<Vec<_>>(), expected);
}

#[test]
fn each_failure_has_its_status_at_each_stage() {
    // In the order of `stages`: nothing sent, answered before the request was sent, sent, answered.
    for (failure, expected) in [
        (Cut, [503, 503, 504, 504]),
        (
            Deadline {
                server_stalled: false,
            },
            [408, 504, 504, 504],
        ),
        (
            Deadline {
                server_stalled: true,
            },
            [504; 4],
        ),
        (Shortage, [502; 4]),
        (Answered(503), [503; 4]),
    ] {
        let found: Vec<_> = stages().iter().map(|at| status(failure, *at)).collect();
        assert_eq!(found, expected, "{failure:?}");
    }
    // In the order of `FAULTS`.
    for (side, expected) in [
        (Side::Server, [502, 504, 504, 504, 502, 502]),
        (Side::Client, [502, 400, 408, CLIENT_GONE, CLIENT_GONE, 400]),
        (Side::Proxy, [502, 500, 500, 500, 500, 500]),
    ] {
        for stage in stages() {
            let found = FAULTS.map(|fault| status(By(side, fault), stage));
            assert_eq!(found, expected, "{side:?} {stage:?}");
        }
    }
}
