//! Dead letters by HTTP: `GET /v1/dead`, `POST /v1/dead/{id}/replay`.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::Endpoints;
use super::answers::{not_now, permitted, said};
use super::tokens::{Scope, TokenHolder};
use crate::worker::control::dead_letters::{LetterFacts, NotReplayed, Replayed};

/// `GET /v1/dead`
pub(super) async fn list(State(facts): State<Endpoints>, headers: HeaderMap) -> Response {
    let token = match permitted(&facts.tokens, &headers, Scope::Operate) {
        Ok(token) => token,
        Err(answer) => return answer,
    };
    match facts.dead_letters.list(|letter| may_see(&facts, token, letter)).await {
        Ok(letters) => Json(json!({"dead": letters})).into_response(),
        Err(error) => refused(&error),
    }
}

/// `POST /v1/dead/{id}/replay`
pub(super) async fn replay(State(facts): State<Endpoints>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    let token = match permitted(&facts.tokens, &headers, Scope::Operate) {
        Ok(token) => token,
        Err(answer) => return answer,
    };
    let outcome = match facts.dead_letters.replay(&id, |letter| may_see(&facts, token, letter)).await {
        Ok(Some(Replayed::NotAJob)) => "not_a_job",
        Ok(Some(Replayed::Anew)) => "anew",
        Ok(Some(Replayed::GoesOn)) => "goes_on",
        Ok(Some(Replayed::Reopened)) => "reopened",
        Ok(Some(Replayed::Ended(_))) => "same_reply",
        Ok(None) => return said(StatusCode::NOT_FOUND, "unknown", "no dead letter has this id"),
        Err(error) => return refused(&error),
    };
    Json(json!({"id": id, "outcome": outcome})).into_response()
}

/// What is no job is nobody's in particular; a producer sees its own alone.
fn may_see(facts: &Endpoints, token: &TokenHolder, letter: &LetterFacts) -> bool {
    if facts.producers.of_token(&token.name).is_some_and(|(own, _)| letter.producer.as_deref() != Some(own)) {
        return false;
    }
    letter.identifier.as_ref().map_or_else(|| token.covers_all(), |identifier| token.covers(identifier))
}

fn refused(error: &NotReplayed) -> Response {
    match error {
        NotReplayed::Locked(_) => said(StatusCode::CONFLICT, "locked", &error.to_string()),
        NotReplayed::Damaged(_) => said(StatusCode::CONFLICT, "damaged", &error.to_string()),
        error => not_now(&error.to_string()),
    }
}
