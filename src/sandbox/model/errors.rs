//! Errors in OpenAI's form.

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
