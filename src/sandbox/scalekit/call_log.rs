//! The log of tool calls, as the API gives it.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use jiff::Timestamp;
use serde_json::json;

use super::errors::{Answer, Refusal};
use super::paging::Page;
use super::parameters::Parameters;
use crate::sandbox::shared::Shared;
use crate::sandbox::tool_calls::ToolCall;

/// The calls that ran, newest first (a preview of the real service, so its shape is less sure than the rest).
pub(super) async fn list(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Answer {
    let query = Parameters::parse(query.as_deref().unwrap_or_default());
    let page = Page::read(&query, 20, 100, true)?;
    let (after, before) = (instant(&query, "start_time")?, instant(&query, "end_time")?);
    let state = shared.lock();
    let calls = state.tool_calls.iter().rev().filter(|call| {
        let is = |name: &str, value: &str| query.first(name).is_none_or(|wanted| wanted == value);
        is("agent_run_id", &call.agent_run_id)
            && is("identifier", &call.account.identifier)
            && is("status", call.status)
            && is("provider", &call.account.provider)
            && is("connection_name", &call.account.connector)
            && after.is_none_or(|after| call.started_at >= after)
            && before.is_none_or(|before| call.started_at <= before)
    });
    let mut answer = page.cut("tool_call_logs", calls.map(ToolCall::to_json).collect());
    // 64 bit integers travel as strings in this API's JSON.
    answer["total_size"] = answer["total_size"].to_string().into();
    Ok(Json(answer))
}

pub(super) async fn show(State(shared): State<Arc<Shared>>, Path(execution_id): Path<String>) -> Answer {
    let state = shared.lock();
    let call = state.tool_calls.iter().find(|call| call.execution_id == execution_id);
    let call = call.ok_or_else(|| Refusal::not_found("tool call not found"))?;
    Ok(Json(json!({ "tool_call_log": call.to_json() })))
}

fn instant(query: &Parameters, name: &str) -> Result<Option<Timestamp>, Refusal> {
    let parsed = query.first(name).map(str::parse::<Timestamp>).transpose();
    parsed.map_err(|_| Refusal::field(name, "not an RFC 3339 instant", "format"))
}
