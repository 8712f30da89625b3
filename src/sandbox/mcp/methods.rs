//! The methods that all revisions have.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::messages::{INVALID_PARAMS, METHOD_NOT_FOUND, McpRefusal, RpcMessage};
use super::servers::McpServer;
use crate::sandbox::shared::Shared;
use crate::sandbox::state::State;

/// Does what `message` asks, and gives the result without what only some revisions add to it.
pub(super) fn run(
    shared: &Shared,
    state: &mut State,
    server: &McpServer,
    message: &RpcMessage,
) -> Result<Value, McpRefusal> {
    match message.method.as_str() {
        "tools/list" => list(server.tools(shared, state), state.mcp.settings.page_size, &message.params["cursor"]),
        "tools/call" => {
            let arguments = match &message.params["arguments"] {
                Value::Null => Some(serde_json::Map::new()),
                Value::Object(arguments) => Some(arguments.clone()),
                _ => None,
            };
            let (Some(name), Some(arguments)) = (message.params["name"].as_str(), arguments) else {
                return Err(McpRefusal::new(200, INVALID_PARAMS, "name and arguments are a text and an object"));
            };
            server.call(shared, state, name, arguments)
        }
        _ => Err(McpRefusal::new(404, METHOD_NOT_FOUND, "Method not found")),
    }
}

fn list(tools: Vec<Value>, page_size: usize, cursor: &Value) -> Result<Value, McpRefusal> {
    let start = match cursor {
        Value::Null => Some(0),
        cursor => cursor.as_str().and_then(start_of),
    };
    let start = start.filter(|start| *start <= tools.len());
    let start = start.ok_or_else(|| McpRefusal::new(200, INVALID_PARAMS, "the cursor is none of this server's"))?;
    let end = start.saturating_add(page_size.max(1)).min(tools.len());
    let mut result = json!({ "tools": tools[start..end] });
    if end < tools.len() {
        result["nextCursor"] = URL_SAFE_NO_PAD.encode(format!("from {end}")).into();
    }
    Ok(result)
}

fn start_of(cursor: &str) -> Option<usize> {
    let decoded = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
    decoded.strip_prefix("from ")?.parse().ok()
}
