//! What the answers under `/v1` have in common: who may ask, and errors as JSON.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::tokens::{Scope, TokenHolder, Tokens};

/// Seconds after which whoever met a service that is away may ask again.
const AGAIN_AFTER: &str = "5";

#[expect(clippy::result_large_err, reason = "the error is the answer")]
/// Whoever asks, where they hold a token that is good for `scope`; else the answer.
pub(super) fn permitted<'t>(
    tokens: &'t Tokens,
    headers: &HeaderMap,
    scope: Scope,
) -> Result<&'t TokenHolder, Response> {
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Some(token) = tokens.holder(authorization) else {
        let answer = said(StatusCode::UNAUTHORIZED, "unauthorized", "a bearer token of `[http.tokens]` is needed");
        return Err(([(header::WWW_AUTHENTICATE, "Bearer")], answer).into_response());
    };
    if !token.allows(scope) {
        return Err(forbidden(&format!("the token is not good for `{}`", scope.as_str())));
    }
    Ok(token)
}

#[expect(clippy::result_large_err, reason = "the error is the answer")]
/// The body of a request, where it came whole and has no more than so many bytes.
pub(super) fn whole(body: Result<Bytes, BytesRejection>, what: &str, most: usize) -> Result<Bytes, Response> {
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            said(StatusCode::PAYLOAD_TOO_LARGE, "too_large", &format!("{what} has at most {most} bytes"))
        }
        status => said(status, "bad_request", "the body could not be read"),
    })
}

/// The token is good, and not for this.
pub(super) fn forbidden(message: &str) -> Response {
    said(StatusCode::FORBIDDEN, "forbidden", message)
}

/// An error.
pub(super) fn said(status: StatusCode, code: &str, message: &str) -> Response {
    said_with(status, code, message, json!({}))
}

/// An error with further fields beside it.
pub(super) fn said_with(status: StatusCode, code: &str, message: &str, mut body: Value) -> Response {
    body["error"] = json!({"code": code, "message": message});
    (status, Json(body)).into_response()
}

/// A service is away, or something is in other hands for a moment.
pub(super) fn not_now(message: &str) -> Response {
    let mut answer = said(StatusCode::SERVICE_UNAVAILABLE, "not_now", message);
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(AGAIN_AFTER));
    answer
}
