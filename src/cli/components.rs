//! Schemas as the components of a document that has several, as AsyncAPI and OpenAPI do.

use serde_json::{Map, Value};

/// Adds a schema and its definitions. A reference in such a document starts at the document's root, so the
/// definitions move beside the schema.
pub(super) fn add_schema(schemas: &mut Map<String, Value>, name: &str, mut schema: Value) {
    if let Some(fields) = schema.as_object_mut() {
        fields.remove("$schema");
        if let Some(Value::Object(definitions)) = fields.remove("$defs") {
            schemas.extend(definitions);
        }
    }
    schemas.insert(name.to_owned(), schema);
    schemas.values_mut().for_each(point_to_components);
}

fn point_to_components(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(target)) = fields.get_mut("$ref") {
                *target = target.replace("#/$defs/", "#/components/schemas/");
            }
            fields.values_mut().for_each(point_to_components);
        }
        Value::Array(items) => items.iter_mut().for_each(point_to_components),
        _ => {}
    }
}
