//! Values of the file that are written in more than one way.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Unexpected, Visitor};

use super::ServerTable;

/// `127.0.0.1:9080`, or a mapping that also has the server's weight and limits.
#[derive(Debug)]
pub enum ServerEntry {
    Address(String),
    Table(ServerTable),
}

/// A status (`200`) or a range of them (`200-399`).
#[derive(Debug)]
pub enum Statuses {
    One(u64),
    Range(String),
}

/// `connect`, `timeout`, or a status.
#[derive(Debug)]
pub enum RetryCase {
    Status(u64),
    Word(String),
}

impl<'de> Deserialize<'de> for ServerEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ServerEntry, D::Error> {
        struct AddressOrTable;

        impl<'de> Visitor<'de> for AddressOrTable {
            type Value = ServerEntry;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an address such as 127.0.0.1:9080, or a mapping")
            }

            fn visit_str<E: Error>(self, address: &str) -> Result<ServerEntry, E> {
                Ok(ServerEntry::Address(address.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ServerEntry, A::Error> {
                ServerTable::deserialize(MapAccessDeserializer::new(map)).map(ServerEntry::Table)
            }
        }

        deserializer.deserialize_any(AddressOrTable)
    }
}

impl JsonSchema for ServerEntry {
    fn schema_name() -> Cow<'static, str> {
        "UpstreamServer".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "`127.0.0.1:9080`, or a mapping that also has the server's weight and limits.",
            "oneOf": [{ "type": "string" }, generator.subschema_for::<ServerTable>()],
        })
    }
}

impl<'de> Deserialize<'de> for Statuses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Statuses, D::Error> {
        struct NumberOrRange;

        impl Visitor<'_> for NumberOrRange {
            type Value = Statuses;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a status such as 200 or a range such as 200-399")
            }

            fn visit_u64<E: Error>(self, status: u64) -> Result<Statuses, E> {
                Ok(Statuses::One(status))
            }

            fn visit_i64<E: Error>(self, status: i64) -> Result<Statuses, E> {
                Err(E::invalid_value(Unexpected::Signed(status), &self))
            }

            fn visit_str<E: Error>(self, range: &str) -> Result<Statuses, E> {
                Ok(Statuses::Range(range.to_owned()))
            }
        }

        deserializer.deserialize_any(NumberOrRange)
    }
}

impl JsonSchema for Statuses {
    fn schema_name() -> Cow<'static, str> {
        "Statuses".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A status (`200`) or a range of them (`200-399`).",
            "oneOf": [
                { "type": "integer", "minimum": 100, "maximum": 599 },
                { "type": "string", "pattern": r"^[1-5][0-9]{2}(\s*-\s*[1-5][0-9]{2})?$" },
            ]
        })
    }
}

impl<'de> Deserialize<'de> for RetryCase {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RetryCase, D::Error> {
        struct NumberOrWord;

        impl Visitor<'_> for NumberOrWord {
            type Value = RetryCase;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("connect, timeout, or a status such as 503")
            }

            fn visit_u64<E: Error>(self, status: u64) -> Result<RetryCase, E> {
                Ok(RetryCase::Status(status))
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<RetryCase, E> {
                Ok(match word.parse() {
                    Ok(status) => RetryCase::Status(status),
                    Err(_) => RetryCase::Word(word.to_owned()),
                })
            }
        }

        deserializer.deserialize_any(NumberOrWord)
    }
}

impl JsonSchema for RetryCase {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "RetryCase".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "enum": ["connect", 502, 503, 504, "timeout"] })
    }
}
