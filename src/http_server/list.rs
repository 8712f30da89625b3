//! `GET /v1/jobs`: jobs by how they stand, whose they are, and when that changed.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::Endpoints;
use super::answers::{not_now, permitted, said};
use super::tokens::Scope;
use crate::job::Identifier;
use crate::journal::index::{MOST_ROWS, RunCursor, RunQuery};
use crate::standing::RunState;
use crate::worker::control::finding;

/// Rows of a page where nothing is said.
const ROWS: usize = 100;

/// Which jobs are asked for; what is empty is not asked about.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListedJobs {
    #[serde(default)]
    state: String,
    #[serde(default)]
    identifier: String,
    #[serde(default)]
    since: String,
    #[serde(default)]
    cursor: String,
    #[serde(default)]
    limit: String,
}

impl ListedJobs {
    fn query(&self) -> Result<RunQuery, String> {
        let states = || RunState::ALL.map(RunState::as_str).join(", ");
        let limit = match given(&self.limit).map(str::parse) {
            None => ROWS,
            Some(Ok(limit)) if (1..=MOST_ROWS).contains(&limit) => limit,
            Some(_) => return Err(format!("`limit` is 1 to {MOST_ROWS}")),
        };
        Ok(RunQuery {
            state: read(&self.state, RunState::named).map_err(|()| format!("`state` is one of {}", states()))?,
            identifier: read(&self.identifier, Identifier::new)
                .map_err(|()| "`identifier` has 1 to 100 characters".to_owned())?,
            since: read(&self.since, |text| text.parse::<Timestamp>().ok())
                .map_err(|()| "`since` is a time such as 2026-11-30T09:00:00Z (RFC 3339)".to_owned())?,
            cursor: read(&self.cursor, RunCursor::parse)
                .map_err(|()| "`cursor` is the `next_cursor` of the page before".to_owned())?,
            limit,
        })
    }
}

fn given(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn read<'t, T>(text: &'t str, parse: impl FnOnce(&'t str) -> Option<T>) -> Result<Option<T>, ()> {
    given(text).map(|text| parse(text).ok_or(())).transpose()
}

/// `GET /v1/jobs`. A page has fewer rows than were asked for where the index knows others that this token may not see.
pub(super) async fn list(
    State(facts): State<Endpoints>,
    search: Result<Query<ListedJobs>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    let token = match permitted(&facts.tokens, &headers, Scope::JobsRead) {
        Ok(token) => token,
        Err(answer) => return answer,
    };
    let bad = |message: &str| said(StatusCode::BAD_REQUEST, "bad_request", message);
    let query = match search.map(|Query(search)| search.query()) {
        Ok(Ok(query)) => query,
        Ok(Err(problem)) => return bad(&problem),
        Err(rejection) => return bad(&rejection.body_text()),
    };
    let own = facts.producers.of_token(&token.name).map(|(producer, _)| producer);
    match finding::list(&*facts.pages.journal, &query).await {
        Ok(mut found) => {
            found.rows.retain(|row| token.covers(&row.identifier) && row.id.producer() == own);
            let next = found.next.map(|next| next.to_string());
            Json(json!({"jobs": found.rows, "next_cursor": next})).into_response()
        }
        Err(error) => not_now(&error.to_string()),
    }
}
