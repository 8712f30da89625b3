//! Two doors for people: a link's page, on which a button decides, and `POST /v1/approvals/{id}` for who holds a token.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Form, Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::Endpoints;
use super::answers::{not_now, permitted, said, whole};
use super::link_page::{answer_page, call_page};
use super::tokens::Scope;
use crate::agent::ruling::Objection;
use crate::agent::run::Run;
use crate::approval::link::Bound;
use crate::decision::{Decision, DecisionBody, Door, Ruling, job_of};
use crate::job::JobId;
use crate::worker::control::decider::NotDecided;

/// Largest decision in bytes.
pub(super) const DECISION_BYTES: usize = 1 << 20;
/// Largest form in bytes.
pub(super) const FORM_BYTES: usize = 4096;

#[derive(Debug, Deserialize)]
pub(super) struct LinkQuery {
    #[serde(default)]
    t: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct LinkForm {
    decision: String,
}

/// What a genuine link leads to.
struct Linked {
    run: Run,
    job: JobId,
    arguments_digest: String,
}

/// Shows the call. Whoever only looks, as scanners of mails do, decides nothing.
pub(super) async fn show(
    State(facts): State<Endpoints>,
    Path(id): Path<String>,
    Query(query): Query<LinkQuery>,
) -> Response {
    match linked(&facts, &id, &query.t).await {
        Ok(linked) => call_page(&linked.run, &id),
        Err(answer) => answer,
    }
}

/// Decides.
pub(super) async fn press(
    State(facts): State<Endpoints>,
    Path(id): Path<String>,
    Query(query): Query<LinkQuery>,
    Form(form): Form<LinkForm>,
) -> Response {
    let linked = match linked(&facts, &id, &query.t).await {
        Ok(linked) => linked,
        Err(answer) => return answer,
    };
    let ruling = match form.decision.as_str() {
        "approve" => Ruling::Approve,
        "deny" => Ruling::Deny,
        _ => return answer_page(StatusCode::BAD_REQUEST, "This is neither approve nor deny; nothing was decided."),
    };
    let done = if ruling == Ruling::Approve { "Approved." } else { "Denied." };
    let (job, arguments_digest) = (linked.job, linked.arguments_digest);
    let decision = Decision { job, approval: id, arguments_digest, ruling, reason: None, by: None };
    match facts.decider.decide(&decision, Door::Link).await {
        Ok(()) => answer_page(StatusCode::OK, done),
        Err(NotDecided::Refused(Objection::Already)) => {
            answer_page(StatusCode::OK, &format!("{done} (It was before.)"))
        }
        Err(error) => answer_page(status(&error), &format!("Nothing was decided: {error}.")),
    }
}

/// The run of a link; whoever has no genuine one does not learn whether there is such a run.
async fn linked(facts: &Endpoints, id: &str, token: &str) -> Result<Linked, Response> {
    let forbidden = || answer_page(StatusCode::FORBIDDEN, "This link is not good, or not any more.");
    let job = job_of(id).filter(|_| !token.is_empty()).ok_or_else(forbidden)?;
    let run = facts.decider.run(&job).await.map_err(|error| match error {
        NotDecided::NotNow(_) => answer_page(StatusCode::SERVICE_UNAVAILABLE, "Not now; try again in a moment."),
        NotDecided::Refused(_) => forbidden(),
    })?;
    let (arguments_digest, until) = run.approvals().of(id).ok_or_else(forbidden)?;
    let arguments_digest = arguments_digest.to_owned();
    let bound = Bound { approval: id, arguments_digest: &arguments_digest, until };
    if !facts.links.is_genuine(token, &bound) {
        return Err(forbidden());
    }
    Ok(Linked { run, job, arguments_digest })
}

/// A decision in JSON, of somebody whose token is good for it.
pub(super) async fn decide(
    State(facts): State<Endpoints>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let token = match permitted(&facts.tokens, &headers, Scope::Approvals) {
        Ok(token) => token,
        Err(answer) => return answer,
    };
    let body = match whole(body, "a decision", DECISION_BYTES) {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    let unknown = || refused(&NotDecided::Refused(Objection::Unknown));
    let Some(job) = job_of(&id) else { return unknown() };
    if facts.producers.of_token(&token.name).is_some_and(|(own, _)| job.producer() != Some(own)) {
        return unknown();
    }
    match facts.decider.run(&job).await {
        Ok(run) if token.covers(&run.job().identifier) => {}
        // Whose run it is, or that there is one, is nobody else's business.
        Ok(_) => return unknown(),
        Err(error) => return refused(&error),
    }
    let decision = DecisionBody::read(&body).and_then(|body| match (&body.job, &body.approval) {
        (None, None) => body.about(job, id.clone()),
        _ => Err("`job` and `approval` stand in the path".to_owned()),
    });
    let decision = match decision {
        Ok(decision) => Decision { by: Some(token.name.clone()), ..decision },
        Err(problem) => return refused(&NotDecided::Refused(Objection::Unreadable(problem))),
    };
    let verdict = decision.ruling.verdict().as_str();
    match facts.decider.decide(&decision, Door::Http).await {
        Ok(()) => (StatusCode::OK, Json(json!({"approval": id, "decision": verdict}))).into_response(),
        Err(NotDecided::Refused(Objection::Already)) => {
            (StatusCode::OK, Json(json!({"approval": id, "decision": verdict, "already": true}))).into_response()
        }
        Err(error) => refused(&error),
    }
}

fn refused(error: &NotDecided) -> Response {
    match error {
        NotDecided::Refused(refusal) => said(status(error), refusal.code(), &error.to_string()),
        NotDecided::NotNow(_) => not_now(&error.to_string()),
    }
}

/// The answer's status.
pub(super) fn status(error: &NotDecided) -> StatusCode {
    let NotDecided::Refused(refusal) = error else { return StatusCode::SERVICE_UNAVAILABLE };
    match refusal {
        Objection::Unreadable(_) => StatusCode::BAD_REQUEST,
        Objection::NotADecider => StatusCode::FORBIDDEN,
        Objection::Unknown => StatusCode::NOT_FOUND,
        Objection::Already => StatusCode::OK,
        Objection::AlreadyDecided(_) | Objection::OtherArguments => StatusCode::CONFLICT,
        Objection::Ended | Objection::Expired => StatusCode::GONE,
        Objection::NotEditable | Objection::InvalidArguments(_) => StatusCode::UNPROCESSABLE_ENTITY,
    }
}
