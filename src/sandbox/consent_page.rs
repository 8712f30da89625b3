//! The page behind a magic link: a person allows or denies.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;
use axum::{Form, Router};
use serde::Deserialize;

use super::accounts::LinkProblem;
use super::authorization::{self, Consent};
use super::shared::Shared;

pub(super) fn router() -> Router<Arc<Shared>> {
    Router::new().route("/magicLink/{token}", get(ask).post(decide))
}

async fn ask(State(shared): State<Arc<Shared>>, Path(token): Path<String>) -> Response {
    let link = match shared.lock().accounts.link(&token, shared.now()) {
        Ok(link) => link.clone(),
        Err(problem) => return closed(problem),
    };
    let connection = escaped(&link.connector);
    let identifier = escaped(&link.identifier);
    page(
        StatusCode::OK,
        &format!("Connect {connection}"),
        &format!(
            "<p>This is a stand-in; no real account is touched.</p>\
             <p>Allow the connection <strong>{connection}</strong> to act for <strong>{identifier}</strong>?</p>\
             <form method=\"post\">\
             <button name=\"decision\" value=\"allow\">Allow</button> \
             <button name=\"decision\" value=\"deny\">Deny</button></form>"
        ),
    )
}

#[derive(Deserialize)]
struct Decision {
    decision: String,
}

async fn decide(
    State(shared): State<Arc<Shared>>,
    Path(token): Path<String>,
    Form(Decision { decision }): Form<Decision>,
) -> Response {
    let allowed = match decision.as_str() {
        "allow" => true,
        "deny" => false,
        _ => {
            return page(StatusCode::BAD_REQUEST, "Unclear", "<p>The decision is allow or deny.</p>");
        }
    };
    match authorization::decide(&shared, &token, allowed) {
        Ok(Consent::Allowed { go_to: Some(address) }) => Redirect::to(&address).into_response(),
        Ok(Consent::Allowed { go_to: None }) => {
            page(StatusCode::OK, "Connected", "<p>The account is connected. You can close this page.</p>")
        }
        Ok(Consent::Denied) => {
            page(StatusCode::OK, "Denied", "<p>Nothing was connected. Ask for a new link to try again.</p>")
        }
        Err(problem) => closed(problem),
    }
}

fn closed(problem: LinkProblem) -> Response {
    match problem {
        LinkProblem::Used => {
            page(StatusCode::GONE, "Link used", "<p>This link was already used. Ask for a new one.</p>")
        }
        LinkProblem::Expired => {
            page(StatusCode::GONE, "Link expired", "<p>This link has expired. Ask for a new one.</p>")
        }
        LinkProblem::Unknown => page(StatusCode::NOT_FOUND, "Link unknown", "<p>There is no such link.</p>"),
    }
}

fn page(status: StatusCode, title: &str, content: &str) -> Response {
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title></head>\
         <body><h1>{title}</h1>{content}</body></html>"
    );
    let headers = [(header::CONTENT_SECURITY_POLICY, "default-src 'none'"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, Html(html)).into_response()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}
