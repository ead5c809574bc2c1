//! Close codes.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};

use crate::websocket::frames::may_be_sent;

/// A close code that may be sent; `off`, `false` and `0`: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionalCode(pub Option<u16>);

impl<'de> Deserialize<'de> for OptionalCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OptionalCode, D::Error> {
        struct CodeOrOff;

        impl Visitor<'_> for CodeOrOff {
            type Value = OptionalCode;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a close code that may be sent, such as 4401, or off")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<OptionalCode, E> {
                match u16::try_from(number) {
                    Ok(0) => Ok(OptionalCode(None)),
                    Ok(code) if may_be_sent(code) => Ok(OptionalCode(Some(code))),
                    _ => Err(E::invalid_value(Unexpected::Unsigned(number), &self)),
                }
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<OptionalCode, E> {
                match u64::try_from(number) {
                    Ok(number) => self.visit_u64(number),
                    Err(_) => Err(E::invalid_value(Unexpected::Signed(number), &self)),
                }
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<OptionalCode, E> {
                match word {
                    "off" => Ok(OptionalCode(None)),
                    _ => Err(E::invalid_value(Unexpected::Str(word), &self)),
                }
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<OptionalCode, E> {
                match value {
                    false => Ok(OptionalCode(None)),
                    true => Err(E::invalid_type(Unexpected::Bool(value), &self)),
                }
            }
        }

        deserializer.deserialize_any(CodeOrOff)
    }
}

impl JsonSchema for OptionalCode {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "OptionalCode".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "oneOf": [
                { "title": "close code", "type": "integer", "minimum": 1000, "maximum": 4999 },
                { "enum": ["off", false, 0] },
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Option<u16>> {
        let OptionalCode(code) = serde_json::from_str(text).ok()?;
        Some(code)
    }

    #[test]
    fn a_code_is_one_that_may_be_sent_or_off() {
        assert_eq!(read("4401"), Some(Some(4401)));
        assert_eq!(read("1000"), Some(Some(1000)));
        for off in ["\"off\"", "false", "0"] {
            assert_eq!(read(off), Some(None));
        }
        for wrong in [
            "-1", "999", "1005", "1006", "5000", "70000", "true", "\"4401\"",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
