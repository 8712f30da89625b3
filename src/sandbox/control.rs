//! The routes by which tests steer the stand-ins and look at them.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::accounts::Account;
use super::authorization::{self, Problem};
use super::faults::{Fault, Faults};
use super::mcp_state::McpSettings;
use super::request_log::RequestLog;
use super::shared::Shared;

type Answer = Result<Json<Value>, (StatusCode, String)>;

pub(super) fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/_sandbox/accounts", post(set_account).get(list_accounts))
        .route("/_sandbox/faults", get(list_faults).post(add_faults).delete(clear_faults))
        .route("/_sandbox/requests", get(list_requests).delete(clear_requests))
        .route("/_sandbox/world/{identifier}", get(show_world))
        .route("/_sandbox/mcp", get(show_mcp).post(set_mcp))
        .route("/_sandbox/mcp/sessions", delete(end_sessions))
        .route("/_sandbox/reset", post(reset))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetAccount {
    connector: String,
    identifier: String,
    status: String,
}

async fn set_account(State(shared): State<Arc<Shared>>, Json(wanted): Json<SetAccount>) -> Answer {
    let SetAccount { connector, identifier, status } = wanted;
    match authorization::set_status(&shared, &connector, &identifier, &status) {
        Ok(account) => Ok(Json(json!({ "connected_account": account.to_json() }))),
        Err(Problem::UnknownConnection) => Err((StatusCode::NOT_FOUND, format!("no connection is named {connector}"))),
        Err(Problem::DisabledConnection) => Err((StatusCode::BAD_REQUEST, format!("{connector} is disabled"))),
    }
}

async fn list_accounts(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let state = shared.lock();
    Json(json!({ "accounts": state.accounts.all().map(Account::to_json).collect::<Vec<_>>() }))
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    Many(Vec<Fault>),
    One(Box<Fault>),
}

async fn add_faults(State(shared): State<Arc<Shared>>, Json(faults): Json<OneOrMany>) -> Json<Value> {
    let faults = match faults {
        OneOrMany::Many(faults) => faults,
        OneOrMany::One(fault) => vec![*fault],
    };
    let mut state = shared.lock();
    for fault in faults {
        state.faults.add(fault);
    }
    Json(json!({ "left": state.faults.left() }))
}

async fn list_faults(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(json!({ "left": shared.lock().faults.left() }))
}

async fn clear_faults(State(shared): State<Arc<Shared>>) {
    shared.lock().faults = Faults::default();
}

async fn list_requests(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(json!(shared.lock().requests))
}

async fn clear_requests(State(shared): State<Arc<Shared>>) {
    shared.lock().requests = RequestLog::default();
}

async fn show_world(State(shared): State<Arc<Shared>>, Path(identifier): Path<String>) -> Json<Value> {
    let now = shared.now();
    Json(json!(shared.lock().world(&identifier, now)))
}

async fn show_mcp(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let state = shared.lock();
    Json(json!({"settings": state.mcp.settings, "sessions": state.mcp.sessions.len(), "crm": state.mcp.crm}))
}

async fn set_mcp(State(shared): State<Arc<Shared>>, Json(settings): Json<McpSettings>) -> Json<Value> {
    let mut state = shared.lock();
    state.mcp.settings = settings;
    Json(json!({ "settings": state.mcp.settings }))
}

async fn end_sessions(State(shared): State<Arc<Shared>>) {
    shared.lock().mcp.sessions.clear();
}

async fn reset(State(shared): State<Arc<Shared>>) {
    shared.lock().forget();
}
