//! What waits for a person.

use axum::extract::{Form, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use serde::Deserialize;

use super::calls::ShownCall;
use super::effects::{doubtful, doubtful_part};
use super::frame::{Section, Shown, nothing, page, sentence};
use super::letters::{Letters, letters_part};
use super::session::Viewer;
use super::{actor, looked_at, reader, sees};
use crate::agent::ruling::Objection;
use crate::decision::{Decision, Door, Ruling, job_of};
use crate::http_server::Endpoints;
use crate::http_server::approvals::status;
use crate::http_server::tokens::Scope;
use crate::parking::WaitsFor;
use crate::worker::control::decider::NotDecided;

/// So many runs that wait are shown; the next ones come up as these are decided about.
const MOST: usize = 100;

#[derive(Deserialize)]
pub(super) struct InboxQuery {
    /// What was just done.
    #[serde(default)]
    said: String,
    /// Whether the dead letters are looked through.
    #[serde(default)]
    letters: String,
}

#[derive(Deserialize)]
pub(super) struct DecideQuery {
    #[serde(default)]
    approval: String,
}

#[derive(Deserialize)]
pub(super) struct DecideForm {
    #[serde(default)]
    form_token: String,
    arguments_digest: String,
    decision: String,
}

pub(super) async fn show(
    State(facts): State<Endpoints>,
    headers: HeaderMap,
    Query(query): Query<InboxQuery>,
) -> Response {
    let viewer = match reader(&facts, &headers, Section::Inbox, Scope::JobsRead) {
        Ok(viewer) => viewer,
        Err(answer) => return answer,
    };
    let calls = waiting_calls(&facts, &viewer).await;
    let effects = doubtful(&facts, &viewer).await;
    let letters = Letters::of(&facts, &viewer, !query.letters.is_empty()).await;
    let content = html! {
        @if let Some(said) = said(&query.said) { p.said role="status" { (said) } }
        (calls_part(&viewer, &facts, &calls))
        (doubtful_part(&viewer, &effects))
        (letters_part(&viewer, &letters))
    };
    looked_at(&facts, &headers, &viewer, page(&viewer, Section::Inbox, "Inbox", true, &content))
}

fn calls_part(viewer: &Viewer<'_>, facts: &Endpoints, calls: &Result<Vec<ShownCall>, String>) -> Markup {
    let now = facts.pages.clock.now();
    html! {
        section data-part="calls" aria-labelledby="calls" {
            h2 #calls { "Calls that wait for approval" }
            @match calls {
                Err(why) => p.trouble { "They cannot be told now: " (Shown(why)) },
                Ok(calls) if calls.is_empty() => (nothing("No call waits for a person.")),
                Ok(calls) => div.cards { @for call in calls { (call.card(viewer, now)) } },
            }
        }
    }
}

/// The calls that whoever looks may know of; those whose time ends first come first.
async fn waiting_calls(facts: &Endpoints, viewer: &Viewer<'_>) -> Result<Vec<ShownCall>, String> {
    let waiting = facts.parking.first(WaitsFor::Approval, MOST).await.map_err(|error| error.to_string())?;
    let seen = waiting.into_iter().filter(|(identifier, job)| sees(facts, viewer, job, identifier));
    let runs = seen.map(|(_, job)| async move { facts.decider.run(&job).await });
    let mut calls = Vec::new();
    for run in futures_util::future::join_all(runs).await {
        match run {
            Ok(run) => calls.extend(ShownCall::of(&run)),
            // Its journal is not kept any more.
            Err(NotDecided::Refused(_)) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(calls)
}

/// Decides, and back to the inbox.
pub(super) async fn decide(
    State(facts): State<Endpoints>,
    headers: HeaderMap,
    Query(query): Query<DecideQuery>,
    Form(form): Form<DecideForm>,
) -> Response {
    let viewer = match actor(&facts, &headers, &form.form_token, Section::Inbox, Scope::Approvals) {
        Ok(viewer) => viewer,
        Err(answer) => return answer,
    };
    let refused = |status, words: &str| sentence(&viewer, Section::Inbox, status, words);
    let ruling = match form.decision.as_str() {
        "approve" => Ruling::Approve,
        "deny" => Ruling::Deny,
        _ => return refused(StatusCode::BAD_REQUEST, "This is neither approve nor deny; nothing was decided."),
    };
    let said = if ruling == Ruling::Approve { "approved" } else { "denied" };
    let nothing = |error: &NotDecided| refused(status(error), &format!("Nothing was decided: {error}."));
    let unknown = NotDecided::Refused(Objection::Unknown);
    let Some(job) = job_of(&query.approval) else { return nothing(&unknown) };
    match facts.decider.run(&job).await {
        Ok(run) if sees(&facts, &viewer, &job, &run.job().identifier) => {}
        // Whose run it is, or that there is one, is nobody else's business.
        Ok(_) => return nothing(&unknown),
        Err(error) => return nothing(&error),
    }
    let (approval, arguments_digest, by) = (query.approval, form.arguments_digest, Some(viewer.holder.name.clone()));
    let decision = Decision { job, approval, arguments_digest, ruling, reason: None, by };
    match facts.decider.decide(&decision, Door::Http).await {
        Ok(()) | Err(NotDecided::Refused(Objection::Already)) => {
            Redirect::to(&format!("inbox?said={said}")).into_response()
        }
        Err(error) => nothing(&error),
    }
}

fn said(what: &str) -> Option<&'static str> {
    match what {
        "approved" => Some("Approved; the run goes on."),
        "settled" => Some("Settled; the caller is told."),
        "replayed" => Some("Replayed: the message is back in the job queue."),
        "same" => Some("Its run had come to another end, and is not run again; its caller gets the same reply."),
        "denied" => Some("Denied; the run goes on without the call."),
        _ => None,
    }
}
