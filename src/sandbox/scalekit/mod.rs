//! The stand-in for Scalekit's REST API: tokens, accounts, tools, execution, call logs, tokens for MCP.

mod accounts;
mod call_log;
pub(super) mod errors;
mod execute;
mod fields;
mod mcp_tokens;
mod paging;
mod parameters;
mod token;
mod tools;

use std::sync::Arc;

use axum::Router;
use axum::middleware;
use axum::routing::{get, post};

use super::shared::Shared;

pub(super) fn router(shared: &Arc<Shared>) -> Router<Arc<Shared>> {
    Router::new()
        .route("/api/v1/connected_accounts", get(accounts::list).post(accounts::create))
        .route("/api/v1/connected_accounts/details", get(accounts::details))
        .route("/api/v1/connected_accounts/auth", get(accounts::credentials))
        .route("/api/v1/connected_accounts/magic_link", post(accounts::magic_link))
        .route("/api/v1/connected_accounts/user/verify", post(accounts::verify))
        .route("/api/v1/tools", get(tools::list))
        .route("/api/v1/tools/scoped", get(tools::list_scoped))
        .route("/api/v1/tools/available", get(tools::list_available))
        .route("/api/v1/execute_tool", post(execute::execute_tool))
        .route("/api/v1/agentkit/tool_call_logs", get(call_log::list))
        .route("/api/v1/agentkit/tool_call_logs/{execution_id}", get(call_log::show))
        .route("/api/v1/mcp/connections/{name}/tokens", post(mcp_tokens::give))
        .route_layer(middleware::from_fn_with_state(Arc::clone(shared), token::demand))
        .route("/oauth/token", post(token::give))
}
