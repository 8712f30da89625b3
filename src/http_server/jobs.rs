//! Jobs by HTTP: `POST /v1/jobs`, and `GET` and `DELETE` of `/v1/jobs/{id}`.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout_at};

use super::Endpoints;
use super::answers::{forbidden, not_now, permitted, said, said_with, whole};
use super::tokens::{Scope, TokenHolder};
use crate::job::JobId;
use crate::key::encode;
use crate::queue::Properties;
use crate::reply::CONTENT_TYPE;
use crate::worker::control::job_door::{NotDone, Submitted};
use crate::worker::control::standing::JobStanding;

/// Header: the id of a job whose body has none.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Bytes of it at most, as of a job's id.
const LONGEST_KEY: usize = 200;
/// Header: the caller's trace (W3C Trace Context).
const TRACEPARENT: &str = "traceparent";
/// Whoever waits for a job's end is answered after this time at the latest.
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// From one look at the length of a journal to the next, for whoever waits for what happens next.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Default, Deserialize)]
pub(super) struct WaitQuery {
    /// Seconds to wait for the job's end.
    #[serde(default)]
    wait: u64,
}

/// `POST /v1/jobs`
pub(super) async fn submit(
    State(facts): State<Endpoints>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    take(&facts, &headers, body).await.unwrap_or_else(|refused| refused)
}

async fn take(
    facts: &Endpoints,
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Response> {
    let token = permitted(&facts.tokens, headers, Scope::JobsWrite)?;
    if !is_json(headers) {
        return Err(said(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "a job is `application/json`"));
    }
    let key = idempotency_key(headers)?;
    let body = whole(body, "a job", facts.jobs.max_job_bytes)?;
    if let Err(error) = serde_json::from_slice::<IgnoredAny>(&body) {
        return Err(said(StatusCode::BAD_REQUEST, "bad_request", &format!("the body is not JSON: {error}")));
    }
    let job = facts.jobs.read(&body, key, &token.name).await.map_err(|invalid| invalid_job(&invalid.problems))?;
    if !token.covers(&job.identifier) {
        return Err(forbidden("the token is not good for this `identifier`"));
    }
    let (id, derived) = (job.id(), job.has_derived_id());
    let trace = headers.get(TRACEPARENT).and_then(|trace| trace.to_str().ok());
    let trace = trace.map(|trace| Properties::trace_header(trace.to_owned())).into_iter().collect();
    match facts.jobs.submit(job, &token.name, trace).await.map_err(|error| refused(&error))? {
        Submitted::Queued => {
            let status_url = format!("/v1/jobs/{}", encode(id.as_str()));
            let mut body = json!({"id": id.as_str(), "status_url": status_url});
            if derived {
                body["derived_id"] = true.into();
            }
            Ok((StatusCode::ACCEPTED, [(header::LOCATION, status_url)], Json(body)).into_response())
        }
        Submitted::Ended(reply) => Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], Json(reply)).into_response()),
    }
}

/// `GET /v1/jobs/{id}`
pub(super) async fn look(
    State(facts): State<Endpoints>,
    Path(id): Path<String>,
    query: Result<Query<WaitQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    answer(&facts, &id, query, &headers).await.unwrap_or_else(|refused| refused)
}

async fn answer(
    facts: &Endpoints,
    id: &str,
    query: Result<Query<WaitQuery>, QueryRejection>,
    headers: &HeaderMap,
) -> Result<Response, Response> {
    let token = permitted(&facts.tokens, headers, Scope::JobsRead)?;
    let Ok(Query(query)) = query else {
        return Err(said(StatusCode::BAD_REQUEST, "bad_request", "`wait` is a number of seconds"));
    };
    let (id, mut standing) = visible(facts, token, id).await?;
    if query.wait > 0 && !standing.has_ended() {
        let until = Instant::now() + Duration::from_secs(query.wait).min(LONGEST_WAIT);
        standing = wait_for_the_end(facts, &id, standing, until).await?;
    }
    if token.allows(Scope::JobsWrite) {
        facts.jobs.add_links(&mut standing).await;
    }
    Ok(Json(standing).into_response())
}

/// How the job stands once it has ended, or at the end of the wait; so many wait at the same time, others are answered at once.
async fn wait_for_the_end(
    facts: &Endpoints,
    id: &JobId,
    mut standing: JobStanding,
    until: Instant,
) -> Result<JobStanding, Response> {
    let Ok(_place) = facts.streams.clone().try_acquire_owned() else { return Ok(standing) };
    let mut length = None;
    loop {
        let present = facts.jobs.length(id).await.map_err(|error| refused(&error))?;
        if length.replace(present) != Some(present) {
            standing = facts.jobs.look(id).await.map_err(|error| refused(&error))?;
        }
        let stopped = timeout_at(until, async {
            tokio::select! {
                () = facts.stop.cancelled() => true,
                () = sleep(LOOK_EVERY) => false,
            }
        });
        if standing.has_ended() || !matches!(stopped.await, Ok(false)) {
            return Ok(standing);
        }
    }
}

/// `DELETE /v1/jobs/{id}`
pub(super) async fn cancel(State(facts): State<Endpoints>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    end(&facts, &id, &headers).await.unwrap_or_else(|refused| refused)
}

async fn end(facts: &Endpoints, id: &str, headers: &HeaderMap) -> Result<Response, Response> {
    let token = permitted(&facts.tokens, headers, Scope::JobsWrite)?;
    let (id, _) = visible(facts, token, id).await?;
    facts.jobs.cancel(&id).await.map_err(|error| refused(&error))?;
    let standing = facts.jobs.look(&id).await.map_err(|error| refused(&error))?;
    Ok(Json(standing).into_response())
}

/// A job that this token may see: whose the others are, or that there are any, is nobody else's business.
pub(super) async fn visible(
    facts: &Endpoints,
    token: &TokenHolder,
    id: &str,
) -> Result<(JobId, JobStanding), Response> {
    let unknown = || refused(&NotDone::Unknown);
    let id = facts.jobs.run_of(&token.name, id).ok_or_else(unknown)?;
    let standing = facts.jobs.look(&id).await.map_err(|error| refused(&error))?;
    if token.covers(&standing.identifier) { Ok((id, standing)) } else { Err(unknown()) }
}

/// Without a content type it is taken for what it must be.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(stated) = headers.get(header::CONTENT_TYPE) else { return true };
    let essence = stated.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

#[expect(clippy::result_large_err, reason = "the error is the answer")]
/// As it stands there, or in the quotes of a structured field.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Response> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    if text.is_empty() || text.len() > LONGEST_KEY {
        let message = format!("`Idempotency-Key` is 1 to {LONGEST_KEY} visible ASCII characters");
        return Err(said(StatusCode::BAD_REQUEST, "bad_request", &message));
    }
    Ok(Some(text.to_owned()))
}

fn invalid_job(problems: &[String]) -> Response {
    let body = json!({"problems": problems});
    said_with(StatusCode::UNPROCESSABLE_ENTITY, "invalid_job", &format!("not a job: {}", problems.join("; ")), body)
}

pub(super) fn refused(error: &NotDone) -> Response {
    let text = error.to_string();
    match error {
        NotDone::Unknown => said(StatusCode::NOT_FOUND, "unknown", &text),
        NotDone::NotAllowed(objections) => {
            said_with(StatusCode::FORBIDDEN, "producer_not_allowed", &text, json!({"problems": objections}))
        }
        NotDone::Invalid(problems) => invalid_job(problems),
        NotDone::Conflict(_) => said(StatusCode::CONFLICT, "id_conflict", &text),
        NotDone::Ended => said(StatusCode::CONFLICT, "ended", &text),
        NotDone::TooLarge => said(StatusCode::PAYLOAD_TOO_LARGE, "too_large", &text),
        NotDone::Damaged(_) => said(StatusCode::INTERNAL_SERVER_ERROR, "internal", &text),
        NotDone::NotNow(_) => not_now(&text),
    }
}
