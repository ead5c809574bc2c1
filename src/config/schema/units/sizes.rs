//! Sizes with their units.

use std::borrow::Cow;
use std::fmt;

use bytesize::ByteSize;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};

/// A size with its unit, more than nothing: `64KiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

/// A size with its unit; `off`, `false` and `0`: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionalSize(pub Option<u64>);

/// A pebibyte. A larger size is a mistake, and sums of larger ones could overflow.
const LARGEST: u64 = 1 << 50;

const PATTERN: &str = r"^\s*[0-9]+(\.[0-9]+)?\s*([kKmMgGtT][iI]?)?[bB]\s*$";

struct SizeOrOff {
    expected: &'static str,
}

impl Visitor<'_> for SizeOrOff {
    type Value = Option<u64>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Option<u64>, E> {
        let has_unit = text.trim_end().ends_with(['b', 'B']);
        match text.trim().parse::<ByteSize>() {
            _ if text == "off" => Ok(None),
            Ok(ByteSize(size)) if has_unit && size > LARGEST => Err(E::invalid_value(
                Unexpected::Str(text),
                &"a size of at most 1024TiB",
            )),
            Ok(ByteSize(size)) if has_unit => Ok(Some(size).filter(|size| *size > 0)),
            _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
        }
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Option<u64>, E> {
        match value {
            false => Ok(None),
            true => Err(E::invalid_type(Unexpected::Bool(value), &self)),
        }
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Option<u64>, E> {
        match number {
            0 => Ok(None),
            _ => Err(E::invalid_type(Unexpected::Unsigned(number), &self)),
        }
    }
}

impl<'de> Deserialize<'de> for OptionalSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OptionalSize, D::Error> {
        let expected = "a size such as 64KiB, or 0";
        deserializer
            .deserialize_any(SizeOrOff { expected })
            .map(OptionalSize)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
        let expected = "a size such as 64KiB";
        match deserializer.deserialize_any(SizeOrOff { expected })? {
            Some(size) => Ok(Size(size)),
            None => Err(D::Error::invalid_value(
                Unexpected::Other("nothing"),
                &"a size of more than nothing",
            )),
        }
    }
}

impl JsonSchema for Size {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "title": "size", "type": "string", "pattern": PATTERN })
    }
}

impl JsonSchema for OptionalSize {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "OptionalSize".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "oneOf": [
                { "title": "size", "type": "string", "pattern": PATTERN },
                { "enum": ["off", false, 0] },
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(yaml: &str) -> Option<Option<u64>> {
        let decoded: Result<OptionalSize, _> = serde_yaml::from_str(yaml);
        decoded.ok().map(|OptionalSize(size)| size)
    }

    #[test]
    fn sizes_have_units_and_nothing_is_none() {
        assert_eq!(size("64KiB"), Some(Some(65_536)));
        assert_eq!(size("10 MB"), Some(Some(10_000_000)));
        assert_eq!(size("512B"), Some(Some(512)));
        for none in ["0", "off", "false", "0KiB"] {
            assert_eq!(size(none), Some(None), "{none}");
            assert!(serde_yaml::from_str::<Size>(none).is_err(), "{none}");
        }
        assert_eq!(size("1024TiB"), Some(Some(LARGEST)));
        for large in ["1025TiB", "99999999999999999999GiB"] {
            assert_eq!(size(large), None, "{large}");
        }
        for wrong in ["64", "\"64\"", "64 apples", "64k", "-1KiB", "true", "[1]"] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
    }
}
