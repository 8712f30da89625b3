//! Connected accounts: lists, details, links and verification.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::errors::{Answer, Refusal};
use super::fields::{Body, identifier, read, required};
use super::paging::Page;
use super::parameters::Parameters;
use crate::sandbox::accounts::Account;
use crate::sandbox::authorization;
use crate::sandbox::shared::Shared;

/// The accounts that fit the query.
pub(super) async fn list(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Answer {
    let query = Parameters::parse(query.as_deref().unwrap_or_default());
    let names = query.all("connection_names");
    if names.len() > 20 {
        return Err(Refusal::field("connection_names", "more than 20 values", "max_items"));
    }
    if !names.is_empty() && query.first("connector").is_some() {
        return Err(Refusal::invalid("connector and connection_names exclude each other"));
    }
    // The protocol demands a page size strictly below 100 here.
    let page = Page::read(&query, 10, 99, true)?;
    let is = |wanted: Option<&str>, value: &str| wanted.is_none_or(|wanted| wanted == value);
    let state = shared.lock();
    let accounts = state.accounts.all().filter(|account| {
        is(query.first("identifier"), &account.identifier)
            && is(query.first("connector"), &account.connector)
            && is(query.first("provider"), &account.provider)
            && (names.is_empty() || names.contains(&account.connector.as_str()))
    });
    let accounts: Vec<Value> = accounts.map(Account::to_json).collect();
    Ok(Json(page.cut("connected_accounts", accounts)))
}

/// One account, without credentials.
pub(super) async fn details(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Answer {
    let account = asked_account(&shared, query.as_deref())?;
    Ok(Json(json!({ "connected_account": account.to_json() })))
}

/// One account, with credentials where it is active.
pub(super) async fn credentials(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Answer {
    let account = asked_account(&shared, query.as_deref())?;
    let mut answer = account.to_json();
    if account.is_active() {
        let token =
            json!({"access_token": "sandbox-provider-token", "refresh_token": "sandbox-refresh-token", "scopes": []});
        answer["authorization_details"] = json!({ "oauth_token": token });
    }
    Ok(Json(json!({ "connected_account": answer })))
}

/// An account by name or by id, and what a link for it needs.
#[derive(Deserialize)]
pub(super) struct NamedAccount {
    connector: Option<String>,
    identifier: Option<String>,
    id: Option<String>,
    state: Option<String>,
    user_verify_url: Option<String>,
}

/// Makes an account that waits for consent.
pub(super) async fn create(
    State(shared): State<Arc<Shared>>,
    body: Body<NamedAccount>,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let body = read(body)?;
    let connector = required("connector", body.connector.as_deref())?;
    let identifier = identifier(body.identifier.as_deref())?;
    match authorization::account_or_new(&shared, connector, identifier)? {
        (_, false) => Err(Refusal::new(400, "RESOURCE_ALREADY_EXISTS", "connected account already exists")),
        (account, true) => Ok((StatusCode::CREATED, Json(json!({ "connected_account": account.to_json() })))),
    }
}

/// Gives out a link to the consent page.
pub(super) async fn magic_link(State(shared): State<Arc<Shared>>, body: Body<NamedAccount>) -> Answer {
    let body = read(body)?;
    if body.state.as_ref().is_some_and(|state| state.len() > 512) {
        return Err(Refusal::field("state", "longer than 512 characters", "max_len"));
    }
    let verification = match body.user_verify_url.filter(|address| !address.is_empty()) {
        None => None,
        Some(address) if address.starts_with("http://") || address.starts_with("https://") => {
            Some((address, body.state.unwrap_or_default()))
        }
        Some(_) => {
            return Err(Refusal::field("user_verify_url", "not an http address", "uri"));
        }
    };
    let (connector, identifier) = if let Some(id) = &body.id {
        let account = shared.lock().accounts.by_id(id).cloned();
        let account = account.ok_or_else(|| Refusal::not_found("connected account not found"))?;
        (account.connector, account.identifier)
    } else {
        let connector = required("connector", body.connector.as_deref())?;
        (connector.to_owned(), identifier(body.identifier.as_deref())?.to_owned())
    };
    let (link, expiry) = authorization::new_link(&shared, &connector, &identifier, verification)?;
    Ok(Json(json!({"link": link, "expiry": expiry})))
}

/// What an application says about the user that came back from consent.
#[derive(Deserialize)]
pub(super) struct Verification {
    auth_request_id: Option<String>,
    identifier: Option<String>,
}

/// Makes an account active whose user the application has verified.
pub(super) async fn verify(State(shared): State<Arc<Shared>>, body: Body<Verification>) -> Answer {
    let body = read(body)?;
    let request = required("auth_request_id", body.auth_request_id.as_deref())?;
    let identifier = identifier(body.identifier.as_deref())?;
    let (connector, owner) = {
        let mut state = shared.lock();
        let Some(account) = state.accounts.verifications.get(request).cloned() else {
            return Err(Refusal::not_found("auth request not found"));
        };
        if account.1 != identifier {
            return Err(Refusal::new(403, "FORBIDDEN", "identifier does not match"));
        }
        state.accounts.verifications.remove(request);
        account
    };
    authorization::set_status(&shared, &connector, &owner, "ACTIVE")?;
    Ok(Json(json!({ "post_user_verify_redirect_url": format!("{}/connected", shared.base_url) })))
}

fn asked_account(shared: &Shared, query: Option<&str>) -> Result<Account, Refusal> {
    let query = Parameters::parse(query.unwrap_or_default());
    let mut state = shared.lock();
    let account = if let Some(id) = query.first("id") {
        state.accounts.by_id(id).cloned()
    } else {
        let connector = required("connector", query.first("connector"))?;
        let identifier = identifier(query.first("identifier"))?;
        authorization::account(shared, &mut state, connector, identifier)
    };
    account.ok_or_else(|| Refusal::not_found("resource not found"))
}
