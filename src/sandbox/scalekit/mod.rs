//! The stand-in for Scalekit's REST API: tokens, accounts, tools, execution, call logs.

pub(super) mod errors;
mod paging;
mod tools;

use std::sync::Arc;

use axum::extract::{Json as JsonBody, RawQuery, Request, State, rejection::JsonRejection};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::accounts::Account;
use super::authorization;
use super::execute;
use super::shared::{self, Shared};
use errors::Refusal;
use paging::{Page, Parameters};

/// Longest identifier that is accepted.
pub(super) const IDENTIFIER_LIMIT: usize = 100;

type Answer = Result<Json<Value>, Refusal>;

pub(super) fn router(shared: &Arc<Shared>) -> Router<Arc<Shared>> {
    Router::new()
        .route("/api/v1/connected_accounts", get(list_accounts).post(create_account))
        .route("/api/v1/connected_accounts/details", get(details))
        .route("/api/v1/connected_accounts/auth", get(credentials))
        .route("/api/v1/connected_accounts/magic_link", post(magic_link))
        .route("/api/v1/connected_accounts/user/verify", post(verify))
        .route("/api/v1/tools", get(tools::list))
        .route("/api/v1/tools/scoped", get(tools::list_scoped))
        .route("/api/v1/tools/available", get(tools::list_available))
        .route("/api/v1/execute_tool", post(execute_tool))
        .route("/api/v1/agentkit/tool_call_logs", get(tools::list_calls))
        .route("/api/v1/agentkit/tool_call_logs/{execution_id}", get(tools::show_call))
        .route_layer(middleware::from_fn_with_state(Arc::clone(shared), demand_token))
        .route("/oauth/token", post(token))
}

async fn token(State(shared): State<Arc<Shared>>, form: String) -> Response {
    let form = Parameters::parse(&form);
    let refused = |status, error: &str| (status, Json(json!({"error": error}))).into_response();
    if form.first("client_id") != Some(shared::CLIENT_ID) || form.first("client_secret") != Some(shared::CLIENT_SECRET)
    {
        return refused(StatusCode::UNAUTHORIZED, "invalid_client");
    }
    if form.first("grant_type") != Some("client_credentials") {
        return refused(StatusCode::BAD_REQUEST, "unsupported_grant_type");
    }
    let lifetime = shared.options.token_lifetime;
    let expiry = shared.now().checked_add(lifetime).unwrap_or(Timestamp::MAX);
    let token = {
        let mut state = shared.lock();
        let claims = json!({"sub": shared::CLIENT_ID, "exp": expiry.as_second(), "jti": state.next_word("token")});
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let token = format!("{}.{}.{}", encode(r#"{"alg":"RS256"}"#), encode(&claims.to_string()), encode("unsigned"));
        state.tokens.insert(token.clone(), expiry);
        token
    };
    let answer = json!({
        "access_token": token, "token_type": "Bearer", "expires_in": lifetime.as_secs(), "scope": "openid",
    });
    Json(answer).into_response()
}

async fn demand_token(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let problem = match header.and_then(|value| value.strip_prefix("Bearer ")) {
        None => Some("Token empty"),
        Some(token) => match shared.lock().tokens.get(token) {
            None => Some("token is not valid"),
            Some(expiry) if *expiry <= shared.now() => Some("Token expired"),
            Some(_) => None,
        },
    };
    match problem {
        None => next.run(request).await,
        Some(problem) => Refusal::new(401, "UNAUTHENTICATED", problem).into_response(),
    }
}

async fn list_accounts(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Answer {
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

async fn details(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Answer {
    let account = asked_account(&shared, query.as_deref())?;
    Ok(Json(json!({ "connected_account": account.to_json() })))
}

async fn credentials(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Answer {
    let account = asked_account(&shared, query.as_deref())?;
    let mut answer = account.to_json();
    if account.is_active() {
        let token =
            json!({"access_token": "sandbox-provider-token", "refresh_token": "sandbox-refresh-token", "scopes": []});
        answer["authorization_details"] = json!({ "oauth_token": token });
    }
    Ok(Json(json!({ "connected_account": answer })))
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

#[derive(Deserialize)]
struct NamedAccount {
    connector: Option<String>,
    identifier: Option<String>,
    id: Option<String>,
    state: Option<String>,
    user_verify_url: Option<String>,
}

async fn create_account(
    State(shared): State<Arc<Shared>>,
    body: Result<JsonBody<NamedAccount>, JsonRejection>,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let body = read(body)?;
    let connector = required("connector", body.connector.as_deref())?;
    let identifier = identifier(body.identifier.as_deref())?;
    match authorization::account_or_new(&shared, connector, identifier)? {
        (_, false) => Err(Refusal::new(400, "RESOURCE_ALREADY_EXISTS", "connected account already exists")),
        (account, true) => Ok((StatusCode::CREATED, Json(json!({ "connected_account": account.to_json() })))),
    }
}

async fn magic_link(State(shared): State<Arc<Shared>>, body: Result<JsonBody<NamedAccount>, JsonRejection>) -> Answer {
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

#[derive(Deserialize)]
struct Verification {
    auth_request_id: Option<String>,
    identifier: Option<String>,
}

async fn verify(State(shared): State<Arc<Shared>>, body: Result<JsonBody<Verification>, JsonRejection>) -> Answer {
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

async fn execute_tool(
    State(shared): State<Arc<Shared>>,
    body: Result<JsonBody<execute::Call>, JsonRejection>,
) -> Answer {
    Ok(Json(execute::run(&shared, &read(body)?)?))
}

fn read<T>(body: Result<JsonBody<T>, JsonRejection>) -> Result<T, Refusal> {
    body.map(|JsonBody(body)| body).map_err(|rejection| Refusal::invalid(rejection.body_text()))
}

/// A value that must be there and not be empty.
pub(super) fn required<'a>(field: &str, value: Option<&'a str>) -> Result<&'a str, Refusal> {
    value.filter(|value| !value.is_empty()).ok_or_else(|| Refusal::field(field, "a value is needed", "required"))
}

/// An identifier within its limits.
pub(super) fn identifier(value: Option<&str>) -> Result<&str, Refusal> {
    let value = required("identifier", value)?;
    if value.chars().count() > IDENTIFIER_LIMIT {
        return Err(Refusal::field("identifier", "longer than 100 characters", "max_len"));
    }
    Ok(value)
}
