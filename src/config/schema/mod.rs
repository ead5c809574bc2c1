//! The types of the file: what may be written, in which units, and the description of it.

pub mod raw;
pub mod reference;
pub mod roff;
pub mod units;

use schemars::generate::SchemaSettings;

/// The JSON Schema of the file. Draft 7 is the latest that the YAML modes of all editors know.
pub fn json_schema() -> serde_json::Value {
    SchemaSettings::draft07()
        .with_transform(schemars::transform::RecursiveTransform(refuse_null))
        .into_generator()
        .into_root_schema_for::<raw::File>()
        .to_value()
}

/// Keys are optional, but a written key needs a value.
fn refuse_null(schema: &mut schemars::Schema) {
    if let Some(serde_json::Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = &types[..] {
            let only = only.clone();
            schema.insert("type".to_owned(), only);
        }
    }
    if let Some(serde_json::Value::Array(options)) = schema.get_mut("anyOf") {
        options.retain(|option| option != &serde_json::json!({ "type": "null" }));
    }
}
