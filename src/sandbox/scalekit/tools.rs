//! Lists of tools.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use serde_json::{Value, json};

use super::errors::{Answer, Refusal};
use super::fields::identifier;
use super::paging::Page;
use super::parameters::Parameters;
use crate::sandbox::accounts::Account;
use crate::sandbox::authorization;
use crate::sandbox::catalogue::Tool;
use crate::sandbox::shared::Shared;

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
