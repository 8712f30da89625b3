//! The page behind a link: the call in full, and two buttons. No script, nothing from elsewhere; the look is that of the others.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use maud::{Markup, html};
use serde_json::Value;

use super::pages::frame::{Shown, plain_page};
use crate::agent::run::Run;

/// What the page needs lies beside it.
const AT: &str = "";

/// The call that waits, with the buttons; or what was decided about it.
pub(super) fn call_page(run: &Run, approval: &str) -> Response {
    let approvals = run.approvals();
    let Some(waiting) = approvals.waits(approval).filter(|_| run.reply().is_none()) else {
        let decided = approvals.decided(approval).map_or("nobody decided about it", |past| past.verdict.as_str());
        return answer_page(StatusCode::OK, &format!("This call does not wait any more: {decided}."));
    };
    let Some((tool, arguments, _)) = run.planned(&waiting.call.call_id) else {
        return answer_page(StatusCode::OK, "This call does not wait any more.");
    };
    let arguments = serde_json::to_string_pretty(&Value::Object(arguments.clone())).unwrap_or_default();
    let read = approvals.read_before().join(", ");
    let rows = [
        ("Tool", tool.name.as_str()),
        ("Connection", tool.connection.as_str()),
        ("Effect", tool.effect.as_str()),
        ("For", run.job().identifier.as_str()),
        ("Job", &run.job().id().to_string()),
        ("Read before", if read.is_empty() { "nothing" } else { &read }),
        ("Waits until", &waiting.until.strftime("%Y-%m-%d %H:%M UTC").to_string()),
    ];
    page(
        StatusCode::OK,
        &html! {
            h1 { "Shall this call be made?" }
            dl.facts { @for (name, text) in rows { div { dt { (name) } dd { (Shown(text)) } } } }
            h2 { "Arguments" }
            pre tabindex="0" { (Shown(&arguments)) }
            form.buttons method="post" {
                button.main name="decision" value="approve" { "Approve" }
                button name="decision" value="deny" { "Deny" }
            }
        },
    )
}

/// A sentence.
pub(super) fn answer_page(status: StatusCode, sentence: &str) -> Response {
    page(status, &html! { h1 { "Approval" } p { (Shown(sentence)) } })
}

/// Its address is a secret, which goes nowhere, and it has no script.
fn page(status: StatusCode, content: &Markup) -> Response {
    const POLICY: HeaderValue = HeaderValue::from_static(
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    );
    let mut answer = plain_page(status, "Approval", AT, content);
    let headers = answer.headers_mut();
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY);
    answer
}
