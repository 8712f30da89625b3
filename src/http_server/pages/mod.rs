//! The pages for people: what is under way, what waits for a person, runs, digests, and whether all is well. In every
//! replica, for all of them; rendered here, with one small script that renews what is shown.

mod calls;
mod digests;
pub(crate) mod doctor;
mod effects;
mod figures;
mod flights;
pub(super) mod frame;
mod inbox;
mod jobs;
mod letters;
mod now;
mod run;
mod session;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Form, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use maud::html;
use serde::Deserialize;
use tokio_util::task::TaskTracker;

use self::doctor::Examine;
pub(crate) use self::effects::DoubtfulEffects;
use self::frame::{Section, Shown, plain_page, sentence};
use self::session::Viewer;
use super::Endpoints;
use super::approvals::FORM_BYTES;
use super::tokens::Scope;
use crate::clock::SharedClock;
use crate::job::{Identifier, JobId};
use crate::journal::Journal;
use crate::schedule::Scheduler;
use crate::worker::control::operator::Operator;
use crate::worker::control::runs::{RunError, Runs};
use crate::worker::control::timeline::Timeline;
use crate::worker::resources::spending::Spending;

/// Said by the script, which looks every few seconds: a session that nobody uses must end nevertheless.
const LIVE_LOOK: &str = "x-live";

/// What the pages tell of beyond the other endpoints, and whom they tell.
#[derive(Clone)]
pub(crate) struct PageFacts {
    /// This process.
    pub process: String,
    pub journal: Arc<dyn Journal>,
    /// What is acted on.
    pub runs: Runs,
    /// Where this process fires digests.
    pub scheduler: Option<Scheduler>,
    /// Looks at everything that the worker needs.
    pub examine: Option<Examine>,
    /// What was found in doubt a moment ago.
    pub doubtful: DoubtfulEffects,
    /// The operator's budgets.
    pub spending: Arc<Spending>,
    pub clock: SharedClock,
    /// Work that may go on after the answer.
    pub tracker: TaskTracker,
}

impl PageFacts {
    /// Acts on runs, in the name of whoever pressed a button.
    fn operator(&self, viewer: &Viewer<'_>) -> Operator {
        let name = format!("{} for {}", self.runs.name, viewer.holder.name);
        Operator::new(Runs { name, ..self.runs.clone() })
    }
}

#[derive(Deserialize)]
struct SignIn {
    token: String,
}

/// A form without anything to fill in.
#[derive(Deserialize)]
struct Pressed {
    #[serde(default)]
    form_token: String,
}

/// The pages.
pub(super) fn pages() -> Router<Endpoints> {
    Router::new()
        .route("/", get(now::show))
        .route("/inbox", get(inbox::show))
        .route("/decide", post(inbox::decide))
        .route("/settle", post(effects::settle))
        .route("/replay", post(letters::replay))
        .route("/jobs", get(jobs::show))
        .route("/job", get(run::show))
        .route("/cancel", post(run::cancel))
        .route("/wake", post(run::wake))
        .route("/digests", get(digests::show))
        .route("/digest", post(digests::act))
        .route("/doctor", get(doctor::show).post(doctor::examine))
        .route("/sign-in", post(sign_in))
        .route("/sign-out", post(sign_out))
        .route("/page.css", get(|| async { frame::look() }))
        .route("/page.svg", get(|| async { frame::mark() }))
        .route("/page.js", get(|| async { frame::live() }))
        .layer(DefaultBodyLimit::max(FORM_BYTES))
}

/// Whoever is signed in; else the answer.
#[expect(clippy::result_large_err, reason = "an answer is what the router takes")]
fn viewer<'t>(facts: &'t Endpoints, headers: &HeaderMap) -> Result<Viewer<'t>, Response> {
    let viewer = Viewer::of(&facts.tokens, headers, facts.pages.clock.now());
    viewer.ok_or_else(|| sign_in_page(facts, StatusCode::UNAUTHORIZED, None))
}

/// Whoever looks at a page that this scope is needed for; else the answer.
#[expect(clippy::result_large_err, reason = "an answer is what the router takes")]
fn reader<'t>(facts: &'t Endpoints, headers: &HeaderMap, here: Section, scope: Scope) -> Result<Viewer<'t>, Response> {
    let viewer = viewer(facts, headers)?;
    match viewer.holder.allows(scope) {
        true => Ok(viewer),
        false => Err(lacks(&viewer, here, scope)),
    }
}

/// Whoever does something by a form of ours, and may; else the answer.
#[expect(clippy::result_large_err, reason = "an answer is what the router takes")]
fn actor<'t>(
    facts: &'t Endpoints,
    headers: &HeaderMap,
    form_token: &str,
    here: Section,
    scope: Scope,
) -> Result<Viewer<'t>, Response> {
    let viewer = reader(facts, headers, here, scope)?;
    if viewer.sent(headers, form_token) {
        return Ok(viewer);
    }
    let words = "Nothing was done: the form is not of this session, or not of this page. Load the page again.";
    Err(sentence(&viewer, here, StatusCode::FORBIDDEN, words))
}

fn lacks(viewer: &Viewer<'_>, here: Section, scope: Scope) -> Response {
    let words = format!("Your token is not good for this: it lacks the scope `{}`.", scope.as_str());
    sentence(viewer, here, StatusCode::FORBIDDEN, &words)
}

/// What is not about one user's jobs is for whoever may see all of them.
#[expect(clippy::result_large_err, reason = "an answer is what the router takes")]
fn unlimited(facts: &Endpoints, viewer: &Viewer<'_>, here: Section) -> Result<(), Response> {
    if is_unlimited(facts, viewer) {
        return Ok(());
    }
    let words = "Your token is good for the jobs of some users only, and this concerns all of them.";
    Err(sentence(viewer, here, StatusCode::FORBIDDEN, words))
}

fn is_unlimited(facts: &Endpoints, viewer: &Viewer<'_>) -> bool {
    viewer.holder.covers_all() && facts.producers.of_token(&viewer.holder.name).is_none()
}

/// Whether whoever looks may know of this run: of its user's, and a producer of its own alone.
fn sees(facts: &Endpoints, viewer: &Viewer<'_>, run: &JobId, identifier: &Identifier) -> bool {
    let own = facts.producers.of_token(&viewer.holder.name);
    viewer.holder.covers(identifier) && own.is_none_or(|(own, _)| run.producer() == Some(own))
}

/// The run of this id, where whoever looks may see it; for all others it is as if there were none.
async fn timeline(facts: &Endpoints, viewer: &Viewer<'_>, id: &str) -> Result<(JobId, Timeline), Response> {
    let answer = |status, words: &str| sentence(viewer, Section::Jobs, status, words);
    let Some(id) = JobId::from_key(id) else {
        return Err(answer(StatusCode::BAD_REQUEST, "An id has 1 to 200 bytes."));
    };
    let lines = facts.pages.journal.read(&id).await;
    let lines = lines.map_err(|error| answer(StatusCode::SERVICE_UNAVAILABLE, &format!("Not now: {error}.")))?;
    let unknown = || answer(StatusCode::NOT_FOUND, &format!("{}.", RunError::Unknown(id.clone())));
    match Timeline::read(&lines) {
        Ok(Some(timeline)) if sees(facts, viewer, &id, &timeline.run().job().identifier) => Ok((id, timeline)),
        Err(error) if is_unlimited(facts, viewer) => Err(answer(StatusCode::CONFLICT, &format!("{error}."))),
        Ok(_) | Err(_) => Err(unknown()),
    }
}

/// A page that somebody looks at, with which their session goes on.
fn looked_at(facts: &Endpoints, headers: &HeaderMap, viewer: &Viewer<'_>, mut page: Response) -> Response {
    if headers.contains_key(LIVE_LOOK) {
        return page;
    }
    let cookie = viewer.renewed(headers, facts.pages.clock.now(), &nonce());
    if let Some(cookie) = cookie.and_then(|cookie| HeaderValue::from_str(&cookie).ok()) {
        page.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    page
}

async fn sign_in(State(facts): State<Endpoints>, headers: HeaderMap, Form(form): Form<SignIn>) -> Response {
    let refused = |status, words| sign_in_page(&facts, status, Some(words));
    if !session::is_own(&headers) {
        return refused(StatusCode::FORBIDDEN, "This form was not sent by this page. A proxy must pass on `Host`.");
    }
    let Some(holder) = facts.tokens.holder(&format!("Bearer {}", form.token)) else {
        return refused(StatusCode::UNAUTHORIZED, "No token is like this one.");
    };
    let cookie = session::begin(holder, &headers, facts.pages.clock.now(), &nonce());
    ([(header::SET_COOKIE, cookie)], Redirect::to("./")).into_response()
}

async fn sign_out(State(facts): State<Endpoints>, headers: HeaderMap, Form(form): Form<Pressed>) -> Response {
    match viewer(&facts, &headers) {
        Ok(viewer) if viewer.sent(&headers, &form.form_token) => {}
        _ => return Redirect::to("./").into_response(),
    }
    ([(header::SET_COOKIE, session::end(&headers))], Redirect::to("./")).into_response()
}

fn sign_in_page(facts: &Endpoints, status: StatusCode, said: Option<&str>) -> Response {
    let content = html! {
        h1 { "Sign in" }
        @if let Some(said) = said { p.said role="alert" { (Shown(said)) } }
        @if facts.tokens.is_empty() {
            p { "Nobody can sign in yet: no token is configured. Add one to the worker's configuration and start it again:" }
            pre { "[http.tokens.operator]\ntoken_file = \"/run/secrets/operator\"\n" (EXAMPLE_SCOPES) "\nidentifiers = [\"*\"]" }
        } @else {
            form.sign-in method="post" action="sign-in" {
                label for="token" { "Token" }
                input #token type="password" name="token" required autocomplete="current-password" autofocus
                    aria-describedby="which";
                p.hint #which { "One of " code { "[http.tokens]" } " of the worker's configuration." }
                button.main { "Sign in" }
            }
        }
    };
    let mut answer = plain_page(status, "Sign in", "", &content);
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    answer
}

const EXAMPLE_SCOPES: &str = "scopes = [\"jobs:read\", \"approvals\", \"content\", \"operate\"]";

#[expect(clippy::disallowed_methods, reason = "the process floor is where randomness enters")]
fn nonce() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}
