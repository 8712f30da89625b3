//! Effects of which nobody knows whether they were carried out, and how a person settles them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Form, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};
use serde::Deserialize;

use super::calls::job_address;
use super::frame::{Section, Shown, form_token, nothing, sentence, time};
use super::session::Viewer;
use super::{actor, sees, timeline};
use crate::agent::event::SettledEffect;
use crate::agent::run::Run;
use crate::http_server::Endpoints;
use crate::http_server::tokens::Scope;
use crate::job::{Identifier, JobId};
use crate::journal::index::RunQuery;
use crate::key::encode;
use crate::reply::{EffectState, Settlement};
use crate::standing::RunState;
use crate::worker::control::finding;
use crate::worker::control::settling::SettleOutcome;

/// Of so many runs, those that ended last, the effects are looked through.
const MOST: usize = 200;
/// They are looked through so often at most, however many look at the page.
const LOOK_EVERY: SignedDuration = SignedDuration::from_secs(15);

/// An effect in doubt.
#[derive(Debug, Clone)]
pub(super) struct DoubtfulEffect {
    run: JobId,
    identifier: Identifier,
    call: String,
    tool: String,
    connection: String,
    execution: Option<String>,
    summary: String,
    at: Timestamp,
}

/// What was found a moment ago: it is the same for all who look.
#[derive(Clone, Default)]
pub(crate) struct DoubtfulEffects(Arc<Mutex<Option<LookedAt>>>);

/// When, and what was found.
type LookedAt = (Timestamp, Vec<DoubtfulEffect>);

#[derive(Deserialize)]
pub(super) struct SettleQuery {
    #[serde(default)]
    id: String,
    #[serde(default)]
    call: String,
}

#[derive(Deserialize)]
pub(super) struct SettleForm {
    #[serde(default)]
    form_token: String,
    #[serde(default)]
    settlement: String,
}

impl DoubtfulEffect {
    /// All of a run that a person may settle.
    pub(super) fn of(run: &Run) -> Vec<Self> {
        let Some(reply) = run.reply() else { return Vec::new() };
        let effects = reply.event.account().map(|account| account.effects.as_slice()).unwrap_or_default();
        let unknown = effects.iter().filter(|effect| effect.state == EffectState::Unknown);
        let doubtful = unknown.filter_map(|effect| {
            let call = effect.call_id.clone()?;
            let said = SettledEffect { call_id: call.clone(), settlement: Settlement::Done, by: String::new() };
            run.may_settle(&said).is_ok().then(|| Self {
                run: run.job().id(),
                identifier: run.job().identifier.clone(),
                call,
                tool: effect.tool.clone(),
                connection: effect.connection.clone(),
                execution: effect.execution_id.clone(),
                summary: effect.summary.clone(),
                at: reply.time,
            })
        });
        doubtful.collect()
    }

    pub(super) fn card(&self, viewer: &Viewer<'_>) -> Markup {
        html! {
            article.card {
                h3 { (Shown(&self.tool)) " " span.tag.warn { "unknown" } }
                dl.facts {
                    div { dt { "For" } dd { (Shown(&self.identifier)) } }
                    div { dt { "Connection" } dd { (Shown(&self.connection)) } }
                    div { dt { "Job" } dd { a href=(job_address(self.run.key())) { (Shown(&self.run)) } } }
                    div { dt { "Execution" } dd { (Shown(self.execution.as_deref().unwrap_or("not known"))) } }
                    div { dt { "Run ended" } dd { (time(self.at)) } }
                }
                @if viewer.holder.allows(Scope::Content) { p { (Shown(&self.summary)) } }
                @if viewer.holder.allows(Scope::Operate) {
                    form.buttons method="post" action=(format!("settle?id={}&call={}", encode(self.run.key()), encode(&self.call))) {
                        (form_token(viewer))
                        button name="settlement" value="done" aria-label=(format!("{} was done", self.tool)) { "It was done" }
                        button name="settlement" value="not_done" aria-label=(format!("{} was not done", self.tool)) { "It was not done" }
                    }
                }
            }
        }
    }
}

/// Those that whoever looks may know of, of the runs that ended last.
pub(super) async fn doubtful(facts: &Endpoints, viewer: &Viewer<'_>) -> Result<Vec<DoubtfulEffect>, String> {
    let now = facts.pages.clock.now();
    let kept = facts.pages.doubtful.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let all = match kept {
        Some((at, all)) if now.duration_since(at) < LOOK_EVERY => all,
        _ => {
            let all = look(facts).await?;
            let kept = Some((now, all.clone()));
            *facts.pages.doubtful.0.lock().unwrap_or_else(PoisonError::into_inner) = kept;
            all
        }
    };
    Ok(all.into_iter().filter(|effect| sees(facts, viewer, &effect.run, &effect.identifier)).collect())
}

async fn look(facts: &Endpoints) -> Result<Vec<DoubtfulEffect>, String> {
    let mut ended = BTreeMap::new();
    for state in [RunState::Completed, RunState::Failed] {
        let query = RunQuery { state: Some(state), limit: MOST, ..RunQuery::default() };
        let found = finding::list(&*facts.pages.journal, &query).await.map_err(|error| error.to_string())?;
        ended.extend(found.rows.into_iter().map(|row| ((row.at, row.id.key().to_owned()), row.id)));
    }
    let read = ended.into_values().rev().take(MOST).map(|id| async move {
        let lines = facts.pages.journal.read(&id).await.ok()?;
        Some(DoubtfulEffect::of(&Run::replay(&lines).ok()??))
    });
    Ok(futures_util::future::join_all(read).await.into_iter().flatten().flatten().collect())
}

/// They in the inbox.
pub(super) fn doubtful_part(viewer: &Viewer<'_>, effects: &Result<Vec<DoubtfulEffect>, String>) -> Markup {
    html! {
        section data-part="effects" aria-labelledby="effects" {
            h2 #effects { "Effects that are unknown" }
            @match effects {
                Err(why) => p.trouble { "They cannot be told now: " (Shown(why)) },
                Ok(effects) if effects.is_empty() => (nothing(&format!("None among the {MOST} runs that ended last."))),
                Ok(effects) => {
                    p.hint { "Calls that left and were not answered. See at the other side whether they were carried out, and say it: the caller is told." }
                    div.cards { @for effect in effects { (effect.card(viewer)) } }
                }
            }
        }
    }
}

/// Says what became of one, and back to the inbox.
pub(super) async fn settle(
    State(facts): State<Endpoints>,
    headers: HeaderMap,
    Query(query): Query<SettleQuery>,
    Form(form): Form<SettleForm>,
) -> Response {
    let viewer = match actor(&facts, &headers, &form.form_token, Section::Inbox, Scope::Operate) {
        Ok(viewer) => viewer,
        Err(answer) => return answer,
    };
    let refused = |status, words: &str| sentence(&viewer, Section::Inbox, status, words);
    let settlement = match form.settlement.as_str() {
        "done" => Settlement::Done,
        "not_done" => Settlement::NotDone,
        _ => return refused(StatusCode::BAD_REQUEST, "This is neither done nor not done; nothing was settled."),
    };
    let (id, _) = match timeline(&facts, &viewer, &query.id).await {
        Ok(found) => found,
        Err(answer) => return answer,
    };
    let said = SettledEffect { call_id: query.call, settlement, by: viewer.holder.name.clone() };
    let settled = facts.pages.operator(&viewer).settle(&id, &said).await;
    // What was found before is not so any more.
    *facts.pages.doubtful.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    match settled {
        Ok(SettleOutcome::Settled | SettleOutcome::Already) => Redirect::to("inbox?said=settled").into_response(),
        Ok(SettleOutcome::Refused(why)) => refused(StatusCode::CONFLICT, &format!("Nothing was settled: {why}.")),
        Err(error) => refused(StatusCode::SERVICE_UNAVAILABLE, &format!("It was not done: {error}.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_effect_is_in_doubt_until_a_person_says_what_became_of_it() {
        // A reply of this version names the call.
        let settled = include_str!("../../../tests/data/journal/v5-settled.ndjson").replacen(
            "\"state\":\"unknown\"",
            "\"state\":\"unknown\",\"call_id\":\"c3\"",
            1,
        );
        let lines: Vec<String> = settled.lines().map(str::to_owned).collect();
        let said = lines.iter().position(|line| line.contains("effect_settled")).unwrap();
        let found = |lines: &[String]| DoubtfulEffect::of(&Run::replay(lines).unwrap().unwrap());
        let (before, after) = (found(&lines[..said]), found(&lines));
        assert!(before.len() > after.len(), "{before:#?} {after:#?}");
        assert!(after.iter().all(|effect| before.iter().any(|earlier| earlier.call == effect.call)));
    }
}
