//! The process as a whole: `server`, `admin`, `access_log`, `tracing`.

use std::num::NonZeroUsize;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::schema::units::{OptionalPeriod, Period, Section, Texts, word, word_schema};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Worker threads. Default: the number of cores.
    #[schemars(extend("examples" = [4]))]
    pub threads: Option<NonZeroUsize>,
    /// File that holds the process id while prusik runs. Default: none.
    #[schemars(extend("examples" = ["/run/prusik/prusik.pid"]))]
    pub pid_file: Option<String>,
    /// Socket at which `prusik run --take-over`, as the same user, finds this process and takes
    /// listeners, idle connections and sessions over from it: another container or path, without
    /// exec. Default: none.
    #[schemars(extend("examples" = ["unix:/run/prusik/hand-over.sock"]))]
    pub hand_over: Option<String>,
    /// Whether sessions and idle connections by TLS move to a new process too, at an upgrade or a
    /// take-over. Their keys go along then, over the socket pair that only the two processes have.
    #[serde(default, deserialize_with = "word")]
    #[schemars(extend("default" = "move"))]
    pub tls_sessions: Option<TlsSessions>,
    /// Who carries a session after its 101.
    #[serde(default, deserialize_with = "word")]
    #[schemars(extend("default" = "relay"))]
    pub tunnel: Option<Tunnel>,
    /// How sessions that must go are told so.
    pub drain: Option<Section<Drain>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TlsSessions {
    /// They move.
    Move,
    /// No key leaves the process: sessions are told to go, and idle connections end.
    Tell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tunnel {
    /// prusik's own relay: cheap, and sessions survive upgrades.
    Relay,
    /// Pingora's pass-through: frames are read for counts, Close frames and the end of a session,
    /// and what is no sound frame passes as it came, in both directions (`relay` ends such a
    /// session with 1002). Behind it no message is counted in that direction, no close code is
    /// seen, and no Close frame of prusik's own is put in: then the session just ends.
    /// `max_message` and `ping` are errors with it; no half-close, and sessions do not move in an
    /// upgrade.
    Pingora,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// Sessions that must go are told so at random moments within it.
    #[schemars(extend("default" = "30s"))]
    pub window: Option<OptionalPeriod>,
    /// WebSocket close code: 1012 service restart, 1001 going away.
    #[schemars(range(min = 1000, max = 4999), extend("default" = 1012))]
    pub code: Option<u64>,
    /// What is left after it is cut. Not shorter than the window; 30 s longer, where that is over
    /// the default.
    #[schemars(extend("default" = "60s"))]
    pub deadline: Option<Period>,
    /// For balancers in front that need the time: from the moment when `/readyz` says 503, new
    /// clients are still taken for so long; then listeners close and the window begins.
    #[schemars(extend("default" = "0s", "examples" = ["10s"]))]
    pub delay: Option<OptionalPeriod>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// `127.0.0.1:9900`, or `unix:/run/prusik/admin.sock`, which only its owner may use; or a list
    /// of such.
    #[schemars(required)]
    #[schemars(extend("examples" = ["unix:/run/prusik/admin.sock"]))]
    pub listen: Option<Texts>,
    /// File with the bearer token that every call must carry, but for the page itself, `/healthz`
    /// and `/readyz`. Required when one of `listen` is neither loopback nor a unix socket.
    #[schemars(extend("examples" = ["/etc/prusik/admin.token"]))]
    pub token_file: Option<String>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessLog {
    /// `stdout`, `stderr`, `off`, or a file, which is reopened on HUP.
    #[serde(default, deserialize_with = "word")]
    #[schemars(schema_with = "word_schema::<String>", extend("default" = "stdout"))]
    pub path: Option<String>,
    /// What a line looks like.
    #[serde(default, deserialize_with = "word")]
    #[schemars(extend("default" = "json"))]
    pub format: Option<LogFormat>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tracing {
    /// Where the collector takes OTLP over HTTP (as JSON). Required.
    #[schemars(required, extend("examples" = ["http://127.0.0.1:4318/v1/traces"]))]
    pub endpoint: Option<String>,
    /// The share of traces that are exported: 0 to 1. A trusted proxy that sends a `traceparent`
    /// has decided already.
    #[schemars(extend("default" = 1.0, "minimum" = 0, "maximum" = 1, "examples" = [0.1]))]
    pub sample: Option<f64>,
    /// What the collector knows this process by.
    #[schemars(extend("default" = "prusik"))]
    pub service: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One object a line.
    Json,
    /// As nginx and Apache write it; a session has its line when it ends, with status 101.
    Combined,
}
