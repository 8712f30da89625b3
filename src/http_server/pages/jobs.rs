//! Finding a run.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use maud::{Markup, html};

use super::frame::{Screen, page};
use super::{looked_at, reader};
use crate::http_server::Endpoints;
use crate::http_server::tokens::Scope;

pub(super) async fn show(State(facts): State<Endpoints>, headers: HeaderMap) -> Response {
    let viewer = match reader(&facts, &headers, Screen::Jobs, Scope::JobsRead) {
        Ok(viewer) => viewer,
        Err(answer) => return answer,
    };
    looked_at(&facts, &headers, &viewer, page(&viewer, Screen::Jobs, "Jobs", false, &by_id()))
}

fn by_id() -> Markup {
    html! {
        form.search method="get" action="job" role="search" {
            label for="id" { "Job id" }
            input #id name="id" required maxlength="200" autocomplete="off" spellcheck="false";
            button.main { "Show" }
        }
    }
}
