//! The models on offer, and what is known about each.

use axum::Json;
use axum::extract::Path;
use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::errors::ApiError;

/// What every answer carries, so that nobody takes it for a real model's.
pub(super) const FINGERPRINT: &str = "sandbox-rule-based";

/// One model name and what it implies.
#[derive(Debug)]
pub(super) struct Profile {
    pub(super) name: &'static str,
    /// Thinks before it answers: takes no sampling parameters, and on Chat Completions no tools unless told not to think.
    pub(super) reasoning: bool,
    /// Descriptions of tools may have 1,024 characters only.
    pub(super) short_descriptions: bool,
    pub(super) shutdown_date: Option<&'static str>,
    /// Speaks the Messages API, and no other.
    claude: bool,
}

/// The names on offer, as of November 2026.
const PROFILES: [Profile; 10] = [
    plain("gpt-4o", true),
    plain("gpt-4o-mini", true),
    plain("gpt-4.1", false),
    plain("gpt-4.1-mini", false),
    reasoning("gpt-5.6-sol"),
    reasoning("gpt-6-luna"),
    reasoning("gpt-6.1-sol"),
    Profile { claude: true, ..reasoning("claude-opus-5-5") },
    Profile { claude: true, ..reasoning("claude-sonnet-5-5") },
    Profile { claude: true, shutdown_date: None, ..plain("claude-haiku-4-5", false) },
];

/// `GET /v1/models`.
pub(super) async fn list() -> Json<Value> {
    Json(json!({"object": "list", "data": PROFILES.iter().map(describe).collect::<Vec<_>>()}))
}

/// `GET /v1/models/{model}`.
pub(super) async fn show(Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    profile(&name).map(|profile| Json(describe(profile)))
}

pub(super) fn model_of(body: &Map<String, Value>) -> Result<&'static Profile, ApiError> {
    let name = body.get("model").and_then(Value::as_str);
    let found = profile(name.ok_or_else(|| ApiError::invalid("model", "a model has to be named"))?)?;
    if found.claude { Err(unknown(found.name)) } else { Ok(found) }
}

/// A model of the Messages API.
pub(super) fn claude(name: &str) -> Option<&'static Profile> {
    PROFILES.iter().find(|profile| profile.claude && profile.name == name)
}

/// The profile of a name; 404 for one that is not on offer.
fn profile(name: &str) -> Result<&'static Profile, ApiError> {
    let found = PROFILES.iter().find(|profile| profile.name == name);
    found.ok_or_else(|| unknown(name))
}

fn unknown(name: &str) -> ApiError {
    let error = ApiError::invalid("", format!("the model `{name}` does not exist or you have no access to it"));
    error.code("model_not_found").status(StatusCode::NOT_FOUND)
}

fn describe(profile: &Profile) -> Value {
    json!({
        "id": profile.name, "object": "model", "created": 1_700_000_000, "owned_by": FINGERPRINT,
        "description": "rules of the sandbox, no language model", "shutdown_date": profile.shutdown_date,
    })
}

const fn plain(name: &'static str, short_descriptions: bool) -> Profile {
    Profile { name, reasoning: false, short_descriptions, shutdown_date: Some("2027-01-14"), claude: false }
}

const fn reasoning(name: &'static str) -> Profile {
    Profile { name, reasoning: true, short_descriptions: false, shutdown_date: None, claude: false }
}
