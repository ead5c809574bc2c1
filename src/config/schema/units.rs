//! The building blocks of the file's shape: durations, sections that can be `off`, mappings that
//! keep their order. Each knows how it is decoded and how the JSON Schema describes it.
//!
//! All decoders are written as visitors by hand: with serde's `untagged` and `flatten` the path to
//! an error would be lost.

mod codes;
mod sizes;

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Unexpected, Visitor};

pub use codes::OptionalCode;
pub use sizes::{OptionalSize, Size};

/// Timers add durations to the clock, and an unbounded sum would overflow it.
const LONGEST: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

const LONGER_THAN_ZERO: &str = "a duration longer than zero";

/// The format that `humantime` reads, so that editors accept every duration that prusik accepts.
const DURATION_PATTERN: &str = r"^\s*([0-9]+(\.[0-9]+)?\s*[a-zA-Zµ]+\s*)+$";

/// A duration with its unit, longer than zero: `30s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period(pub Duration);

/// A duration with its unit; `off`, `false`, `0` and `0s`: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionalPeriod(pub Option<Duration>);

/// A text, or a list of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Texts(pub Vec<String>);

/// A mapping with known keys. Without this, serde would also take a list of the values, in the
/// order of the struct's fields.
#[derive(Debug)]
pub struct Section<T>(pub T);

/// A section that can be switched off: a mapping, or `off` or `false`.
#[derive(Debug)]
pub enum OffOr<T> {
    Off,
    On(T),
}

/// A section that can be switched off, or on as it is without a key.
#[derive(Debug)]
pub enum Switch<T> {
    Off,
    On(T),
}

/// A mapping with free keys, in the order of the file.
#[derive(Debug)]
pub struct Ordered<T>(pub Vec<(String, T)>);

/// Decodes a word that can be `off`, which may also be written as `false`.
pub fn word<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Word<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Word<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("a word")
        }

        fn visit_str<E: Error>(self, word: &str) -> Result<T, E> {
            T::deserialize(StrDeserializer::new(word))
        }

        fn visit_bool<E: Error>(self, value: bool) -> Result<T, E> {
            match value {
                false => T::deserialize(StrDeserializer::new("off")),
                true => Err(E::invalid_type(Unexpected::Bool(value), &self)),
            }
        }
    }

    deserializer.deserialize_any(Word(PhantomData)).map(Some)
}

/// The schema of [`word`].
pub fn word_schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "oneOf": [generator.subschema_for::<T>(), { "const": false }] })
}

/// Decodes a boolean that may also be written as `off`.
pub fn switch<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    struct Switch;

    impl Visitor<'_> for Switch {
        type Value = bool;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("true, false or off")
        }

        fn visit_bool<E: Error>(self, value: bool) -> Result<bool, E> {
            Ok(value)
        }

        fn visit_str<E: Error>(self, word: &str) -> Result<bool, E> {
            match word {
                "off" => Ok(false),
                _ => Err(E::invalid_value(Unexpected::Str(word), &self)),
            }
        }
    }

    deserializer.deserialize_any(Switch).map(Some)
}

/// The schema of [`switch`].
pub fn switch_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": [true, false, "off"] })
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Texts, D::Error> {
        struct OneOrMany;

        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a text, or a list of them")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Texts, E> {
                Ok(Texts(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Texts, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                }
                Ok(Texts(texts))
            }
        }

        deserializer.deserialize_any(OneOrMany)
    }
}

impl JsonSchema for Texts {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Texts".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "oneOf": [
                { "type": "string" },
                { "type": "array", "items": { "type": "string" }, "minItems": 1 }
            ]
        })
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Period, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Period;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a duration such as 30s")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Period, E> {
                if text == "off" {
                    return Err(E::invalid_value(Unexpected::Str(text), &LONGER_THAN_ZERO));
                }
                match duration(text, &self)? {
                    Duration::ZERO => {
                        Err(E::invalid_value(Unexpected::Str(text), &LONGER_THAN_ZERO))
                    }
                    duration => Ok(Period(duration)),
                }
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<Period, E> {
                Err(E::invalid_type(Unexpected::Bool(value), &LONGER_THAN_ZERO))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Period, E> {
                let number_is = Unexpected::Unsigned(number);
                match number {
                    0 => Err(E::invalid_value(number_is, &LONGER_THAN_ZERO)),
                    _ => Err(E::invalid_type(number_is, &self)),
                }
            }
        }

        deserializer.deserialize_any(Text)
    }
}

impl<'de> Deserialize<'de> for OptionalPeriod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OptionalPeriod, D::Error> {
        struct TextOrOff;

        impl Visitor<'_> for TextOrOff {
            type Value = OptionalPeriod;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a duration such as 30s, or off")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<OptionalPeriod, E> {
                if text == "off" {
                    return Ok(OptionalPeriod(None));
                }
                let duration = duration(text, &self)?;
                Ok(OptionalPeriod(
                    Some(duration).filter(|duration| !duration.is_zero()),
                ))
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<OptionalPeriod, E> {
                match value {
                    false => Ok(OptionalPeriod(None)),
                    true => Err(E::invalid_type(Unexpected::Bool(value), &self)),
                }
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<OptionalPeriod, E> {
                match number {
                    0 => Ok(OptionalPeriod(None)),
                    _ => Err(E::invalid_type(Unexpected::Unsigned(number), &self)),
                }
            }
        }

        deserializer.deserialize_any(TextOrOff)
    }
}

fn duration<'de, E: Error>(text: &str, expected: &impl Visitor<'de>) -> Result<Duration, E> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration <= LONGEST => Ok(duration),
        Ok(_) => Err(E::invalid_value(
            Unexpected::Str(text),
            &"a duration of at most 3650d",
        )),
        Err(_) => Err(E::invalid_value(Unexpected::Str(text), expected)),
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Section<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Section<T>, D::Error> {
        struct Mapping<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Mapping<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a mapping")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer
            .deserialize_any(Mapping(PhantomData))
            .map(Section)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OffOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OffOr<T>, D::Error> {
        struct OffOrMapping<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for OffOrMapping<T> {
            type Value = OffOr<T>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a mapping, or off")
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<OffOr<T>, E> {
                match word {
                    "off" => Ok(OffOr::Off),
                    _ => Err(E::invalid_value(Unexpected::Str(word), &self)),
                }
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<OffOr<T>, E> {
                match value {
                    false => Ok(OffOr::Off),
                    true => Err(E::invalid_type(Unexpected::Bool(value), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OffOr<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(OffOr::On)
            }
        }

        deserializer.deserialize_any(OffOrMapping(PhantomData))
    }
}

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for Switch<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Switch<T>, D::Error> {
        struct WordOrMapping<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de> + Default> Visitor<'de> for WordOrMapping<T> {
            type Value = Switch<T>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a mapping, true or off")
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<Switch<T>, E> {
                match word {
                    "off" => Ok(Switch::Off),
                    "on" => Ok(Switch::On(T::default())),
                    _ => Err(E::invalid_value(Unexpected::Str(word), &self)),
                }
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<Switch<T>, E> {
                Ok(match value {
                    false => Switch::Off,
                    true => Switch::On(T::default()),
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Switch<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Switch::On)
            }
        }

        deserializer.deserialize_any(WordOrMapping(PhantomData))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Ordered<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Ordered<T>, D::Error> {
        struct Entries<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Ordered<T>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a mapping")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered<T>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Ordered(entries))
            }
        }

        deserializer.deserialize_map(Entries(PhantomData))
    }
}

impl JsonSchema for Period {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Period".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "title": "duration", "type": "string", "pattern": DURATION_PATTERN })
    }
}

impl JsonSchema for OptionalPeriod {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "OptionalPeriod".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "oneOf": [
                { "title": "duration", "type": "string", "pattern": DURATION_PATTERN },
                { "enum": ["off", false, 0] },
            ]
        })
    }
}

impl<T: JsonSchema> JsonSchema for Section<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

impl<T: JsonSchema> JsonSchema for OffOr<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("OffOr{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "oneOf": [generator.subschema_for::<T>(), { "enum": ["off", false] }]
        })
    }
}

impl<T: JsonSchema> JsonSchema for Switch<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Switch{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "oneOf": [generator.subschema_for::<T>(), { "enum": ["on", true, "off", false] }]
        })
    }
}

impl<T: JsonSchema> JsonSchema for Ordered<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Ordered{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "additionalProperties": generator.subschema_for::<T>(),
        })
    }
}

#[cfg(test)]
mod tests;
