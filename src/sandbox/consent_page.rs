//! The page behind a magic link: a person allows or denies.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;
use axum::{Form, Router};
use serde::Deserialize;

use super::accounts::Consent;
use super::shared::Shared;

pub(super) fn router() -> Router<Arc<Shared>> {
    Router::new().route("/magicLink/{token}", get(ask).post(decide))
}

async fn ask(State(shared): State<Arc<Shared>>, Path(token): Path<String>) -> Response {
    let Some(link) = shared.lock().accounts.link(&token).cloned() else {
        return told(&Consent::Unknown);
    };
    if link.used {
        return told(&Consent::Used);
    }
    if link.expiry <= shared.now() {
        return told(&Consent::Expired);
    }
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
    told(&shared.decide(&token, allowed))
}

fn told(consent: &Consent) -> Response {
    match consent {
        Consent::Allowed { go_to: Some(address) } => Redirect::to(address).into_response(),
        Consent::Allowed { go_to: None } => {
            page(StatusCode::OK, "Connected", "<p>The account is connected. You can close this page.</p>")
        }
        Consent::Denied => {
            page(StatusCode::OK, "Denied", "<p>Nothing was connected. Ask for a new link to try again.</p>")
        }
        Consent::Used => page(StatusCode::GONE, "Link used", "<p>This link was already used. Ask for a new one.</p>"),
        Consent::Expired => page(StatusCode::GONE, "Link expired", "<p>This link has expired. Ask for a new one.</p>"),
        Consent::Unknown => page(StatusCode::NOT_FOUND, "Link unknown", "<p>There is no such link.</p>"),
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
