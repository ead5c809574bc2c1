//! `affinity` of an upstream.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroUsize;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};

use crate::config::schema::units::{OptionalPeriod, Period, Section, word};

/// Either `cookie` or `header`.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Affinity {
    /// Name of a cookie that prusik sets with the first answer of a server. Its value names the
    /// server by a keyed hash. It holds over reloads and upgrades, and is passed on to the servers.
    /// An answer that sets it is made `Cache-Control: private`.
    #[schemars(regex(pattern = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"), extend("examples" = ["prusik"]))]
    pub cookie: Option<String>,
    /// How long a browser keeps the cookie, from the answer that sets it: then it gets a new choice
    /// and a new cookie. Default: as long as the browser's session.
    #[schemars(extend("default" = "0s", "examples" = ["8h"]))]
    pub max_age: Option<OptionalPeriod>,
    /// With which requests that come from other sites a browser sends the cookie.
    #[serde(default, deserialize_with = "word")]
    #[schemars(extend("default" = "lax"))]
    pub same_site: Option<SameSite>,
    /// Whether a browser sends the cookie by TLS only. `auto`: if the client came by TLS, to prusik
    /// or, by `X-Forwarded-Proto`, to a trusted proxy in front of it.
    #[schemars(extend("default" = "auto", "examples" = [true]))]
    pub secure: Option<Secure>,
    /// File of at least 32 random bytes. With the same file the cookies of one node hold on all of
    /// them. Default: a key that prusik makes itself, which lasts over reloads, upgrades and
    /// restarts that keep sessions, but not over a stop and a start.
    #[schemars(extend("examples" = ["/etc/prusik/tls/affinity.key"]))]
    pub key_file: Option<String>,
    /// The value of a header that servers choose names the session.
    pub header: Option<Section<AffinityHeader>>,
}

#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AffinityHeader {
    /// The header of answers (below 400) whose value is learned: requests with it go to the same
    /// server.
    #[schemars(required)]
    #[schemars(extend("examples" = ["Mcp-Session-Id"]))]
    pub response: Option<String>,
    /// The header of requests in which clients send the value. Default: that of `response`.
    #[schemars(extend("examples" = ["Mcp-Session-Id"]))]
    pub request: Option<String>,
    /// How long a value is kept that comes in no request and no answer.
    #[schemars(extend("default" = "1h"))]
    pub idle: Option<Period>,
    /// Values that are kept, some 150 bytes each. Beyond it the one that was used least recently is
    /// forgotten.
    #[schemars(extend("default" = 100000))]
    pub max: Option<NonZeroUsize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SameSite {
    /// With none.
    Strict,
    /// When a link leads here. Not with those of frames, scripts and WebSockets.
    Lax,
    /// With all. Browsers want it together with `secure: true`.
    None,
}

/// `auto`, `true` or `false`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secure {
    Auto,
    Always,
    Never,
}

impl<'de> Deserialize<'de> for Secure {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Secure, D::Error> {
        struct AutoOrSwitch;

        impl Visitor<'_> for AutoOrSwitch {
            type Value = Secure;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("auto, true, false or off")
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<Secure, E> {
                Ok(if value { Secure::Always } else { Secure::Never })
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<Secure, E> {
                match word {
                    "auto" => Ok(Secure::Auto),
                    "off" => Ok(Secure::Never),
                    _ => Err(E::invalid_value(Unexpected::Str(word), &self)),
                }
            }
        }

        deserializer.deserialize_any(AutoOrSwitch)
    }
}

impl JsonSchema for Secure {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Secure".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "enum": ["auto", true, false, "off"] })
    }
}
