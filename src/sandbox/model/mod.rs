//! The stand-in for both OpenAI model APIs. Behind them is no model but a few rules, and it says so.

mod answers;
mod arguments;
mod chat_completions;
mod conversation;
mod fit;
mod responses;
mod rules;
mod validation;

use std::sync::Arc;

use axum::extract::{Json as JsonBody, Path, Request, State, rejection::JsonRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Map, Value, json};

use super::shared::{self, Shared};
use validation::Profile;

/// What every answer carries, so that nobody takes it for a real model's.
const FINGERPRINT: &str = "sandbox-rule-based";

pub(super) fn router(shared: &Arc<Shared>) -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1/chat/completions", post(chat_completions::create))
        .route("/v1/responses", post(responses::create))
        .route("/v1/models", get(list_models))
        .route("/v1/models/{model}", get(show_model))
        .route_layer(middleware::from_fn_with_state(Arc::clone(shared), demand_key))
}

/// A refused request in OpenAI's form.
#[derive(Debug)]
struct ApiError {
    status: StatusCode,
    message: String,
    code: Option<&'static str>,
    parameter: Option<String>,
}

impl ApiError {
    /// 400 without a code.
    fn invalid(parameter: impl Into<String>, message: impl Into<String>) -> Self {
        let parameter = Some(parameter.into()).filter(|parameter| !parameter.is_empty());
        Self { status: StatusCode::BAD_REQUEST, message: message.into(), code: None, parameter }
    }

    fn code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    fn status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(model_error(&self.message, self.code, self.parameter.as_deref()))).into_response()
    }
}

/// An error body of the model APIs.
pub(super) fn model_error(message: &str, code: Option<&str>, parameter: Option<&str>) -> Value {
    json!({"error": {"message": message, "type": "invalid_request_error", "param": parameter, "code": code}})
}

type Body = Result<JsonBody<Map<String, Value>>, JsonRejection>;

fn read(body: Body) -> Result<Map<String, Value>, ApiError> {
    body.map(|JsonBody(body)| body).map_err(|rejection| ApiError::invalid("", rejection.body_text()))
}

async fn demand_key(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if header.and_then(|value| value.strip_prefix("Bearer ")) != Some(shared::API_KEY) {
        let error = ApiError::invalid("", "the API key is missing or wrong").code("invalid_api_key");
        return error.status(StatusCode::UNAUTHORIZED).into_response();
    }
    let id = format!("req_{}", shared.lock().next_word("request"));
    let mut response = next.run(request).await;
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-request-id", id);
    }
    response
}

async fn list_models() -> Json<Value> {
    Json(json!({"object": "list", "data": validation::PROFILES.iter().map(describe).collect::<Vec<_>>()}))
}

async fn show_model(Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    validation::profile(&name).map(|profile| Json(describe(profile)))
}

fn describe(profile: &Profile) -> Value {
    json!({
        "id": profile.name, "object": "model", "created": 1_700_000_000, "owned_by": FINGERPRINT,
        "description": "rules of the sandbox, no language model", "shutdown_date": profile.shutdown_date,
    })
}
