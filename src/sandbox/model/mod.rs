//! The stand-in for both OpenAI model APIs and for Anthropic's. Behind them is no model but a few rules, and it says so.

mod answers;
mod arguments;
mod chat_completions;
mod conversation;
pub(super) mod errors;
mod fit;
mod intents;
mod messages;
mod messages_reader;
mod models;
mod responses;
mod rules;
mod validation;
mod words;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};

use super::shared::{self, Shared};
use errors::{ApiError, MessagesError};

pub(super) fn router(shared: &Arc<Shared>) -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1/chat/completions", post(chat_completions::create))
        .route("/v1/responses", post(responses::create))
        .route(MESSAGES, post(messages::create))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{model}", get(models::show))
        .route_layer(middleware::from_fn_with_state(Arc::clone(shared), demand_key))
}

/// Anthropic's API.
pub(super) const MESSAGES: &str = "/v1/messages";

async fn demand_key(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let (has_key, path) = (has_key(&request), request.uri().path());
    if !has_key && path == MESSAGES {
        return MessagesError::unauthorized("invalid x-api-key").into_response();
    }
    if !has_key {
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

/// Where both headers are there, Anthropic looks at its own.
fn has_key(request: &Request) -> bool {
    let text = |name: HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
    let bearer = text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
    text(HeaderName::from_static("x-api-key")).or(bearer) == Some(shared::API_KEY)
}
