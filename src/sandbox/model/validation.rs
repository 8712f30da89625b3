//! What the real APIs refuse, refused here as well.

use axum::extract::{Json as JsonBody, rejection::JsonRejection};
use serde_json::{Map, Value};

use super::errors::ApiError;
use super::models::Profile;

/// Most tools in one request.
const TOOL_LIMIT: usize = 128;

pub(super) type Body = Result<JsonBody<Map<String, Value>>, JsonRejection>;

/// The body, if it is an object.
pub(super) fn read(body: Body) -> Result<Map<String, Value>, ApiError> {
    body.map(|JsonBody(body)| body).map_err(|rejection| ApiError::invalid("", rejection.body_text()))
}

/// Refuses parameters that are not known, and what this stand-in cannot do.
pub(super) fn check_names(body: &Map<String, Value>, known: &[&str]) -> Result<(), ApiError> {
    if let Some(name) = body.keys().find(|name| !known.contains(&name.as_str())) {
        return Err(ApiError::invalid(name.clone(), format!("unknown parameter: {name}")).code("unknown_parameter"));
    }
    if body.get("stream") == Some(&Value::Bool(true)) {
        return Err(ApiError::invalid("stream", "the sandbox does not stream").code("unsupported_value"));
    }
    Ok(())
}

/// Refuses sampling parameters for models that do not take them.
pub(super) fn check_sampling(body: &Map<String, Value>, profile: &Profile) -> Result<(), ApiError> {
    let refused = ["temperature", "top_p", "presence_penalty", "frequency_penalty", "max_tokens"];
    let found = refused.iter().find(|name| profile.reasoning && body.get(**name).is_some_and(|value| !value.is_null()));
    found.map_or(Ok(()), |name| {
        Err(ApiError::invalid(*name, format!("{name} is not taken by this model")).code("unsupported_parameter"))
    })
}

/// One function as both APIs describe it, wherever it is nested.
pub(super) struct Function<'a> {
    /// Where it stands, for the error: `tools[3].function`.
    pub(super) path: String,
    pub(super) definition: &'a Value,
}

/// Checks number, names, descriptions and schemas.
pub(super) fn check_tools(functions: &[Function<'_>], profile: &Profile) -> Result<(), ApiError> {
    if functions.len() > TOOL_LIMIT {
        let message = format!("{} tools are given, at most {TOOL_LIMIT} are allowed", functions.len());
        return Err(ApiError::invalid("tools", message).code("array_above_max_length"));
    }
    functions.iter().try_for_each(|function| check_tool(function, profile))
}

fn check_tool(function: &Function<'_>, profile: &Profile) -> Result<(), ApiError> {
    let Function { path, definition } = function;
    let name = definition["name"].as_str().unwrap_or_default();
    check_name(&format!("{path}.name"), name)?;
    let description = definition["description"].as_str().unwrap_or_default();
    if profile.short_descriptions && description.chars().count() > 1_024 {
        let error = ApiError::invalid(format!("{path}.description"), "the description has more than 1024 characters");
        return Err(error.code("string_above_max_length"));
    }
    let parameters = &definition["parameters"];
    let problem = match parameters {
        Value::Null => None,
        _ if parameters["type"] != "object" => Some("the schema's type is not object".to_owned()),
        _ if definition["strict"] == true => schema_problem(parameters, 0).or_else(|| strict_problem(parameters)),
        _ => schema_problem(parameters, 0),
    };
    problem.map_or(Ok(()), |problem| {
        let message = format!("invalid schema for function '{name}': {problem}");
        Err(ApiError::invalid(format!("{path}.parameters"), message).code("invalid_function_parameters"))
    })
}

/// Names of functions and of output schemas: 1 to 64 letters, digits, `_` and `-`.
pub(super) fn check_name(path: &str, name: &str) -> Result<(), ApiError> {
    if name.len() > 64 {
        return Err(ApiError::invalid(path, "the name has more than 64 characters").code("string_above_max_length"));
    }
    let fits = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '-');
    if name.is_empty() || !name.chars().all(fits) {
        return Err(ApiError::invalid(path, "the name holds other than letters, digits, _ and -").code("invalid_value"));
    }
    Ok(())
}

/// An output schema: named, and in strict mode strict throughout.
pub(super) fn check_output(path: &str, format: &Value) -> Result<(), ApiError> {
    check_name(&format!("{path}.name"), format["name"].as_str().unwrap_or_default())?;
    let schema = &format["schema"];
    let problem = match schema {
        Value::Object(_) if format["strict"] == true && schema["type"] != "object" => {
            Some("the schema's type is not object".to_owned())
        }
        Value::Object(_) if format["strict"] == true => strict_problem(schema),
        Value::Object(_) => None,
        _ => Some("there is no schema".to_owned()),
    };
    problem
        .map_or(Ok(()), |problem| Err(ApiError::invalid(format!("{path}.schema"), problem).code("invalid_json_schema")))
}

/// Every list needs to say what it holds.
fn schema_problem(schema: &Value, depth: usize) -> Option<String> {
    if depth > 20 {
        return Some("the schema is nested too deeply".to_owned());
    }
    if schema["type"] == "array" && schema.get("items").is_none() {
        return Some("a list does not say what its items are".to_owned());
    }
    children(schema).find_map(|child| schema_problem(child, depth + 1))
}

fn strict_problem(schema: &Value) -> Option<String> {
    if let Some(properties) = schema["properties"].as_object() {
        if schema["additionalProperties"] != false {
            return Some("additionalProperties has to be false in strict mode".to_owned());
        }
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if let Some(name) = properties.keys().find(|name| !required.contains(&name.as_str())) {
            return Some(format!("'{name}' has to be required in strict mode"));
        }
    }
    children(schema).find_map(strict_problem)
}

fn children(schema: &Value) -> impl Iterator<Item = &Value> {
    let named = ["properties", "$defs", "definitions"].into_iter().filter_map(|key| schema[key].as_object());
    let listed = ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|key| schema[key].as_array());
    let items = schema.get("items").filter(|items| items.is_object());
    named.flat_map(Map::values).chain(listed.flatten()).chain(items)
}
