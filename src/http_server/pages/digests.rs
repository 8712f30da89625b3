//! Scheduled jobs: when they come, how they stand; paused, resumed, run now.

use std::time::Duration;

use axum::extract::{Form, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use maud::{Markup, html};
use serde::Deserialize;
use tracing::{info, warn};

use super::figures::Figures;
use super::frame::{Section, Shown, form_token, nothing, page, sentence};
use super::session::Viewer;
use super::{actor, looked_at, reader, unlimited};
use crate::digest_store::Standing;
use crate::http_server::Endpoints;
use crate::http_server::tokens::Scope;
use crate::key::encode;
use crate::schedule::by_hand::{HoldError, pause, resume};
use crate::schedule::recipients::Source;
use crate::schedule::{Digest, Scheduler};

/// Jobs of many recipients take longer to publish than a browser should wait.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

#[derive(Deserialize)]
pub(super) struct DigestQuery {
    #[serde(default)]
    name: String,
    #[serde(default)]
    said: String,
}

#[derive(Deserialize)]
pub(super) struct DigestForm {
    #[serde(default)]
    form_token: String,
    action: String,
}

/// A digest as it is shown.
pub(super) struct ShownDigest {
    pub(super) name: String,
    pub(super) enabled: bool,
    pub(super) schedule: String,
    pub(super) recipients: String,
    pub(super) zone: TimeZone,
    pub(super) next: Option<Timestamp>,
    /// How it stands, or why that cannot be told.
    pub(super) standing: Result<Standing, String>,
    /// US dollars that its jobs cost in this process, as far as that is known.
    pub(super) cost: f64,
}

impl ShownDigest {
    async fn of(digest: &Digest, scheduler: &Scheduler, now: Timestamp, cost: f64) -> Self {
        let schedule = digest.schedule();
        let standing = scheduler.store.look(&digest.name, &[], now, now).await;
        Self {
            name: digest.name.clone(),
            enabled: digest.enabled,
            schedule: format!("{} in {}", digest.cron, digest.timezone),
            recipients: recipients(&digest.recipients),
            zone: schedule.zone().clone(),
            next: schedule.next_after(now).map(|next| next.at),
            standing: standing.map_err(|error| error.to_string()),
            cost,
        }
    }
}

pub(super) async fn show(
    State(facts): State<Endpoints>,
    headers: HeaderMap,
    Query(query): Query<DigestQuery>,
) -> Response {
    let viewer = match reader(&facts, &headers, Section::Digests, Scope::JobsRead) {
        Ok(viewer) => viewer,
        Err(answer) => return answer,
    };
    if let Err(answer) = unlimited(&facts, &viewer, Section::Digests) {
        return answer;
    }
    let digests = match &facts.pages.scheduler {
        None => None,
        Some(scheduler) => {
            let now = facts.pages.clock.now();
            let all = scheduler.digests.definitions();
            let costs = Figures::new(facts.metrics.render()).by("agentkit_digest_cost_usd_total", "digest");
            let cost = |name: &str| costs.get(name).copied().unwrap_or_default();
            let all = all.iter().map(|digest| ShownDigest::of(digest, scheduler, now, cost(&digest.name)));
            Some(futures_util::future::join_all(all).await)
        }
    };
    let content = html! {
        @if let Some(said) = said(&query.said) { p.said role="status" { (said) } }
        (digests_part(&viewer, digests.as_deref()))
    };
    looked_at(&facts, &headers, &viewer, page(&viewer, Section::Digests, "Digests", true, &content))
}

fn digests_part(viewer: &Viewer<'_>, digests: Option<&[ShownDigest]>) -> Markup {
    html! {
        section data-part="digests" aria-label="Digests" {
            @match digests {
                None => (nothing("This worker fires no digests: they are switched off in its configuration (digests.enabled).")),
                Some([]) => (nothing("No digests are defined.")),
                Some(digests) => div.cards { @for digest in digests { (card(viewer, digest)) } },
            }
        }
    }
}

fn card(viewer: &Viewer<'_>, digest: &ShownDigest) -> Markup {
    let paused = digest.standing.as_ref().is_ok_and(|standing| standing.paused);
    let shown = |at: Option<Timestamp>| at.map_or_else(|| "never".to_owned(), |at| local(at, &digest.zone));
    html! {
        article.card {
            h3 {
                (Shown(&digest.name)) " "
                @if !digest.enabled { span.tag { "not enabled" } }
                @if paused { span.tag.warn { "paused" } }
            }
            dl.facts {
                div { dt { "Schedule" } dd { (Shown(&digest.schedule)) } }
                div { dt { "Next" } dd {
                    @if !digest.enabled { "not while it is not enabled" } @else if paused { "not while it is paused" }
                    @else { (shown(digest.next)) }
                } }
                div { dt { "Recipients" } dd { (Shown(&digest.recipients)) } }
                div { dt { "Cost" } dd { (format!("{:.4}", digest.cost)) " USD, in this worker since it started" } }
                @match &digest.standing {
                    Err(why) => div { dt { "Stands" } dd.trouble { "not known: " (Shown(why)) } },
                    Ok(standing) => {
                        div { dt { "Last fired" } dd { (shown(standing.last_fire)) } }
                        div { dt { "Last success" } dd { (shown(standing.last_success)) } }
                        div { dt { "Failures in a row" } dd { (standing.failures) } }
                    },
                }
            }
            @if viewer.holder.allows(Scope::Operate) {
                form.buttons method="post" action=(format!("digest?name={}", encode(&digest.name))) {
                    (form_token(viewer))
                    @if paused {
                        button.main name="action" value="resume" aria-label=(format!("Resume {}", digest.name)) { "Resume" }
                    } @else {
                        button name="action" value="pause" aria-label=(format!("Pause {}", digest.name)) { "Pause" }
                    }
                    button name="action" value="run" aria-label=(format!("Run {} now, for all recipients", digest.name)) { "Run now" }
                }
            }
        }
    }
}

/// Pauses, resumes, runs now; and back to the digests.
pub(super) async fn act(
    State(facts): State<Endpoints>,
    headers: HeaderMap,
    Query(query): Query<DigestQuery>,
    Form(form): Form<DigestForm>,
) -> Response {
    let viewer = match actor(&facts, &headers, &form.form_token, Section::Digests, Scope::Operate) {
        Ok(viewer) => viewer,
        Err(answer) => return answer,
    };
    if let Err(answer) = unlimited(&facts, &viewer, Section::Digests) {
        return answer;
    }
    let refused = |status, words: &str| sentence(&viewer, Section::Digests, status, words);
    let named = facts.pages.scheduler.as_ref().and_then(|scheduler| {
        let digest = scheduler.digests.definitions().into_iter().find(|digest| digest.name == query.name)?;
        Some((scheduler.clone(), digest))
    });
    let Some((scheduler, digest)) = named else {
        return refused(StatusCode::NOT_FOUND, "This worker knows no digest of this name.");
    };
    let by = &viewer.holder.name;
    let done = match form.action.as_str() {
        "pause" => {
            let paused = pause(&digest, &*scheduler.store, &scheduler.audit, scheduler.clock.now(), by).await;
            held(&digest, by, paused, "paused")
        }
        "resume" => {
            let resumed = resume(&digest, &*scheduler.store, &scheduler.audit, scheduler.clock.now(), by).await;
            held(&digest, by, resumed, "resumed")
        }
        "run" => run_now(&facts, scheduler, digest, by.clone()).await,
        _ => return refused(StatusCode::BAD_REQUEST, "Nothing was done: this is neither pause, resume nor run."),
    };
    match done {
        Ok(said) => Redirect::to(&format!("digests?said={said}")).into_response(),
        Err(why) => refused(StatusCode::SERVICE_UNAVAILABLE, &format!("It was not done: {why}.")),
    }
}

fn held(digest: &Digest, by: &str, held: Result<(), HoldError>, what: &'static str) -> Result<&'static str, String> {
    held.map_err(|error| error.to_string())?;
    info!(digest = digest.name, by, "a digest was {what} by hand");
    Ok(what)
}

/// Publishes the jobs of all recipients; where that takes long it goes on by itself.
async fn run_now(facts: &Endpoints, scheduler: Scheduler, digest: Digest, by: String) -> Result<&'static str, String> {
    let owner = crate::key::digest(&facts.pages.process, 4);
    let mark = format!("now:{}:{owner}", facts.pages.clock.now().as_second());
    let fired = facts.pages.tracker.spawn(async move {
        let fired = scheduler.fire_now(&digest, None, &mark, &by).await;
        match &fired {
            Ok(counts) => info!(digest = digest.name, by, published = counts.published, "a digest was run by hand"),
            Err(error) => warn!(digest = digest.name, by, %error, "a digest that was run by hand came to no good end"),
        }
        fired.map(drop)
    });
    match tokio::time::timeout(ANSWER_WITHIN, fired).await {
        Ok(Ok(Ok(()))) => Ok("ran"),
        Ok(Ok(Err(error))) => Err(error.to_string()),
        Ok(Err(_)) => Err("it came to no good end; the log says more".to_owned()),
        Err(_) => Ok("runs"),
    }
}

fn said(what: &str) -> Option<&'static str> {
    match what {
        "paused" => Some("Paused; jobs that are on the queue still run."),
        "resumed" => Some("It fires again from now on."),
        "ran" => Some("Its jobs are published."),
        "runs" => Some("Its jobs are being published; that takes a while."),
        _ => None,
    }
}

fn recipients(source: &Source) -> String {
    match source {
        Source::List(list) => format!("{} listed", list.len()),
        Source::Csv(path) | Source::Ndjson(path) => path.display().to_string(),
        Source::Set(set) => format!("Redis set {set}"),
    }
}

fn local(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned(zone.clone()).strftime("%a %Y-%m-%d %H:%M %Z").to_string()
}
