//! What a tool said, for a model: every kind of content as text or JSON.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use crate::http::parse_bounded;

/// The result of a call; `None` where it has nothing that a result must have.
pub(super) fn of_result(result: &mut Map<String, Value>) -> Option<Value> {
    let structured = result.remove("structuredContent");
    let parts = match result.remove("content") {
        Some(Value::Array(parts)) => parts,
        None | Some(Value::Null) if structured.is_some() => Vec::new(),
        _ => return None,
    };
    let Some(structured) = structured.filter(|value| !value.is_null()) else { return Some(of_parts(&parts)) };
    // Its text says the same again (MCP: SHOULD), what is no text does not.
    let others: Vec<Value> = parts.into_iter().filter(|part| kind(part) != "text").collect();
    if others.is_empty() {
        return Some(structured);
    }
    Some(json!({"structured_content": structured, "content": of_parts(&others)}))
}

/// As JSON where all of it is text that is an object or a list.
fn of_parts(parts: &[Value]) -> Value {
    let text = text_of(parts);
    if parts.iter().all(|part| kind(part) == "text")
        && let Ok(value @ (Value::Object(_) | Value::Array(_))) = parse_bounded(text.as_bytes())
    {
        return value;
    }
    Value::String(text)
}

/// All parts, in words.
pub(super) fn text_of(parts: &[Value]) -> String {
    parts.iter().map(of_part).collect::<Vec<_>>().join("\n")
}

fn of_part(part: &Value) -> Cow<'_, str> {
    let text = |key: &str| part.get(key).and_then(Value::as_str);
    match kind(part) {
        "text" => text("text").unwrap_or_default().into(),
        kind @ ("image" | "audio") => {
            left_out(kind, text("mimeType"), text("data").map(|data| data.len() / 4 * 3)).into()
        }
        "resource_link" => of_link(part).into(),
        "resource" => of_resource(part.get("resource").unwrap_or(&Value::Null)).into(),
        // A list may have ended with words on what was left out of it.
        "" => part.as_str().unwrap_or("[content without a type left out]").into(),
        other => left_out(&other.chars().take(40).collect::<String>(), None, None).into(),
    }
}

fn of_link(link: &Value) -> String {
    let text = |key: &str| link.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let name = text("title").or_else(|| text("name")).map(|name| format!("{name}: ")).unwrap_or_default();
    let about = text("description").map(|about| format!(" ({about})")).unwrap_or_default();
    format!("[resource] {name}{}{about}", text("uri").unwrap_or_default())
}

fn of_resource(resource: &Value) -> String {
    let text = |key: &str| resource.get(key).and_then(Value::as_str);
    let uri = text("uri").unwrap_or_default();
    match (text("text"), text("blob")) {
        (Some(content), _) => format!("[resource] {uri}\n{content}"),
        (None, blob) => {
            format!("{} {uri}", left_out("resource", text("mimeType"), blob.map(|blob| blob.len() / 4 * 3)))
        }
    }
}

fn left_out(kind: &str, media_type: Option<&str>, bytes: Option<usize>) -> String {
    let media_type = media_type.map(|media_type| format!(", {media_type}")).unwrap_or_default();
    let bytes = bytes.map(|bytes| format!(", {bytes} bytes")).unwrap_or_default();
    format!("[{kind}{media_type}{bytes}, left out]")
}

fn kind(part: &Value) -> &str {
    part.get("type").and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(result: Value) -> Option<Value> {
        let Value::Object(mut result) = result else { panic!("an object") };
        of_result(&mut result)
    }

    #[test]
    fn every_kind_of_content_reaches_the_model_as_text_or_json() {
        let text = |text: &str| json!({"type": "text", "text": text});
        let image = json!({"type": "image", "data": "QUJD", "mimeType": "image/png"});
        for (result, expected) in [
            (json!({"content": []}), json!("")),
            (json!({"content": [text("12 found")]}), json!("12 found")),
            (json!({"content": [text("42")]}), json!("42")),
            (json!({"content": [text("a"), text("b")]}), json!("a\nb")),
            (json!({"content": [text(r#"{"a": 1}"#)]}), json!({"a": 1})),
            (json!({"content": [text("[1]")], "structuredContent": {"a": 1}}), json!({"a": 1})),
            (json!({"structuredContent": [1, 2]}), json!([1, 2])),
            (json!({"structuredContent": 7, "content": [text("7")]}), json!(7)),
            (json!({"structuredContent": null, "content": [text("x")]}), json!("x")),
            (json!({"content": [text("see"), image.clone()]}), json!("see\n[image, image/png, 3 bytes, left out]")),
            (
                json!({"content": [text("{}"), image], "structuredContent": {}}),
                json!({"structured_content": {}, "content": "[image, image/png, 3 bytes, left out]"}),
            ),
            (json!({"content": [{"type": "audio", "data": 5}]}), json!("[audio, left out]")),
            (
                json!({"content": [{"type": "resource_link", "uri": "file:///a.rs", "name": "a.rs", "description": "main"}]}),
                json!("[resource] a.rs: file:///a.rs (main)"),
            ),
            (
                json!({"content": [{"type": "resource", "resource": {"uri": "file:///a", "text": "fn main() {}"}}]}),
                json!("[resource] file:///a\nfn main() {}"),
            ),
            (
                json!({"content": [{"type": "resource", "resource": {"uri": "file:///a", "blob": "QUJD", "mimeType": "a/b"}}]}),
                json!("[resource, a/b, 3 bytes, left out] file:///a"),
            ),
            (json!({"content": [{"type": "resource"}]}), json!("[resource, left out] ")),
            (json!({"content": [{"type": "hologram", "data": "x"}]}), json!("[hologram, left out]")),
            (
                json!({"content": [5, {}]}),
                json!("[content without a type left out]\n[content without a type left out]"),
            ),
        ] {
            assert_eq!(shown(result.clone()), Some(expected), "{result}");
        }
    }

    #[test]
    fn a_result_without_content_is_none() {
        for result in
            [json!({}), json!({"content": "text"}), json!({"content": {"type": "text"}}), json!({"toolResult": 1})]
        {
            assert_eq!(shown(result.clone()), None, "{result}");
        }
    }
}
