//! Lists of tools, and the log of their calls.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::errors::Refusal;
use super::paging::{Page, Parameters};
use super::{Answer, identifier};
use crate::sandbox::accounts::Account;
use crate::sandbox::authorization;
use crate::sandbox::catalogue::Tool;
use crate::sandbox::shared::Shared;
use crate::sandbox::tool_calls::ToolCall;

/// Pages of the plain and the scoped list hold this many where the caller names no size.
const DEFAULT_PAGE: usize = 10;

/// The whole catalogue.
pub(super) async fn list(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Answer {
    let query = Parameters::parse(query.as_deref().unwrap_or_default());
    let page = Page::read(&query, DEFAULT_PAGE, shared.options.page_size_cap, false)?;
    let names = query.all("filter.tool_name");
    let of_connector = match query.first("filter.connector") {
        None => None,
        Some(name) => {
            let connection = shared.catalogue.connection(name);
            Some(connection.ok_or_else(|| Refusal::not_found("connection not found"))?.provider.as_str())
        }
    };
    let words = query.first("filter.query").map(str::to_lowercase);
    let tools = shared.catalogue.tools().iter().filter(|tool| {
        (names.is_empty() || names.contains(&tool.name.as_str()))
            && query.first("filter.provider").is_none_or(|provider| provider.eq_ignore_ascii_case(&tool.provider))
            && of_connector.is_none_or(|provider| provider == tool.provider)
            && words.as_ref().is_none_or(|words| tool.entry.to_string().to_lowercase().contains(words))
    });
    if query.first("filter.summary") == Some("true") {
        let names = tools.map(|tool| Value::from(tool.name.as_str())).collect();
        let mut answer = page.cut("tool_names", names);
        answer["tools"] = json!([]);
        return Ok(Json(answer));
    }
    let mut answer = page.cut("tools", tools.map(|tool| tool.entry.clone()).collect());
    answer["tool_names"] = json!([]);
    Ok(Json(answer))
}

/// What one user can run. Accounts that are not active contribute nothing; the protocol does not say so, it is the
/// careful reading of "can run".
pub(super) async fn list_scoped(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Answer {
    let query = Parameters::parse(query.as_deref().unwrap_or_default());
    let identifier = identifier(query.first("identifier"))?;
    let page = Page::read(&query, DEFAULT_PAGE, shared.options.page_size_cap, false)?;
    let names = query.all("filter.tool_names");
    let accounts = named_accounts(&shared, &query, identifier)?;
    let mut tools = Vec::new();
    for account in accounts.iter().filter(|account| account.is_active()) {
        let wanted = |tool: &&Tool| {
            tool.provider == account.provider && (names.is_empty() || names.contains(&tool.name.as_str()))
        };
        tools.extend(
            shared
                .catalogue
                .tools()
                .iter()
                .filter(wanted)
                .map(|tool| json!({"tool": tool.entry, "identifier": identifier, "connected_account_id": account.id})),
        );
    }
    Ok(Json(page.cut("tools", tools)))
}

fn named_accounts(shared: &Shared, query: &Parameters, identifier: &str) -> Result<Vec<Account>, Refusal> {
    let connections = query.all("filter.connection_names");
    let providers = query.all("filter.providers");
    let names = query.all("filter.tool_names");
    if connections.is_empty() && providers.is_empty() && names.is_empty() {
        return Err(Refusal::field("filter", "a value is needed", "required"));
    }
    let mut state = shared.lock();
    let mut accounts = Vec::new();
    for name in &connections {
        let account = authorization::account(shared, &mut state, name, identifier);
        accounts.push(account.ok_or_else(|| Refusal::not_found("connected account not found"))?);
    }
    for provider in &providers {
        let found: Vec<&Account> =
            state.accounts.of(identifier).filter(|account| account.provider.eq_ignore_ascii_case(provider)).collect();
        match found.as_slice() {
            [] => return Err(Refusal::not_found("connected account not found")),
            [account] => accounts.push((*account).clone()),
            _ => return Err(Refusal::invalid("multiple connected accounts found")),
        }
    }
    if connections.is_empty() && providers.is_empty() {
        accounts.extend(state.accounts.of(identifier).cloned());
    }
    Ok(accounts)
}

/// The tools of all accounts a user has, whatever their status.
pub(super) async fn list_available(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Answer {
    let query = Parameters::parse(query.as_deref().unwrap_or_default());
    let identifier = identifier(query.first("identifier"))?;
    let page = Page::read(&query, 100, shared.options.page_size_cap, false)?;
    let state = shared.lock();
    let providers: Vec<&str> = state.accounts.of(identifier).map(|account| account.provider.as_str()).collect();
    let tools = shared.catalogue.tools().iter().filter(|tool| providers.contains(&tool.provider.as_str()));
    Ok(Json(page.cut("tools", tools.map(|tool| tool.entry.clone()).collect())))
}

/// The calls that ran, newest first (a preview of the real service, so its shape is less sure than the rest).
pub(super) async fn list_calls(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Answer {
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

/// One call.
pub(super) async fn show_call(State(shared): State<Arc<Shared>>, Path(execution_id): Path<String>) -> Answer {
    let state = shared.lock();
    let call = state.tool_calls.iter().find(|call| call.execution_id == execution_id);
    let call = call.ok_or_else(|| Refusal::not_found("tool call not found"))?;
    Ok(Json(json!({ "tool_call_log": call.to_json() })))
}

fn instant(query: &Parameters, name: &str) -> Result<Option<Timestamp>, Refusal> {
    let parsed = query.first(name).map(str::parse::<Timestamp>).transpose();
    parsed.map_err(|_| Refusal::field(name, "not an RFC 3339 instant", "format"))
}
