//! What the rules hold, and what they do not hold for: the lists to change as the tree moves.

/// Files and folders without sockets and without Pingora.
pub const PURE: &[&str] = &[
    "src/auth/access.rs",
    "src/auth/jwt/claims.rs",
    "src/auth/jwt/finder.rs",
    "src/auth/jwt/key_types.rs",
    "src/auth/jwt/keys.rs",
    "src/auth/jwt/pem.rs",
    "src/auth/jwt/query.rs",
    "src/auth/jwt/refused.rs",
    "src/auth/jwt/schedule.rs",
    "src/auth/jwt/subprotocol.rs",
    "src/auth/jwt/verify.rs",
    "src/config",
    "src/event_stream",
    "src/forward",
    "src/http1",
    "src/http2/control.rs",
    "src/http2/fragments.rs",
    "src/http2/hpack.rs",
    "src/lifecycle/supervisor.rs",
    "src/lifecycle/upgrade/new.rs",
    "src/lifecycle/upgrade/old.rs",
    "src/lifecycle/upgrade/store/keeper.rs",
    "src/limits",
    "src/listener/body_rate.rs",
    "src/proxy/retry.rs",
    "src/route",
    "src/session/direction.rs",
    "src/session/drain/schedule.rs",
    "src/session/goodbye.rs",
    "src/tls/tickets/key.rs",
    "src/tls/tickets/rotation.rs",
    "src/upstream/answer_head.rs",
    "src/upstream/balance/points.rs",
    "src/upstream/eject.rs",
    "src/upstream/health/counter.rs",
    "src/upstream/keys_in_use.rs",
    "src/upstream/membership.rs",
    "src/upstream/request_end.rs",
    "src/upstream/window.rs",
    "src/websocket",
];

/// The folders and files of `src` from the top: each imports only what stands on a later line.
/// Those of one line do not know each other.
pub const LAYERS: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["demo"],
    &["lifecycle"],
    &["app"],
    &["admin", "proxy"],
    &["generation"],
    &["listener"],
    &["session"],
    &["upstream"],
    &["observe"],
    &["config"],
    &["transport"],
    &["http2"],
    &["auth"],
    &["tls"],
    &[
        "net",
        "forward",
        "limits",
        "phase",
        "route",
        "websocket",
        "event_stream",
    ],
    &["http1"],
];

/// The key of a violation, as the test names it, and the reason why it may stay.
pub const EXCEPTIONS: &[(&str, &str)] = &[
    ("comment src/lifecycle/upgrade/protocol/mod.rs", DIAGRAM),
    ("file tests/it/http2.rs", SUBJECT),
    ("file tests/it/http2_edges.rs", SUBJECT),
    ("file tests/it/limits.rs", SUBJECT),
    ("file tests/it/operate.rs", SUBJECT),
    ("file tests/it/support/process.rs", SUBJECT),
    ("function src/config/resolve/mod.rs resolve", EACH_KEY),
    (
        "function tests/it/check.rs what_a_start_needs_of_the_machine_is_checked",
        TABLE,
    ),
    ("function tests/it/config.rs generated_files", TABLE),
    ("function tests/it/hand_over.rs new_process", ROLE),
    (
        "function tests/it/http2.rs requests_reach_servers_by_http_1_and_come_back",
        STORY,
    ),
    (
        "function tests/it/http2_edges.rs floods_are_cut_and_logged",
        TABLE,
    ),
];

const DIAGRAM: &str = "The lines of a diagram cannot be broken.";
const SUBJECT: &str = "One subject, and each test of it is short.";
const EACH_KEY: &str = "A step for each key at the top of the file, in its order.";
const TABLE: &str = "A table of cases, and a few lines that go through it.";
const ROLE: &str = "The other process of a hand-over, message by message.";
const STORY: &str = "One client's requests, one after the other.";
