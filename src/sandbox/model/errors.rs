//! Errors in OpenAI's form, and in Anthropic's.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// A refused request.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    message: String,
    code: Option<&'static str>,
    parameter: Option<String>,
}

impl ApiError {
    /// 400 without a code.
    pub(super) fn invalid(parameter: impl Into<String>, message: impl Into<String>) -> Self {
        let parameter = Some(parameter.into()).filter(|parameter| !parameter.is_empty());
        Self { status: StatusCode::BAD_REQUEST, message: message.into(), code: None, parameter }
    }

    pub(super) fn code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    pub(super) fn status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(model_error(&self.message, self.code, self.parameter.as_deref()))).into_response()
    }
}

/// An error body of the model APIs.
pub(in crate::sandbox) fn model_error(message: &str, code: Option<&str>, parameter: Option<&str>) -> Value {
    json!({"error": {"message": message, "type": "invalid_request_error", "param": parameter, "code": code}})
}

/// A refused request of the Messages API.
#[derive(Debug)]
pub(super) struct MessagesError {
    status: StatusCode,
    message: String,
}

impl MessagesError {
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into() }
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, message: message.into() }
    }

    pub(super) fn unauthorized(message: impl Into<String>) -> Self {
        Self { status: StatusCode::UNAUTHORIZED, message: message.into() }
    }
}

impl IntoResponse for MessagesError {
    fn into_response(self) -> Response {
        (self.status, Json(messages_error(self.status.as_u16(), &self.message, None))).into_response()
    }
}

/// An error body of the Messages API.
pub(in crate::sandbox) fn messages_error(status: u16, message: &str, code: Option<&str>) -> Value {
    let kind = match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        409 => "conflict_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        504 => "timeout_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    };
    let mut error = json!({"type": kind, "message": message});
    if let Some(code) = code {
        error["details"] = json!({ "error_code": code });
    }
    json!({"type": "error", "error": error, "request_id": "req_sandbox"})
}
