//! The stand-in for both OpenAI model APIs. Behind them is no model but a few rules, and it says so.

mod answers;
mod arguments;
mod chat_completions;
mod conversation;
pub(super) mod errors;
mod fit;
mod intents;
mod models;
mod responses;
mod rules;
mod validation;
mod words;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};

use super::shared::{self, Shared};
use errors::ApiError;

pub(super) fn router(shared: &Arc<Shared>) -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1/chat/completions", post(chat_completions::create))
        .route("/v1/responses", post(responses::create))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{model}", get(models::show))
        .route_layer(middleware::from_fn_with_state(Arc::clone(shared), demand_key))
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
