//! What a request has to bring along.

use axum::extract::{Json as JsonBody, rejection::JsonRejection};

use super::errors::Refusal;

/// Longest identifier that is accepted.
const IDENTIFIER_LIMIT: usize = 100;

pub(super) type Body<T> = Result<JsonBody<T>, JsonRejection>;

/// The body, if it has the right form.
pub(super) fn read<T>(body: Body<T>) -> Result<T, Refusal> {
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
