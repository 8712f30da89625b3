//! Whether everything that the worker needs is well, and what to do where it is not.

use std::sync::Arc;

use axum::extract::{Form, State};
use axum::http::HeaderMap;
use axum::response::Response;
use futures_util::future::BoxFuture;
use maud::{Markup, html};

use super::frame::{Section, Shown, form_token, page};
use super::{Pressed, actor, looked_at, reader, unlimited};
use crate::http_server::Endpoints;
use crate::http_server::tokens::Scope;

/// Looks at everything, as `doctor` does.
pub(crate) type Examine = Arc<dyn Fn() -> BoxFuture<'static, Vec<Finding>> + Send + Sync>;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    Broken,
    Warning,
    /// What cannot be found out from here.
    Note,
    Good,
}

impl Severity {
    /// As a word.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::Warning => "warning",
            Self::Note => "note",
            Self::Good => "ok",
        }
    }
}

/// What was found of one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    pub(crate) what: String,
    pub(crate) found: String,
    /// What to do; nothing where all is well.
    pub(crate) advice: Option<String>,
}

pub(super) async fn show(State(facts): State<Endpoints>, headers: HeaderMap) -> Response {
    answer(&facts, &headers, None).await
}

/// Looks, and shows what was found.
pub(super) async fn examine(State(facts): State<Endpoints>, headers: HeaderMap, Form(form): Form<Pressed>) -> Response {
    answer(&facts, &headers, Some(&form.form_token)).await
}

async fn answer(facts: &Endpoints, headers: &HeaderMap, pressed: Option<&str>) -> Response {
    let viewer = match pressed {
        Some(form_token) => actor(facts, headers, form_token, Section::Doctor, Scope::Operate),
        None => reader(facts, headers, Section::Doctor, Scope::Operate),
    };
    let viewer = match viewer {
        Ok(viewer) => viewer,
        Err(answer) => return answer,
    };
    if let Err(answer) = unlimited(facts, &viewer, Section::Doctor) {
        return answer;
    }
    let findings = match (&facts.pages.examine, pressed) {
        (Some(examine), Some(_)) => Some(examine().await),
        _ => None,
    };
    let content = html! {
        @match &facts.pages.examine {
            None => p { "This worker runs inside another program, with queue, journal and cache in its memory: there is no broker and no Redis to look at." },
            Some(_) => {
                p { "Looks at configuration, broker, Redis, Scalekit and model from this process, as " code { "agentkit-worker doctor" } " does." }
                form.buttons method="post" action="doctor" { (form_token(&viewer)) button.main { "Examine now" } }
            }
        }
        @if let Some(findings) = &findings { (findings_part(findings)) }
    };
    looked_at(facts, headers, &viewer, page(&viewer, Section::Doctor, "Doctor", false, &content))
}

fn findings_part(findings: &[Finding]) -> Markup {
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort_by_key(|finding| finding.severity);
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let broken = count(Severity::Broken);
    html! {
        section aria-labelledby="findings" {
            h2 #findings { "Findings" }
            p.said role="status" {
                @if broken == 0 { "Nothing is broken: " } @else { (broken) " broken, " }
                (count(Severity::Warning)) " warning(s), " (count(Severity::Note)) " note(s), " (count(Severity::Good)) " ok."
            }
            ul.findings {
                @for finding in sorted {
                    li class=(finding.severity.as_str()) {
                        span.tag { (finding.severity.as_str()) } " "
                        strong { (Shown(&finding.what)) } ": " (Shown(&finding.found))
                        @if let Some(advice) = &finding.advice { p.hint { "What to do: " (Shown(advice)) } }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_comes_first_and_hostile_names_are_text() {
        let finding = |severity, what: &str, advice: Option<&str>| Finding {
            severity,
            what: what.to_owned(),
            found: "<script>alert(1)</script>".to_owned(),
            advice: advice.map(str::to_owned),
        };
        let all = [
            finding(Severity::Good, "Redis", None),
            finding(Severity::Broken, "\"><img src=x>", Some("call somebody")),
        ];
        let text = findings_part(&all).into_string();
        assert!(text.contains("1 broken, 0 warning(s), 0 note(s), 1 ok."), "{text}");
        assert!(text.find("&quot;&gt;&lt;img src=x&gt;").unwrap() < text.find("Redis").unwrap(), "{text}");
        assert!(text.contains("What to do: call somebody"), "{text}");
        assert!(!text.contains("<script") && !text.contains("<img"), "{text}");
    }
}
