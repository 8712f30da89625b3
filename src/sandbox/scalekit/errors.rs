//! Errors in Scalekit's form: a status, and a body of `{code, message, details: [ErrorInfo]}`.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::sandbox::authorization::Problem;

pub(super) type Answer = Result<Json<Value>, Refusal>;

#[derive(Debug)]
pub(super) struct Refusal {
    status: u16,
    error_code: &'static str,
    message: String,
    /// Further fields of the ErrorInfo.
    more: Option<Value>,
}

impl Refusal {
    pub(super) fn new(status: u16, error_code: &'static str, message: impl Into<String>) -> Self {
        Self { status, error_code, message: message.into(), more: None }
    }

    /// 400: the request itself is wrong.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "INVALID_ARGUMENT", message)
    }

    pub(super) fn field(field: &str, problem: &str, constraint: &str) -> Self {
        let violation = json!({"field": field, "description": problem, "constraint": constraint});
        let more = json!({"validation_error_info": {"field_violations": [violation]}});
        Self::invalid(format!("{field}: {problem}")).with(more)
    }

    /// 404: there is no such thing.
    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(404, "RESOURCE_NOT_FOUND", message)
    }

    pub(super) fn with(self, more: Value) -> Self {
        Self { more: Some(more), ..self }
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::UnknownConnection => Self::not_found("connection not found"),
            Problem::DisabledConnection => Self::new(403, "CONNECTION_NOT_ENABLED", "connection is not enabled"),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(error_body(self.status, &self.message, Some(self.error_code), self.more))).into_response()
    }
}

/// The body for an HTTP status; without a code there are no details, as an outer layer answers.
pub(in crate::sandbox) fn error_body(status: u16, message: &str, code: Option<&str>, more: Option<Value>) -> Value {
    let details: Vec<Value> = code.map(|code| error_info(code, more)).into_iter().collect();
    json!({"code": grpc_code(status), "message": message, "details": details})
}

fn error_info(code: &str, more: Option<Value>) -> Value {
    let mut info = json!({"@type": "type.googleapis.com/scalekit.v1.errdetails.ErrorInfo", "error_code": code});
    if let (Some(info), Some(Value::Object(more))) = (info.as_object_mut(), more) {
        info.extend(more);
    }
    info
}

fn grpc_code(status: u16) -> u8 {
    match status {
        400 => 3,
        401 => 16,
        403 => 7,
        404 => 5,
        409 => 6,
        429 => 8,
        499 => 1,
        501 => 12,
        503 => 14,
        504 => 4,
        _ => 13,
    }
}
