//! `auth.jwt`: what a token must be like.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::Value;

use crate::config::schema::units::{OptionalPeriod, Ordered, Period, Texts, switch, switch_schema};

/// A token is signed by RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA, or by HS256,
/// HS384, HS512 if a secret is in the file. It must not be longer than 16 KiB. A request without a
/// token that counts gets 401, one whose claims are not those of `require` 403, and one that comes
/// while there are no keys 503.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Jwt {
    /// The keys that sign: a file with a JWKS (JSON, where `oct` is a secret), or with public keys
    /// or certificates in PEM; or the `https` URL of a JWKS. `http` only from this machine.
    #[schemars(required)]
    #[schemars(extend("examples" = ["https://id.example.com/.well-known/jwks.json"]))]
    pub keys: Option<String>,
    /// With a URL: file with the authorities that are believed. Default: the system's.
    #[schemars(extend("examples" = ["/etc/prusik/tls/ca.pem"]))]
    pub ca: Option<String>,
    /// How often the keys are fetched or read again, at least `1s`. A token that names an unknown
    /// key has them fetched at once, once a minute at most. Default: `5m` for a URL; a file is read
    /// again by a reload.
    #[schemars(extend("examples" = ["5m"]))]
    pub refresh: Option<Period>,
    /// Where a token is looked for; the first place that has one decides. `bearer`: the header
    /// `Authorization: Bearer TOKEN`. `cookie:NAME`. `query:NAME`: an argument, which is taken out
    /// of the log, and of the request. `subprotocol`: `Sec-WebSocket-Protocol: bearer, TOKEN`, as
    /// `new WebSocket(url, ["bearer", token])` sends it; neither goes to the server, and the answer
    /// is the server's choice of the others, or `bearer`.
    #[schemars(length(min = 1))]
    #[schemars(extend("default" = ["bearer"]))]
    #[schemars(extend("examples" = [["bearer", "cookie:session", "query:access_token"]]))]
    pub from: Option<Vec<String>>,
    /// Whether arguments of `query:NAME` stay in the request that goes to the server. They are
    /// never logged, and `$args`, `$request_uri` and the `X-Forwarded-Uri` that `auth.forward`
    /// sends never have them.
    #[serde(default, deserialize_with = "switch")]
    #[schemars(schema_with = "switch_schema", extend("default" = false))]
    pub keep_token: Option<bool>,
    /// The token's `iss` must be this, or one of these. Default: any.
    #[schemars(extend("examples" = ["https://id.example.com"]))]
    pub issuer: Option<Texts>,
    /// The token's `aud` must have this, or one of these. Default: any; write it where the issuer
    /// has tokens for others too.
    #[schemars(extend("examples" = ["chat"]))]
    pub audience: Option<Texts>,
    /// How much longer and earlier than `exp` and `nbf` say a token is valid, as clocks differ.
    #[schemars(extend("default" = "0s", "examples" = ["30s"]))]
    pub leeway: Option<OptionalPeriod>,
    /// Claims that a token must have, each with its value. A list: one of these. A claim that is a
    /// list, or a `scope`, must have one of them in it. `true`: the claim is there, and is not
    /// `false`, 0 or empty. A token without `exp` never expires unless this has `exp: true`.
    #[schemars(extend("examples" = [{"role": ["agent", "admin"], "exp": true}]))]
    pub require: Option<Ordered<RequiredValue>>,
}

/// A text, a number, a boolean, or a list of them. `resolve` checks it.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub struct RequiredValue(pub Value);

impl JsonSchema for RequiredValue {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "RequiredValue".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let scalar = ["string", "number", "boolean"];
        json_schema!({
            "oneOf": [
                { "type": scalar },
                { "type": "array", "items": { "type": scalar }, "minItems": 1 }
            ]
        })
    }
}
