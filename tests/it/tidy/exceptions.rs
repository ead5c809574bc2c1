//! What the rules hold, and what they do not hold for: the lists to change as the tree moves.

/// Files and folders without sockets and without Pingora.
pub const PURE: &[&str] = &[
    "src/config",
    "src/forward",
    "src/http1",
    "src/http2/control.rs",
    "src/http2/fragments.rs",
    "src/http2/hpack.rs",
    "src/lifecycle/supervisor.rs",
    "src/lifecycle/upgrade/new.rs",
    "src/lifecycle/upgrade/old.rs",
    "src/limits",
    "src/listener/body_rate.rs",
    "src/route",
    "src/session/drain/schedule.rs",
    "src/upstream/balance/points.rs",
    "src/upstream/eject.rs",
    "src/upstream/health/counter.rs",
    "src/upstream/keys_in_use.rs",
    "src/upstream/membership.rs",
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
    &["tls"],
    &["net", "forward", "limits", "phase", "route", "websocket"],
    &["http1"],
];

/// The key of a violation, as the test names it, and the reason why it may stay.
pub const EXCEPTIONS: &[(&str, &str)] = &[];
