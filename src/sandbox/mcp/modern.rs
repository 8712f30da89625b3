//! The revision without a handshake: every request says by itself what it is, in its body and once more in its headers.

use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::legacy;
use super::messages::{INVALID_PARAMS, McpRefusal, RpcMessage, respond};
use super::methods;
use super::servers::McpServer;
use crate::sandbox::mcp_state::Era;
use crate::sandbox::shared::Shared;

const REVISION: &str = "2026-07-28";
const VERSION_KEY: &str = "io.modelcontextprotocol/protocolVersion";
const CAPABILITIES_KEY: &str = "io.modelcontextprotocol/clientCapabilities";
const SERVER_KEY: &str = "io.modelcontextprotocol/serverInfo";
const HEADER_MISMATCH: i64 = -32020;
const UNSUPPORTED_VERSION: i64 = -32022;

/// Whether the client speaks a revision without a handshake, or none that ever had one.
pub(super) fn is_meant(message: &RpcMessage, headers: &HeaderMap) -> bool {
    let declared = message.params["_meta"][VERSION_KEY].is_string();
    message.method != "initialize" && (declared || version(headers).is_some_and(|version| !legacy::knows(version)))
}

/// What a server that has no handshake says to a client that comes with one.
pub(super) fn needs_newer(message: &RpcMessage, headers: &HeaderMap) -> McpRefusal {
    let requested = message.params["protocolVersion"].as_str().or(version(headers)).unwrap_or_default();
    unsupported(requested, Era::Modern).of(message)
}

pub(super) fn answer(
    shared: &Shared,
    server: &McpServer,
    headers: &HeaderMap,
    message: &RpcMessage,
) -> Result<Response, McpRefusal> {
    if message.is_notification() {
        return Ok(StatusCode::ACCEPTED.into_response());
    }
    let mut state = shared.lock();
    let settings = state.mcp.settings.clone();
    let tools = server.tools(shared, &state);
    check(headers, message, &tools, settings.speaks).map_err(|refusal| refusal.of(message))?;
    let result = if message.method == "server/discover" {
        Ok(json!({"supportedVersions": supported(settings.speaks), "capabilities": {"tools": {}}}))
    } else {
        methods::run(shared, &mut state, server, message)
    };
    let mut result = result.map_err(|refusal| refusal.of(message))?;
    result["resultType"] = "complete".into();
    result["_meta"] = json!({SERVER_KEY: {"name": server.name(), "version": env!("CARGO_PKG_VERSION")}});
    if message.method != "tools/call" {
        result["ttlMs"] = settings.ttl_ms.into();
        result["cacheScope"] = server.cache_scope().into();
    }
    Ok(respond(message, settings.answers, &[], &result))
}

fn check(headers: &HeaderMap, message: &RpcMessage, tools: &[Value], speaks: Era) -> Result<(), McpRefusal> {
    let meta = &message.params["_meta"];
    let declared = meta[VERSION_KEY].as_str();
    same("MCP-Protocol-Version", version(headers), declared)?;
    if declared != Some(REVISION) {
        return Err(unsupported(declared.unwrap_or_default(), speaks));
    }
    if !meta[CAPABILITIES_KEY].is_object() {
        return Err(McpRefusal::new(400, INVALID_PARAMS, format!("_meta has no {CAPABILITIES_KEY}")));
    }
    same("Mcp-Method", header(headers, "mcp-method"), Some(&message.method))?;
    if message.method != "tools/call" {
        return Ok(());
    }
    let name = message.params["name"].as_str();
    same("Mcp-Name", decoded(headers, "mcp-name").as_deref(), name)?;
    let Some(tool) = tools.iter().find(|tool| tool["name"].as_str() == name) else { return Ok(()) };
    let none = Map::new();
    let properties = tool["inputSchema"]["properties"].as_object().unwrap_or(&none);
    properties.iter().try_for_each(|(property, schema)| {
        let Some(mirrored) = schema["x-mcp-header"].as_str() else { return Ok(()) };
        let wanted = match &message.params["arguments"][property] {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        };
        let name = format!("mcp-param-{}", mirrored.to_ascii_lowercase());
        same(&name, decoded(headers, &name).as_deref(), wanted.as_deref())
    })
}

/// A header that has to say what the body says.
fn same(name: &str, header: Option<&str>, body: Option<&str>) -> Result<(), McpRefusal> {
    if header == body {
        return Ok(());
    }
    let words = format!("Header mismatch: {name} is {header:?}, the body says {body:?}");
    Err(McpRefusal::new(400, HEADER_MISMATCH, words))
}

fn unsupported(requested: &str, speaks: Era) -> McpRefusal {
    let data = json!({"supported": supported(speaks), "requested": requested});
    McpRefusal::new(400, UNSUPPORTED_VERSION, "Unsupported protocol version").with(data)
}

fn supported(speaks: Era) -> Vec<&'static str> {
    let earlier = legacy::REVISIONS.iter().rev().filter(|_| speaks == Era::Both);
    [REVISION].into_iter().chain(earlier.copied()).collect()
}

fn version(headers: &HeaderMap) -> Option<&str> {
    header(headers, "mcp-protocol-version")
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// A header whose value may be wrapped as `=?base64?…?=`.
fn decoded(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = header(headers, name)?;
    let Some(wrapped) = value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) else {
        return Some(value.to_owned());
    };
    String::from_utf8(STANDARD.decode(wrapped).ok()?).ok()
}
