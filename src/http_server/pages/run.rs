//! One run: how it stands, what waits for a person in it, its effects, and what happened when.

use axum::extract::{Form, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use jiff::Timestamp;
use maud::{Markup, html};
use serde::Deserialize;

use super::calls::ShownCall;
use super::effects::DoubtfulEffect;
use super::frame::{Section, Shown, form_token, page, sentence, span, time_after};
use super::session::Viewer;
use super::{Pressed, actor, looked_at, reader, timeline};
use crate::http_server::Endpoints;
use crate::http_server::tokens::Scope;
use crate::job::JobId;
use crate::key::encode;
use crate::reply::{Account, EffectEntry, EffectState, ReplyEvent, TotalUsage};
use crate::worker::control::operator::Cancel;
use crate::worker::control::runs::RunError;
use crate::worker::control::timeline::{Row, Timeline};

#[derive(Deserialize)]
pub(super) struct RunQueryText {
    #[serde(default)]
    id: String,
    #[serde(default)]
    said: String,
}

pub(super) async fn show(
    State(facts): State<Endpoints>,
    headers: HeaderMap,
    Query(query): Query<RunQueryText>,
) -> Response {
    let viewer = match reader(&facts, &headers, Section::Jobs, Scope::JobsRead) {
        Ok(viewer) => viewer,
        Err(answer) => return answer,
    };
    let (id, timeline) = match timeline(&facts, &viewer, &query.id).await {
        Ok(found) => found,
        Err(answer) => return answer,
    };
    let content = html! {
        @if let Some(said) = said(&query.said) { p.said role="status" { (said) } }
        (run_part(&viewer, &timeline, facts.pages.clock.now()))
    };
    looked_at(&facts, &headers, &viewer, page(&viewer, Section::Jobs, id.as_str(), true, &content))
}

fn run_part(viewer: &Viewer<'_>, timeline: &Timeline, now: Timestamp) -> Markup {
    let run = timeline.run();
    let (state, words) = timeline.state();
    let (attempts, steps) = timeline.counts();
    let account = run.reply().and_then(|reply| match &reply.event {
        ReplyEvent::Completed(completed) => Some(&completed.account),
        ReplyEvent::Failed(failed) => Some(&failed.account),
        _ => None,
    });
    let content = viewer.holder.allows(Scope::Content);
    html! {
        section data-part="run" aria-label="How it stands" {
            p class={ "state " (state) } { (Shown(words)) }
            dl.facts {
                div { dt { "For" } dd { (Shown(&run.job().identifier)) } }
                @if let Some(producer) = run.job().id().producer() { div { dt { "Job of" } dd { (Shown(producer)) } } }
                div { dt { "Model" } dd { (Shown(run.model())) } }
                div { dt { "Attempts" } dd { (attempts) } }
                div { dt { "Model turns" } dd { (steps) } }
                @if let Some(account) = account { (account_facts(account)) }
                @else {
                    div { dt { "Cost so far" } dd { (run.cost()) } }
                    @if run.is_under_way() { div { dt { "It is at" } dd { (Shown(run.doing(now))) } } }
                }
            }
            @if run.reply().is_none() && viewer.holder.allows(Scope::Operate) { (buttons(viewer, &timeline.run().job().id())) }
            @if let Some(ReplyEvent::Failed(failed)) = run.reply().map(|reply| &reply.event) {
                div.card {
                    h3 { "Why it failed: " code { (failed.error.code.as_str()) } }
                    @if content { p { (Shown(&failed.error.message)) } }
                    @if !failed.error.hint.is_empty() { p.hint { "What to do: " (Shown(&failed.error.hint)) } }
                }
            }
            @let calls = ShownCall::of(run);
            @if !calls.is_empty() {
                h2 { "Waits for approval" }
                div.cards { @for call in &calls { (call.card(viewer, now)) } }
            }
            @let doubtful = DoubtfulEffect::of(run);
            @if !doubtful.is_empty() {
                h2 { "What became of these?" }
                div.cards { @for effect in &doubtful { (effect.card(viewer)) } }
            }
            @if let Some(account) = account { (effects(&account.effects)) }
        }
        section data-part="timeline" aria-labelledby="timeline" {
            h2 #timeline { "Timeline" }
            @if run.job().prompt.is_empty() { p.hint { "Its time is over: only its beginning and its end are kept." } }
            @if !content { p.hint { "Prompts, arguments and results are hidden: your token lacks the scope " code { "content" } "." } }
            (rows(timeline.rows(), content))
        }
    }
}

fn account_facts(account: &Account) -> Markup {
    let TotalUsage { input_tokens, output_tokens, cached_tokens, model_calls, unknown, cost } = &account.usage;
    let seconds = account.timing.working_milliseconds / 1000;
    html! {
        div { dt { "Tool calls" } dd { (account.tool_calls) } }
        div { dt { "Model calls" } dd { (model_calls) } }
        div { dt { "Tokens" } dd {
            (input_tokens) " in (" (cached_tokens) " cached), " (output_tokens) " out"
            @if *unknown { ", and some that are not known" }
        } }
        div { dt { "Cost" } dd { (cost) } }
        div { dt { "Worked" } dd { (seconds) " s" } }
        @for retry in &account.retries {
            div { dt { "Tried again" } dd { (retry.count) " × " (Shown(&retry.call)) ": " (Shown(&retry.reason)) } }
        }
        @for notice in &account.notices { div { dt { "Notice" } dd { (Shown(&notice.message)) } } }
    }
}

fn buttons(viewer: &Viewer<'_>, id: &JobId) -> Markup {
    html! {
        div.buttons {
            form method="post" action=(format!("wake?id={}", encode(id.key()))) { (form_token(viewer)) button { "Wake now" } }
            form method="post" action=(format!("cancel?id={}", encode(id.key()))) { (form_token(viewer)) button.danger { "Cancel the run" } }
        }
    }
}

/// What was done to the world; what is not known comes first.
fn effects(effects: &[EffectEntry]) -> Markup {
    let mut sorted: Vec<&EffectEntry> = effects.iter().collect();
    sorted.sort_by_key(|effect| effect.state != EffectState::Unknown);
    html! {
        h2 { "Effects" }
        @if sorted.is_empty() { (super::frame::nothing("The run changed nothing that it knows of.")) }
        @else {
            table.rows {
                thead { tr { th scope="col" { "State" } th scope="col" { "Tool" } th scope="col" { "Connection" } th scope="col" { "Execution" } } }
                tbody { @for effect in sorted {
                    tr {
                        td data-label="State" { span.tag.warn[effect.state == EffectState::Unknown] { (effect.state.as_str()) } }
                        td data-label="Tool" { (Shown(&effect.tool)) }
                        td data-label="Connection" { (Shown(&effect.connection)) }
                        td data-label="Execution" { (Shown(effect.execution_id.as_deref().unwrap_or("not known"))) }
                    }
                } }
            }
        }
    }
}

fn rows(rows: &[Row], content: bool) -> Markup {
    html! {
        ol.timeline {
            @for (index, row) in rows.iter().enumerate() {
                li class=[row.is_trouble.then_some("trouble")] {
                    div.when {
                        @let before = index.checked_sub(1).and_then(|index| rows.get(index)).map(|before| before.at);
                        (time_after(before, row.at))
                        @if let Some(before) = before.filter(|before| row.at.as_second() > before.as_second()) {
                            span.hint { "after " (span(before, row.at)) }
                        }
                    }
                    div {
                        strong { (row.event.replace('_', " ")) } " " (Shown(&row.detail))
                        @if content && !row.content.is_empty() {
                            details { summary { "Content" } pre tabindex="0" { (Shown(row.content.join("\n"))) } }
                        }
                    }
                }
            }
        }
    }
}

/// Ends the run.
pub(super) async fn cancel(
    State(facts): State<Endpoints>,
    headers: HeaderMap,
    Query(query): Query<RunQueryText>,
    Form(form): Form<Pressed>,
) -> Response {
    let (viewer, id) = match acted_on(&facts, &headers, &query, &form).await {
        Ok(acted_on) => acted_on,
        Err(answer) => return answer,
    };
    match facts.pages.operator(&viewer).cancel(&id).await {
        Ok(Cancel::UnderWay | Cancel::Waiting) => back(&id, "cancelled"),
        Ok(Cancel::Ended(_)) => back(&id, "ended"),
        Err(error) => not_done(&viewer, &error),
    }
}

/// Wakes the run.
pub(super) async fn wake(
    State(facts): State<Endpoints>,
    headers: HeaderMap,
    Query(query): Query<RunQueryText>,
    Form(form): Form<Pressed>,
) -> Response {
    let (viewer, id) = match acted_on(&facts, &headers, &query, &form).await {
        Ok(acted_on) => acted_on,
        Err(answer) => return answer,
    };
    match facts.pages.operator(&viewer).resume(&id).await {
        Ok(run) if run.is_delivered() => back(&id, "ended"),
        Ok(_) => back(&id, "woken"),
        Err(error) => not_done(&viewer, &error),
    }
}

async fn acted_on<'t>(
    facts: &'t Endpoints,
    headers: &HeaderMap,
    query: &RunQueryText,
    form: &Pressed,
) -> Result<(Viewer<'t>, JobId), Response> {
    let viewer = actor(facts, headers, &form.form_token, Section::Jobs, Scope::Operate)?;
    let (id, _) = timeline(facts, &viewer, &query.id).await?;
    Ok((viewer, id))
}

fn back(id: &JobId, said: &str) -> Response {
    Redirect::to(&format!("job?id={}&said={said}", encode(id.key()))).into_response()
}

fn not_done(viewer: &Viewer<'_>, error: &RunError) -> Response {
    let status = if matches!(error, RunError::Busy) { StatusCode::CONFLICT } else { StatusCode::SERVICE_UNAVAILABLE };
    sentence(viewer, Section::Jobs, status, &format!("It was not done: {error}."))
}

fn said(what: &str) -> Option<&'static str> {
    match what {
        "cancelled" => Some("Cancelled; the caller is told."),
        "woken" => Some("Woken: it looks at once whether it can go on."),
        "ended" => Some("Nothing was done: the run has ended."),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, header};

    use super::*;
    use crate::http_server::tokens::Tokens;

    const FINISHED: &str = include_str!("../../../tests/data/journal/v1-finished.ndjson");

    /// What whoever has these scopes sees of a run.
    fn seen(journal: &str, scopes: &str) -> String {
        let tokens = format!("[ann]\ntoken = \"0123456789abcdef\"\nscopes = [{scopes}]\nidentifiers = [\"*\"]");
        let tokens = Tokens::new(&toml::from_str(&tokens).unwrap()).unwrap();
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, "Bearer 0123456789abcdef".parse().unwrap())]);
        let viewer = Viewer::of(&tokens, &headers, Timestamp::UNIX_EPOCH).unwrap();
        let lines: Vec<String> = journal.lines().map(str::to_owned).collect();
        run_part(&viewer, &Timeline::read(&lines).unwrap().unwrap(), Timestamp::UNIX_EPOCH).into_string()
    }

    #[test]
    fn every_entry_is_on_the_timeline_and_content_is_for_whoever_may_see_it() {
        let (shy, open) = (seen(FINISHED, "\"jobs:read\""), seen(FINISHED, "\"jobs:read\", \"content\""));
        assert_eq!(shy.matches("<li").count(), FINISHED.lines().count());
        assert!(open.contains("prompt: ") && !shy.contains("prompt: ") && shy.contains("hidden"), "{shy}");
        let (unknown, done) = (shy.find(">unknown<").unwrap(), shy.find(">done<").unwrap());
        assert!(unknown < done, "what is in doubt comes first: {shy}");
    }

    #[test]
    fn whoever_may_not_act_has_no_buttons_and_a_run_that_has_ended_has_none() {
        let under_way: String = FINISHED.split_inclusive('\n').take(3).collect();
        assert!(!seen(&under_way, "\"jobs:read\"").contains("<button"));
        assert!(seen(&under_way, "\"jobs:read\", \"operate\"").contains("Cancel the run"));
        assert!(!seen(FINISHED, "\"jobs:read\", \"operate\"").contains("<button"));
    }

    #[test]
    fn hostile_names_are_text() {
        let hostile = FINISHED.replace("user_123", "<script>x</script>").replace("gmail_send_message", "<img src=x>");
        let text = seen(&hostile, "\"content\", \"operate\", \"approvals\"");
        assert!(text.contains("&lt;script&gt;x&lt;/script&gt;") && text.contains("&lt;img src=x&gt;"), "{text}");
        assert!(!text.contains("<script") && !text.contains("<img"), "{text}");
    }
}
