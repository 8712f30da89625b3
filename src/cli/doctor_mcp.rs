//! What `doctor` says of the MCP servers of the configuration.

use std::sync::Arc;

use super::Context;
use super::report::Report;
use crate::app;
use crate::mcp::{Caller, McpError};
use crate::scalekit::Scalekit;

/// Asks each server for its tools; `named` are connections that somebody wants checked.
pub(super) async fn check_servers(
    context: &Context,
    scalekit: &Arc<Scalekit>,
    named: Vec<String>,
    report: &mut Report,
) {
    let unknown = named.iter().filter_map(|name| name.strip_prefix("mcp:"));
    for name in unknown.filter(|name| !context.config.mcp.contains_key(*name)) {
        let found = "there is no such server in the configuration";
        report.bad(&format!("MCP server {name}"), found, &format!("add a section [mcp.{name}] with its `url`"));
    }
    let sources = match app::tool_sources(&context.config, &context.clock, scalekit) {
        Ok(sources) => sources,
        Err(error) => return report.bad("MCP servers", &format!("{error:#}"), "correct the configuration first"),
    };
    for (name, server) in sources.servers() {
        let what = format!("MCP server {name}");
        match Box::pin(server.endpoint.list(Caller { session: "", bearer: None })).await {
            Ok(listed) if listed.tools.is_empty() => {
                report.warn(&what, "no tools", "check the server, and what the configured headers let the worker see");
            }
            Ok(listed) => report.good(&what, &format!("{} tool(s)", listed.tools.len())),
            Err(error) => report.bad(&what, &error.to_string(), advice(&error)),
        }
    }
}

fn advice(error: &McpError) -> &'static str {
    match error {
        McpError::Unauthorized(_) => "check the server's `headers` in the configuration",
        McpError::NotSent(_) | McpError::TimedOut(_) | McpError::Unavailable { .. } => {
            "check the server's `url`, the network, and that it runs"
        }
        _ => "see the message; check that the server's `url` is its endpoint for Streamable HTTP",
    }
}
