//! stub
use super::shared::Shared;
use axum::Router;
use serde_json::{Value, json};
use std::sync::Arc;
pub(super) fn router(_shared: &Arc<Shared>) -> Router<Arc<Shared>> {
    Router::new()
}
pub(super) fn model_error(message: &str, code: Option<&str>, parameter: Option<&str>) -> Value {
    json!({"error": {"message": message, "type": "invalid_request_error", "param": parameter, "code": code}})
}
