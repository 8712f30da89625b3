//! Access tokens: given out, and demanded.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde_json::json;

use super::errors::Refusal;
use super::parameters::Parameters;
use crate::sandbox::shared::{self, Shared};

/// Gives out a token for the client's secret.
pub(super) async fn give(State(shared): State<Arc<Shared>>, form: String) -> Response {
    let form = Parameters::parse(&form);
    let refused = |status, error: &str| (status, Json(json!({"error": error}))).into_response();
    if form.first("client_id") != Some(shared::CLIENT_ID) || form.first("client_secret") != Some(shared::CLIENT_SECRET)
    {
        return refused(StatusCode::UNAUTHORIZED, "invalid_client");
    }
    if form.first("grant_type") != Some("client_credentials") {
        return refused(StatusCode::BAD_REQUEST, "unsupported_grant_type");
    }
    let lifetime = shared.options.token_lifetime;
    let expiry = shared.now().checked_add(lifetime).unwrap_or(Timestamp::MAX);
    let token = {
        let mut state = shared.lock();
        let claims = json!({"sub": shared::CLIENT_ID, "exp": expiry.as_second(), "jti": state.next_word("token")});
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let token = format!("{}.{}.{}", encode(r#"{"alg":"RS256"}"#), encode(&claims.to_string()), encode("unsigned"));
        state.tokens.insert(token.clone(), expiry);
        token
    };
    let answer = json!({
        "access_token": token, "token_type": "Bearer", "expires_in": lifetime.as_secs(), "scope": "openid",
    });
    Json(answer).into_response()
}

/// Lets only those pass who bring a token that is still good.
pub(super) async fn demand(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let problem = match header.and_then(|value| value.strip_prefix("Bearer ")) {
        None => Some("Token empty"),
        Some(token) => match shared.lock().tokens.get(token) {
            None => Some("token is not valid"),
            Some(expiry) if *expiry <= shared.now() => Some("Token expired"),
            Some(_) => None,
        },
    };
    match problem {
        None => next.run(request).await,
        Some(problem) => Refusal::new(401, "UNAUTHENTICATED", problem).into_response(),
    }
}
