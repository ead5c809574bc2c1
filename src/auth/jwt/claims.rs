//! What must hold of the claims of a token whose signature is good (RFC 7519 section 4.1).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::refused::Refused;

/// The claims of a token. One that has the same claim twice is none: a server could read the other.
#[derive(Debug)]
pub struct Claims(pub Map<String, Value>);

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Once;

        impl<'de> Visitor<'de> for Once {
            type Value = Claims;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("claims")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claims, A::Error> {
                let mut claims = Map::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if claims.insert(name, value).is_some() {
                        return Err(A::Error::custom("a claim is there twice"));
                    }
                }
                Ok(Claims(claims))
            }
        }

        deserializer.deserialize_map(Once)
    }
}

/// What a route demands of the claims.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rules {
    /// Empty: any issuer.
    pub issuers: Vec<String>,
    /// The token must be for one of these. Empty: for anybody.
    pub audiences: Vec<String>,
    /// How much the clocks of the issuer and of this machine may differ.
    pub leeway: Duration,
    /// In the order of the file.
    pub require: Vec<(String, Required)>,
}

/// What a route demands of one claim.
#[derive(Debug, Clone, PartialEq)]
pub enum Required {
    /// It is there, and is neither `false` nor 0 nor empty.
    Given,
    /// It is one of these. A list has one of these in it.
    OneOf(Vec<Value>),
}

impl Rules {
    /// Returns when the token expires, the leeway included. `None`: never.
    pub fn check(
        &self,
        claims: &Map<String, Value>,
        now: SystemTime,
    ) -> Result<Option<SystemTime>, Refused> {
        let expires = match claims.get("exp") {
            // A sum that the clock cannot show is never reached.
            Some(exp) => moment(exp)?.checked_add(self.leeway),
            None => None,
        };
        if expires.is_some_and(|expires| expires <= now) {
            return Err(Refused::Expired);
        }
        if let Some(nbf) = claims.get("nbf")
            && now.checked_add(self.leeway) < Some(moment(nbf)?)
        {
            return Err(Refused::NotYet);
        }
        let is_in = |list: &[String], value: &Value| {
            let text = value.as_str();
            text.is_some_and(|text| list.iter().any(|item| item == text))
        };
        let issuer = claims.get("iss").unwrap_or(&Value::Null);
        if !self.issuers.is_empty() && !is_in(&self.issuers, issuer) {
            return Err(Refused::Issuer);
        }
        let audience = members(claims.get("aud").unwrap_or(&Value::Null));
        if !self.audiences.is_empty() && !audience.iter().any(|aud| is_in(&self.audiences, aud)) {
            return Err(Refused::Audience);
        }
        let is_met = |(name, required): &(String, Required)| {
            let claim = claims.get(name);
            claim.is_some_and(|claim| required.is_met(name, claim))
        };
        match self.require.iter().all(is_met) {
            true => Ok(expires),
            false => Err(Refused::Claims),
        }
    }
}

impl Required {
    fn is_met(&self, name: &str, claim: &Value) -> bool {
        match self {
            Self::Given => is_given(claim),
            Self::OneOf(values) => match claim {
                // A list in one text (RFC 8693 section 4.2).
                Value::String(scope) if name == "scope" => {
                    let mut words = scope.split(' ');
                    words.any(|word| values.iter().any(|value| value == word))
                }
                claim => {
                    let mut members = members(claim).iter();
                    members.any(|member| values.iter().any(|value| is_same(value, member)))
                }
            },
        }
    }
}

fn is_given(claim: &Value) -> bool {
    match claim {
        Value::Null => false,
        Value::Bool(is_true) => *is_true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !matches!(&**text, "" | "0" | "false"),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// What is in a list; anything else is alone.
fn members(claim: &Value) -> &[Value] {
    match claim {
        Value::Array(members) => members,
        alone => std::slice::from_ref(alone),
    }
}

/// `1` and `1.0` are the same number.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            one == other || (one.is_f64() || other.is_f64()) && one.as_f64() == other.as_f64()
        }
        _ => one == other,
    }
}

/// Seconds since 1970, which may have a fraction (RFC 7519 section 2).
fn moment(value: &Value) -> Result<SystemTime, Refused> {
    let since = match value.as_u64() {
        Some(seconds) => Some(Duration::from_secs(seconds)),
        None => value
            .as_f64()
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
    };
    let moment = since.and_then(|since| UNIX_EPOCH.checked_add(since));
    moment.ok_or(Refused::Dates)
}

#[cfg(test)]
mod tests;
