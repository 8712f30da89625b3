//! `POST /v1/jobs/{id}/settle`: a person says what became of an effect that was unknown when the run ended.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::Endpoints;
use super::answers::{permitted, said, whole};
use super::jobs::{refused, visible};
use super::tokens::Scope;
use crate::agent::event::SettledEffect;
use crate::agent::settlement::NotSettled;
use crate::reply::Settlement;
use crate::worker::control::settling::SettleOutcome;

/// Largest body in bytes.
pub(super) const BODY_BYTES: usize = 4096;

/// What is said of an effect.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SettlementBody {
    /// The call, as `effects[].call_id` of the reply names it.
    call: String,
    /// What became of it.
    #[serde(rename = "as")]
    settlement: Settlement,
}

/// Settles one effect. The same again changes nothing.
pub(super) async fn settle(
    State(facts): State<Endpoints>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    try_to_settle(&facts, &id, &headers, body).await.unwrap_or_else(|refused| refused)
}

async fn try_to_settle(
    facts: &Endpoints,
    id: &str,
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Response> {
    let token = permitted(&facts.tokens, headers, Scope::Operate)?;
    let body = whole(body, "a settlement", BODY_BYTES)?;
    let (run, _) = visible(facts, token, id).await?;
    let unreadable = |error: serde_json::Error| {
        said(StatusCode::UNPROCESSABLE_ENTITY, "unreadable", &format!("not a settlement: {error}"))
    };
    let SettlementBody { call, settlement } = serde_json::from_slice(&body).map_err(unreadable)?;
    let effect = SettledEffect { call_id: call, settlement, by: token.name.clone() };
    let outcome = facts.jobs.settle(&run, &effect).await.map_err(|error| refused(&error))?;
    let state = effect.settlement.as_str();
    Ok(match outcome {
        SettleOutcome::Settled => Json(json!({"call": effect.call_id, "state": state})).into_response(),
        SettleOutcome::Already => {
            Json(json!({"call": effect.call_id, "state": state, "already": true})).into_response()
        }
        SettleOutcome::Refused(why @ NotSettled::NoSuchCall) => {
            said(StatusCode::NOT_FOUND, "unknown", &why.to_string())
        }
        SettleOutcome::Refused(why) => said(StatusCode::CONFLICT, "not_settled", &why.to_string()),
    })
}
