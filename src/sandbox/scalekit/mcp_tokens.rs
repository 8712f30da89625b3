//! Tokens for the MCP server of one connection, each for one user and a short time.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::errors::{Answer, Refusal};
use super::fields::{Body, read, required};
use crate::sandbox::accounts::Account;
use crate::sandbox::authorization;
use crate::sandbox::mcp_state::McpGrant;
use crate::sandbox::shared::Shared;

/// How long a token may be good for, in seconds, and how long it is where the caller does not say.
const LIFETIMES: std::ops::RangeInclusive<u64> = 60..=86_400;
const USUAL_LIFETIME: u64 = 3_600;

/// Whom the token is for.
#[derive(Deserialize)]
pub(super) struct TokenOrder {
    identifier: Option<String>,
    expiry: Option<String>,
    access_level: Option<String>,
}

/// Gives out a token that the connection's server takes, and no other.
pub(super) async fn give(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    body: Body<TokenOrder>,
) -> Answer {
    let wanted = read(body)?;
    let identifier = required("identifier", wanted.identifier.as_deref())?;
    if identifier.chars().count() > 255 {
        return Err(Refusal::field("identifier", "longer than 255 characters", "max_len"));
    }
    let lifetime = lifetime(wanted.expiry.as_deref())?;
    let read_only = match wanted.access_level.as_deref() {
        None | Some("" | "FULL") => false,
        Some("READ_ONLY") => true,
        Some(_) => return Err(Refusal::field("access_level", "neither FULL nor READ_ONLY", "enum")),
    };
    let connection = shared.catalogue.connection_in_any_case(&name).filter(|connection| connection.enabled);
    let connection = connection.ok_or_else(|| Refusal::not_found("no active connection of this name"))?;
    let mut state = shared.lock();
    let account = authorization::account(&shared, &mut state, &connection.name, identifier);
    let Some(account) = account.filter(Account::is_active) else {
        return Err(Refusal::invalid("no active connected account for this identifier"));
    };
    let expires_at = shared.now().checked_add(Duration::from_secs(lifetime)).unwrap_or(Timestamp::MAX);
    let claims = json!({
        "aud": format!("{}/mcp/v3/connections/{}", shared.base_url, connection.name), "sub": identifier,
        "conn_id": connection.id, "ca_ids": [account.id], "exp": expires_at.as_second(),
        "jti": state.next_word("mcp token"),
    });
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let token = format!("{}.{}.{}", encode(r#"{"alg":"RS256"}"#), encode(&claims.to_string()), encode("unsigned"));
    let identifier = identifier.to_owned();
    let grant = McpGrant { connector: connection.name.clone(), identifier, read_only, expires_at };
    state.mcp.grants.insert(token.clone(), grant);
    Ok(Json(json!({"token": token, "expires_at": expires_at})))
}

/// A duration as protobuf writes it in JSON: `900s`.
fn lifetime(expiry: Option<&str>) -> Result<u64, Refusal> {
    let Some(expiry) = expiry else { return Ok(USUAL_LIFETIME) };
    let seconds = expiry.strip_suffix('s').and_then(|seconds| seconds.parse::<f64>().ok());
    let seconds = seconds.map(f64::floor).filter(|seconds| (0.0..=1e9).contains(seconds));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to lie between 0 and 10^9")]
    let seconds = seconds.map(|seconds| seconds as u64);
    seconds
        .filter(|seconds| LIFETIMES.contains(seconds))
        .ok_or_else(|| Refusal::field("expiry", "not a duration from 60s to 86400s", "range"))
}
