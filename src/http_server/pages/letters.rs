//! Dead letters in the inbox: what was given up and why, and how it runs again.

use axum::extract::{Form, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use serde::Deserialize;

use super::calls::job_address;
use super::frame::{Section, Shown, form_token, nothing, sentence, time};
use super::session::Viewer;
use super::{Pressed, actor, is_unlimited, sees};
use crate::http_server::Endpoints;
use crate::http_server::tokens::Scope;
use crate::job::Identifier;
use crate::key::encode;
use crate::worker::control::dead_letters::{LetterFacts, NotReplayed, Replayed};

/// To look at letters they are taken from the queue for a moment: more than so many are not.
const MOST: u32 = 200;

/// The dead letters.
pub(super) enum Letters {
    /// They cannot be told, and why.
    Unknown(String),
    /// So many.
    Counted(u32),
    /// Those that whoever looks may see.
    Listed(Vec<LetterFacts>),
}

#[derive(Deserialize)]
pub(super) struct LetterQuery {
    #[serde(default)]
    id: String,
}

impl Letters {
    /// Counted, or looked through where that is wanted.
    pub(super) async fn of(facts: &Endpoints, viewer: &Viewer<'_>, looked_through: bool) -> Self {
        let count = match facts.dead_letters.count().await {
            Ok(count) => count,
            Err(error) => return Self::Unknown(error.to_string()),
        };
        if !looked_through || count > MOST {
            return Self::Counted(count);
        }
        let listed = facts.dead_letters.list(|letter| may_see(facts, viewer, letter)).await;
        listed.map_or_else(|error| Self::Unknown(error.to_string()), Self::Listed)
    }
}

/// What is no job is nobody's in particular.
fn may_see(facts: &Endpoints, viewer: &Viewer<'_>, letter: &LetterFacts) -> bool {
    match (&letter.run, &letter.identifier) {
        (Some(run), Some(identifier)) => sees(facts, viewer, run, identifier),
        _ => is_unlimited(facts, viewer),
    }
}

/// Lets one run again, and back to the inbox.
pub(super) async fn replay(
    State(facts): State<Endpoints>,
    headers: HeaderMap,
    Query(query): Query<LetterQuery>,
    Form(form): Form<Pressed>,
) -> Response {
    let viewer = match actor(&facts, &headers, &form.form_token, Section::Inbox, Scope::Operate) {
        Ok(viewer) => viewer,
        Err(answer) => return answer,
    };
    let refused = |status, words: &str| sentence(&viewer, Section::Inbox, status, words);
    let said = match facts.dead_letters.replay(&query.id, |letter| may_see(&facts, &viewer, letter)).await {
        Ok(Some(Replayed::Ended(_))) => "same",
        Ok(Some(_)) => "replayed",
        Ok(None) => return refused(StatusCode::NOT_FOUND, "No dead letter has this id."),
        Err(error @ NotReplayed::Damaged(_)) => {
            return refused(StatusCode::CONFLICT, &format!("Not replayed: {error}."));
        }
        Err(error) => return refused(StatusCode::SERVICE_UNAVAILABLE, &format!("Not replayed: {error}.")),
    };
    Redirect::to(&format!("inbox?said={said}")).into_response()
}

/// The dead letters in the inbox.
pub(super) fn letters_part(viewer: &Viewer<'_>, letters: &Letters) -> Markup {
    html! {
        section data-part=[(!matches!(letters, Letters::Listed(_))).then_some("letters")] aria-labelledby="letters" {
            h2 #letters { "Dead letters" }
            @match letters {
                Letters::Unknown(why) => p.trouble { "They cannot be told now: " (Shown(why)) },
                Letters::Counted(0) => (nothing("No message was given up.")),
                Letters::Counted(count) => {
                    p { strong { (count) } " in the queue. "
                        @if *count <= MOST { a href="inbox?letters=1#letters" { "Look through them" } }
                        @else { "More than " (MOST) " are listed by " code { "agentkit-worker dead list" } " only." }
                    }
                },
                Letters::Listed(letters) if letters.is_empty() => (nothing("None that your token is good for.")),
                Letters::Listed(letters) => (table(viewer, letters)),
            }
        }
    }
}

fn table(viewer: &Viewer<'_>, letters: &[LetterFacts]) -> Markup {
    let acts = viewer.holder.allows(Scope::Operate);
    html! {
        p.hint { "One that is replayed goes on where its run had stopped; " code { "agentkit-worker dead drop ID" } " throws it away." }
        table.rows {
            thead { tr {
                th scope="col" { "Job" } th scope="col" { "User" } th scope="col" { "Given up" } th scope="col" { "Why" }
                th scope="col" { "It was at" } @if acts { th scope="col" { "Act" } }
            } }
            tbody { @for letter in letters {
                tr {
                    td data-label="Job" {
                        @match &letter.run { Some(run) => a href=(job_address(run.key())) { (Shown(run)) }, None => (Shown(&letter.id)) }
                    }
                    td data-label="User" { (or_unknown(letter.identifier.as_ref().map(Identifier::as_str))) }
                    td data-label="Given up" { @match letter.at { Some(at) => (time(at)), None => "not known" } }
                    td data-label="Why" {
                        div {
                            (Shown(&letter.reason))
                            @if viewer.holder.allows(Scope::Content) && let Some(detail) = &letter.detail { br; span.hint { (Shown(detail)) } }
                        }
                    }
                    td data-label="It was at" { (or_unknown(letter.step.as_deref())) }
                    @if acts {
                        td data-label="Act" {
                            form method="post" action=(format!("replay?id={}", encode(&letter.id))) {
                                (form_token(viewer))
                                button aria-label=(format!("Replay {}", letter.id)) { "Replay" }
                            }
                        }
                    }
                }
            } }
        }
    }
}

fn or_unknown(text: Option<&str>) -> Markup {
    html! { @match text { Some(text) => (Shown(text)), None => "not known" } }
}
