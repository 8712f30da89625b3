//! The sandbox's page for a person at `/`: accounts and their status, faults, and what tools did. All it does the control API
//! does as well.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Form, Router};
use maud::{DOCTYPE, Markup, html};
use serde::Deserialize;
use serde_json::{Value, json};

use super::authorization::{self, Problem};
use super::faults::Faults;
use super::shared::Shared;

/// Statuses that the form offers; the control API takes any word.
const STATUSES: [&str; 5] = ["ACTIVE", "PENDING_AUTH", "EXPIRED", "PENDING_VERIFICATION", "DISCONNECTED"];
/// Faults that the form offers: what each is called, and the order that it gives.
const FAULTS: [(&str, &str); 7] = [
    ("The next tool call fails (503)", r#"{"on": "execute", "kind": "status", "status": 503}"#),
    ("The next tool call is done, and nobody hears of it", r#"{"on": "execute", "kind": "commit_then_reset"}"#),
    (
        "The next tool call is refused: too many (429)",
        r#"{"on": "execute", "kind": "status", "status": 429, "headers": {"retry-after": "5"}}"#,
    ),
    ("The model's next answer takes ten seconds", r#"{"on": "model", "kind": "delay", "delay_ms": 10000}"#),
    (
        "The model has no place for three requests (429)",
        r#"{"on": "model", "kind": "status", "status": 429, "times": 3, "headers": {"retry-after": "2"}}"#,
    ),
    ("The model's next connection breaks", r#"{"on": "model", "kind": "reset"}"#),
    (
        "Scalekit refuses the credentials, until cleared",
        r#"{"on": "token", "kind": "status", "status": 401, "times": 1000000}"#,
    ),
];
const LOOK: &str = include_str!("page.css");

pub(super) fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/", get(show))
        .route("/page.css", get(|| async { ([(header::CONTENT_TYPE, "text/css")], LOOK) }))
        .route("/page/account", post(set_account))
        .route("/page/fault", post(add_fault))
        .route("/page/clear", post(clear_faults))
        .route("/page/reset", post(reset))
}

async fn show(State(shared): State<Arc<Shared>>) -> Response {
    let headers = [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'",
        ),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, Html(page(&shared).into_string())).into_response()
}

#[derive(Deserialize)]
struct AccountForm {
    connector: String,
    identifier: String,
    status: String,
}

async fn set_account(State(shared): State<Arc<Shared>>, headers: HeaderMap, Form(form): Form<AccountForm>) -> Response {
    if !is_ours(&shared, &headers) {
        return foreign();
    }
    let AccountForm { connector, identifier, status } = form;
    match authorization::set_status(&shared, connector.trim(), identifier.trim(), status.trim()) {
        Ok(_) => Redirect::to("/").into_response(),
        Err(Problem::UnknownConnection) => (StatusCode::NOT_FOUND, "no connection has this name").into_response(),
        Err(Problem::DisabledConnection) => (StatusCode::BAD_REQUEST, "the connection is disabled").into_response(),
    }
}

#[derive(Deserialize)]
struct FaultForm {
    fault: usize,
}

async fn add_fault(State(shared): State<Arc<Shared>>, headers: HeaderMap, Form(form): Form<FaultForm>) -> Response {
    if !is_ours(&shared, &headers) {
        return foreign();
    }
    let Some(fault) = FAULTS.get(form.fault).and_then(|(_, order)| serde_json::from_str(order).ok()) else {
        return (StatusCode::BAD_REQUEST, "there is no such fault").into_response();
    };
    shared.lock().faults.add(fault);
    Redirect::to("/").into_response()
}

async fn clear_faults(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    if !is_ours(&shared, &headers) {
        return foreign();
    }
    shared.lock().faults = Faults::default();
    Redirect::to("/").into_response()
}

async fn reset(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    if !is_ours(&shared, &headers) {
        return foreign();
    }
    shared.lock().forget();
    Redirect::to("/").into_response()
}

/// Browsers say which page a form stands on; another one has no business here.
fn is_ours(shared: &Shared, headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    [shared.base_url.clone(), format!("http://{host}")].iter().any(|ours| origin == ours.as_str())
}

fn foreign() -> Response {
    (StatusCode::FORBIDDEN, "this form stands on another page").into_response()
}

fn page(shared: &Shared) -> Markup {
    let connections: Vec<&str> =
        shared.catalogue.connections().filter(|connection| connection.enabled).map(|c| c.name.as_str()).collect();
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Sandbox" }
                link rel="stylesheet" href="/page.css";
            }
            body {
                header {
                    h1 { "Sandbox" }
                    p { "Stand-ins for Scalekit and the model at " code { (shared.base_url) } ". No real account is touched." }
                }
                main {
                    (accounts(shared, &connections))
                    (faults(shared))
                    (effects(shared))
                    form method="post" action="/page/reset" { button { "Forget everything" } }
                }
            }
        }
    }
}

fn accounts(shared: &Shared, connections: &[&str]) -> Markup {
    let state = shared.lock();
    html! {
        section aria-labelledby="accounts" {
            h2 #accounts { "Accounts" }
            @if state.accounts.all().next().is_none() {
                p { "None yet: a job's first look makes one, or this form." }
            } @else {
                table {
                    thead { tr { th { "Connection" } th { "User" } th { "Status" } th { "Changed" } th {} } }
                    tbody {
                        @for account in state.accounts.all() {
                            tr {
                                td { (account.connector) }
                                td { (account.identifier) }
                                td { (account.status) }
                                td { (account.updated_at.strftime("%H:%M:%S UTC").to_string()) }
                                td {
                                    form method="post" action="/page/account" {
                                        input type="hidden" name="connector" value=(account.connector);
                                        input type="hidden" name="identifier" value=(account.identifier);
                                        @let other = if account.is_active() { "EXPIRED" } else { "ACTIVE" };
                                        button name="status" value=(other) { "Make it " (other) }
                                    }
                                }
                            }
                        }
                    }
                }
            }
            form.row method="post" action="/page/account" {
                label { "Connection " select name="connector" { @for name in connections { option { (name) } } } }
                label { "User " input name="identifier" required maxlength="100" value="user_123"; }
                label { "Status " select name="status" { @for status in STATUSES { option { (status) } } } }
                button { "Set" }
            }
            @if shared.sender.is_some() { p { "A change is told to the worker by a signed webhook." } }
        }
    }
}

fn faults(shared: &Shared) -> Markup {
    let state = shared.lock();
    let left: Vec<_> = state.faults.left().iter().filter(|fault| fault.times > 0).collect();
    html! {
        section aria-labelledby="faults" {
            h2 #faults { "Faults" }
            form.row method="post" action="/page/fault" {
                label { "What goes wrong " select name="fault" {
                    @for (index, (words, _)) in FAULTS.iter().enumerate() { option value=(index) { (words) } }
                } }
                button { "Order it" }
            }
            @if left.is_empty() {
                p { "None is left." }
            } @else {
                ul { @for fault in left { li { code { (brief(&json!(fault))) } } } }
                form method="post" action="/page/clear" { button { "Clear" } }
            }
        }
    }
}

/// A fault without what it does not say.
fn brief(fault: &Value) -> String {
    let said = fault.as_object().into_iter().flatten().filter(|(_, value)| match value {
        Value::Bool(said) => *said,
        Value::Number(number) => number.as_u64() != Some(0),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    });
    said.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
}

/// What tools changed, of all users, the last one first.
fn effects(shared: &Shared) -> Markup {
    let state = shared.lock();
    let all = state.worlds.iter().flat_map(|(user, world)| world.effects.iter().map(move |effect| (user, effect)));
    let mut effects: Vec<_> = all.collect();
    effects.sort_by_key(|(_, effect)| std::cmp::Reverse(effect.at));
    let users: BTreeSet<&String> = state.worlds.keys().collect();
    html! {
        section aria-labelledby="effects" {
            h2 #effects { "What tools did" }
            @if effects.is_empty() {
                p { "Nothing was sent, written or deleted." }
            } @else {
                table {
                    thead { tr { th { "When" } th { "User" } th { "Tool" } th { "With" } } }
                    tbody {
                        @for (user, effect) in effects {
                            tr {
                                td { (effect.at.strftime("%H:%M:%S UTC").to_string()) }
                                td { (user) }
                                td { (effect.tool) }
                                td { code { (json!(effect.params)) } }
                            }
                        }
                    }
                }
            }
            @for user in users {
                p { a href=(world_of(user)) { "All that " (user) " has" } }
            }
        }
    }
}

fn world_of(user: &str) -> String {
    let mut url = url::Url::parse("http://sandbox/_sandbox/world").expect("an address");
    url.path_segments_mut().expect("it has a path").push(user);
    url.path().to_owned()
}
