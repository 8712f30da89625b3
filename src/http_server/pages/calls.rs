//! Calls that wait for a person: what they would do, and the buttons.

use jiff::Timestamp;
use maud::{Markup, html};
use serde_json::Value;

use super::frame::{Shown, form_token, span, time};
use super::session::Viewer;
use crate::agent::run::Run;
use crate::http_server::tokens::Scope;
use crate::job::JobId;
use crate::key::encode;

/// A call that waits.
pub(super) struct ShownCall {
    pub(super) approval: String,
    pub(super) job: JobId,
    pub(super) identifier: String,
    pub(super) tool: String,
    pub(super) connection: String,
    pub(super) effect: &'static str,
    pub(super) arguments: String,
    pub(super) arguments_digest: String,
    pub(super) read_before: String,
    pub(super) at: Timestamp,
    pub(super) until: Timestamp,
}

impl ShownCall {
    /// All that wait in a run.
    pub(super) fn of(run: &Run) -> Vec<Self> {
        if run.reply().is_some() {
            return Vec::new();
        }
        let read_before = run.approvals().read_before().join(", ");
        let waiting = run.approvals().asked().iter().filter(|asked| asked.verdict.is_none());
        let calls = waiting.filter_map(|asked| {
            let (tool, arguments, _) = run.planned(&asked.call.call_id)?;
            Some(Self {
                approval: asked.call.id.clone(),
                job: run.job().id(),
                identifier: run.job().identifier.to_string(),
                tool: tool.name.clone(),
                connection: tool.connection.to_string(),
                effect: tool.effect.as_str(),
                arguments: serde_json::to_string_pretty(&Value::Object(arguments.clone())).unwrap_or_default(),
                arguments_digest: asked.call.arguments_digest.clone(),
                read_before: read_before.clone(),
                at: asked.at,
                until: asked.until,
            })
        });
        calls.collect()
    }

    /// Nobody decides about what they may not see.
    pub(super) fn card(&self, viewer: &Viewer<'_>, now: Timestamp) -> Markup {
        let (content, decides) = (viewer.holder.allows(Scope::Content), viewer.holder.allows(Scope::Approvals));
        html! {
            article.card {
                h3 { (Shown(&self.tool)) " " span.tag { (self.effect) } }
                dl.facts {
                    div { dt { "For" } dd { (Shown(&self.identifier)) } }
                    div { dt { "Connection" } dd { (Shown(&self.connection)) } }
                    div { dt { "Job" } dd { a href=(job_address(self.job.key())) { (Shown(&self.job)) } } }
                    div { dt { "Read before" } dd { @if self.read_before.is_empty() { "nothing" } @else { (Shown(&self.read_before)) } } }
                    div { dt { "Waits" } dd { (span(self.at, now)) ", until " (time(self.until)) } }
                }
                @if content {
                    pre tabindex="0" aria-label="Arguments" { (Shown(&self.arguments)) }
                } @else {
                    p.hint { "Its arguments are hidden: your token lacks the scope " code { "content" } "." }
                }
                @if content && decides {
                    form.buttons method="post" action=(format!("decide?approval={}", encode(&self.approval))) {
                        (form_token(viewer))
                        input type="hidden" name="arguments_digest" value=(self.arguments_digest);
                        button.main name="decision" value="approve" aria-label=(format!("Approve {}", self.tool)) { "Approve" }
                        button name="decision" value="deny" aria-label=(format!("Deny {}", self.tool)) { "Deny" }
                    }
                } @else if decides {
                    p.hint { "Whoever cannot see a call does not decide about it." }
                }
            }
        }
    }
}

/// The page of a run, by its key.
pub(super) fn job_address(id: &str) -> String {
    format!("job?id={}", encode(id))
}
