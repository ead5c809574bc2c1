//! `routes`: what is done with a request.

use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Auth;
use crate::config::schema::units::{
    OffOr, OptionalCode, OptionalPeriod, OptionalSize, Ordered, Period, Section, Texts, switch,
    switch_schema, word, word_schema,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Name for logs and metrics. Default: the match in words.
    #[schemars(extend("examples" = ["chat"]))]
    pub name: Option<String>,
    /// What a request must be like. All that is given must hold. Default: any request.
    #[serde(rename = "match")]
    pub matching: Option<Section<Match>>,
    /// The upstream that serves. Each route has this, `redirect` or `respond`.
    #[schemars(extend("examples" = ["chat"]))]
    pub upstream: Option<String>,
    /// Headers changed on the way.
    pub headers: Option<Section<Headers>>,
    /// Networks of clients that are served. All others get 403, before `auth`. Default: any.
    #[schemars(length(min = 1))]
    #[schemars(extend("examples" = [["10.0.0.0/8"]]))]
    pub allow: Option<Vec<String>>,
    /// Networks of clients that get 403, also if `allow` has them.
    #[schemars(length(min = 1))]
    #[schemars(extend("examples" = [["10.6.6.0/24"]]))]
    pub deny: Option<Vec<String>>,
    /// What a request must show before anything of the route answers it. All that is given must let
    /// it in, in this order: `basic`, `jwt`, `forward`. Default: nothing.
    pub auth: Option<Section<Auth>>,
    /// Whose request or session it is, for the log, `prusik sessions --user` and the limits for
    /// each user: a template. One that is empty is nobody's. Over 512 bytes: 400. Default: the
    /// `sub` of the token that let it in, else the name in `auth.basic`, else nobody's.
    #[schemars(extend("examples" = ["$arg_userId", "$ssl_client_s_dn"]))]
    pub user: Option<String>,
    /// How the server learns who the client is.
    #[serde(default, deserialize_with = "word")]
    #[schemars(schema_with = "word_schema::<Forwarded>", extend("default" = "x_forwarded"))]
    pub forwarded: Option<Forwarded>,
    /// How long the exchange with the server may take.
    pub timeouts: Option<Section<Timeouts>>,
    /// Whether several slashes in a row in a path are one, for this route and for its servers.
    #[serde(default, deserialize_with = "switch")]
    #[schemars(schema_with = "switch_schema", extend("default" = true))]
    pub merge_slashes: Option<bool>,
    /// Taken off the front of the path before it goes to the upstream, and off `$uri` in
    /// `redirect.to`.
    #[schemars(regex(pattern = "^/"))]
    #[schemars(extend("examples" = ["/IMS_SVR"]))]
    pub strip_prefix: Option<String>,
    /// The path that the server gets in place of the one that was asked for, the query apart.
    pub rewrite: Option<Section<Rewrite>>,
    /// Answers with a redirection.
    pub redirect: Option<Section<Redirect>>,
    /// Answers with a fixed response.
    pub respond: Option<Section<Respond>>,
    /// Bodies of the errors that prusik itself answers on this route, by status: a file each
    /// (`.html`, `.txt`, `.json`, `.xml`, `.svg`, at most 1 MiB), read at a start and a reload.
    /// What servers answer passes as it is.
    #[schemars(extend("examples" = [{"502": "/etc/prusik/sorry.html"}]))]
    pub errors: Option<Ordered<String>>,
    /// Requests that the route takes, handshakes among them: over it 429 with `Retry-After`. They
    /// are counted after `allow` and `deny` and before `auth`. Counts outlast a reload, and begin
    /// anew after an upgrade.
    pub requests_per_second: Option<OffOr<RequestRate>>,
    /// Size of a request body: over it 413. 0: no limit. Default: the listener's `body_size`.
    #[schemars(extend("examples" = ["20MiB"]))]
    pub body_size: Option<OptionalSize>,
    /// Limits of WebSocket sessions; `off` refuses upgrades with 403. Default: allowed.
    pub websocket: Option<OffOr<WebSocket>>,
    /// Limits of event streams, which are sessions too: answers of 200 with `text/event-stream` and
    /// without a Content-Length. `off`: they are answers as any other. Default: sessions.
    pub stream: Option<OffOr<Stream>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// `chat.example.com`, or `*.example.com` for the names below it; or a list, of which one must
    /// match.
    #[schemars(extend("examples" = ["chat.example.com"]))]
    pub host: Option<Texts>,
    /// The path begins with this, in whole segments.
    #[schemars(regex(pattern = "^/"))]
    #[schemars(extend("examples" = ["/IMS_SVR/websocket"]))]
    pub path_prefix: Option<String>,
    /// The path is exactly this.
    #[schemars(regex(pattern = "^/"))]
    #[schemars(extend("examples" = ["/IMS_SVR/websocket"]))]
    pub path: Option<String>,
    /// The path matches this regular expression, anywhere unless anchored.
    #[schemars(extend("examples" = ["^/room/[0-9]+$"]))]
    pub path_regex: Option<String>,
    /// Name of the listener the request came in on.
    #[schemars(extend("examples" = ["public"]))]
    pub listener: Option<String>,
    /// Headers the request has, each with exactly this value.
    #[schemars(extend("examples" = [{"X-Tenant": "acme"}]))]
    pub headers: Option<Ordered<String>>,
    /// Methods, such as `GET`.
    #[schemars(length(min = 1))]
    #[schemars(extend("examples" = [["GET"]]))]
    pub methods: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Headers {
    /// Of the request, as it goes to the server.
    pub request: Option<Section<HeaderRules>>,
    /// Of the response, as it goes to the client.
    pub response: Option<Section<HeaderRules>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeaderRules {
    /// Replaces the header. Values are templates; an empty value removes it.
    #[schemars(extend("examples" = [{"X-User": "$arg_userId"}]))]
    pub set: Option<Ordered<String>>,
    /// Adds the header beside those of the same name. Values are templates.
    #[schemars(extend("examples" = [{"X-Via": "$server_addr"}]))]
    pub add: Option<Ordered<String>>,
    /// Names of headers to remove.
    #[schemars(extend("examples" = [["X-Debug"]]))]
    pub remove: Option<Vec<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Forwarded {
    /// `X-Forwarded-For`, `-Proto`, `-Host`, `-Port` and `X-Real-IP`.
    #[serde(rename = "x_forwarded")]
    XHeaders,
    /// The `Forwarded` header of RFC 7239.
    Rfc7239,
    /// Both of these.
    Both,
    /// Neither; what a trusted proxy sent passes.
    Off,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestRate {
    /// Requests a second for each key, 0.001 to 1000000; `0.1` is six a minute.
    #[schemars(required, range(min = 0.001, max = 1_000_000))]
    #[schemars(extend("examples" = [50]))]
    pub rate: Option<f64>,
    /// Requests that may come at once. Default: as many as a second brings, and one at least.
    #[schemars(extend("maximum" = 1_000_000, "examples" = [100]))]
    pub burst: Option<NonZeroU32>,
    /// For whom a request is counted: a template. One for which it is empty is not counted; a plain
    /// word counts all of the route together. With `$remote_addr` an IPv6 client is its whole /64,
    /// and who comes by a unix socket without a trusted proxy's word of it is not counted. Counted
    /// before `auth` asks who it is, but behind it if the key reads that (`$user`).
    #[schemars(extend("default" = "$remote_addr", "examples" = ["$http_x_api_key"]))]
    pub key: Option<String>,
}

/// Not beside `strip_prefix`: the expression can take the prefix off.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rewrite {
    /// A path in normal form that matches is replaced as a whole; another one stays as it is. Not
    /// anchored unless it has `^` and `$`.
    #[schemars(required)]
    #[schemars(extend("examples" = ["^/v1/(.*)$"]))]
    pub regex: Option<String>,
    /// The new path, with the groups of the expression as `$1` or `${name}`. It is made normal
    /// again. If the groups make it lead upwards (`..`), the request gets 400.
    #[schemars(required, regex(pattern = "^/"))]
    #[schemars(extend("examples" = ["/api/$1"]))]
    pub to: Option<String>,
}

/// Limits of the exchange with the server. None of them can be off.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// Until the connection to the server stands.
    #[schemars(extend("default" = "5s"))]
    pub connect: Option<Period>,
    /// Until the server's answer begins.
    #[schemars(extend("default" = "60s"))]
    pub response: Option<Period>,
    /// Between two reads or writes of a plain HTTP exchange.
    #[schemars(extend("default" = "60s"))]
    pub idle: Option<Period>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// Where to: a template, such as `https://$host$request_uri`. With `strip_prefix: /old`,
    /// `/new$uri$is_args$args` keeps the rest of the path.
    #[schemars(required)]
    #[schemars(extend("examples" = ["/new"]))]
    pub to: Option<String>,
    /// Status of the answer.
    #[schemars(extend("enum" = [301, 302, 303, 307, 308], "default" = 308))]
    pub status: Option<u64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Respond {
    /// Status of the answer.
    #[schemars(required, range(min = 200, max = 599))]
    #[schemars(extend("examples" = [410]))]
    pub status: Option<u64>,
    /// Text of the answer. Default: empty.
    #[schemars(extend("examples" = ["gone"]))]
    pub body: Option<String>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stream {
    /// A stream in which the server sends nothing for this long ends. `off`: never.
    #[schemars(extend("default" = "1h"))]
    pub idle: Option<OptionalPeriod>,
    /// A stream that is this old ends between two events, give or take a tenth. `off`: never.
    #[schemars(extend("default" = "0s", "examples" = ["24h"]))]
    pub max_session: Option<OptionalPeriod>,
    /// When the server sends nothing for this long, the client is sent the comment `: ping`. Not in
    /// a stream with a Content-Encoding. `off`: never.
    #[schemars(extend("default" = "0s", "examples" = ["30s"]))]
    pub ping: Option<OptionalPeriod>,
    /// Live streams of the route: over it a client gets 503 instead. 0: no limit.
    #[schemars(extend("default" = 0))]
    pub max_sessions: Option<usize>,
    /// The same for each client address, an IPv6 one with its whole /64: over it 429. 0: no limit.
    /// Who comes by a unix socket without a trusted proxy's word of it has no address.
    #[schemars(extend("default" = 0))]
    pub max_sessions_per_client: Option<usize>,
    /// The same for each user, on a route that knows them: over it 429. 0: no limit.
    #[schemars(extend("default" = 0))]
    pub max_sessions_per_user: Option<usize>,
    /// Over `max_sessions_per_user`, the user's oldest stream ends instead.
    #[serde(default, deserialize_with = "switch")]
    #[schemars(schema_with = "switch_schema", extend("default" = false))]
    pub newest_wins: Option<bool>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebSocket {
    /// A session in which no frame passes in either direction (pings and pongs are frames) for this
    /// long ends. `off`: never.
    #[schemars(extend("default" = "1h"))]
    pub idle: Option<OptionalPeriod>,
    /// A session that is this old ends. `off`: never.
    #[schemars(extend("default" = "0s", "examples" = ["24h"]))]
    pub max_session: Option<OptionalPeriod>,
    /// Origins that may open sessions: `https://app.example.com`, `https://*.example.com` for the
    /// names below it, `null` and `file://` as some apps send them, `none` for who sends no Origin,
    /// as no browser does. Default: any.
    #[schemars(length(min = 1))]
    #[schemars(extend("examples" = [["https://app.example.com", "https://*.example.com"]]))]
    pub origins: Option<Vec<String>>,
    /// A client that sends nothing for this long is sent a ping; when nothing comes for as long
    /// again, the session ends. `off`: never.
    #[schemars(extend("default" = "0s", "examples" = ["30s"]))]
    pub ping: Option<OptionalPeriod>,
    /// Live sessions of the route, and handshakes under way: over it a handshake gets 503. 0: no
    /// limit.
    #[schemars(extend("default" = 0))]
    pub max_sessions: Option<usize>,
    /// The same for each client address, an IPv6 one with its whole /64: over it 429. 0: no limit.
    /// Who comes by a unix socket without a trusted proxy's word of it has no address.
    #[schemars(extend("default" = 0))]
    pub max_sessions_per_client: Option<usize>,
    /// The same for each user, on a route that knows them: over it 429. 0: no limit.
    #[schemars(extend("default" = 0))]
    pub max_sessions_per_user: Option<usize>,
    /// Over `max_sessions_per_user`, the user's oldest session is told 4409 instead, when the
    /// newest has begun.
    #[serde(default, deserialize_with = "switch")]
    #[schemars(schema_with = "switch_schema", extend("default" = false))]
    pub newest_wins: Option<bool>,
    /// Close code of sessions whose credential expires: the token or the client certificate that
    /// let them in, whichever ends first. They are told in its last two seconds. Event streams of
    /// the route end then, too. `off`: they outlive it.
    #[schemars(extend("default" = "off", "examples" = [4401]))]
    pub on_expiry: Option<OptionalCode>,
    /// Handshakes that the route takes in a second, and in one burst: over it 429. 0: no limit.
    #[schemars(extend("default" = 0, "maximum" = 1_000_000))]
    pub handshakes_per_second: Option<u32>,
    /// A message that is larger, as it is on the wire, ends its session with 1009. 0: no limit.
    #[schemars(extend("default" = 0, "examples" = ["1MiB"]))]
    pub max_message: Option<OptionalSize>,
    /// Messages that a client may send in a second, and in one burst: over it the session ends with
    /// 1008. Not frames: the fragments of a message are one, pings none. 0: no limit.
    #[schemars(extend("default" = 0, "maximum" = 1_000_000))]
    pub messages_per_second: Option<u32>,
    /// How prusik refuses a valid handshake. A server's own refusals pass as they are.
    #[serde(default, deserialize_with = "word")]
    #[schemars(extend("default" = "status"))]
    pub refusal: Option<Refusal>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// With a status, which a browser's script does not see.
    Status,
    /// With a 101 and a Close frame, which it sees: 1013 and `retry in 2 s` for limits, missing
    /// servers and a stop; 4401 for who must log in; 4403 for who may not come in.
    Close,
}
