//! The page behind a link: the call in full, and two buttons. No script, nothing from elsewhere.

use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use crate::agent::run::Run;
use crate::text::is_invisible;

/// A page may load nothing, be framed by nobody, be kept by nobody, and tells nobody where it is.
const HEADERS: [(HeaderName, &str); 7] = [
    (header::CONTENT_TYPE, "text/html; charset=utf-8"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("x-robots-tag"), "noindex, nofollow"),
];

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
    let rows = rows.map(|(name, text)| format!("<tr><th>{name}</th><td>{}</td></tr>", escape(text))).concat();
    let body = format!(
        "<h1>Shall this call be made?</h1><table>{rows}</table><h2>Arguments</h2><pre>{}</pre>\
         <form method=\"post\"><button name=\"decision\" value=\"approve\">Approve</button> \
         <button name=\"decision\" value=\"deny\">Deny</button></form>",
        escape(&arguments)
    );
    html(StatusCode::OK, &body)
}

/// A sentence.
pub(super) fn answer_page(status: StatusCode, sentence: &str) -> Response {
    html(status, &format!("<p>{}</p>", escape(sentence)))
}

fn html(status: StatusCode, body: &str) -> Response {
    let page = format!("<!doctype html><html lang=\"en\"><title>Approval</title><body>{body}</body></html>\n");
    (status, HEADERS, page).into_response()
}

/// Text from elsewhere: nothing in it is markup, and nothing hidden.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' => escaped.push('\n'),
            hidden if hidden.is_control() || is_invisible(hidden) => escaped.extend(hidden.escape_unicode()),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_elsewhere_is_neither_markup_nor_hidden() {
        assert_eq!(escape("<b a=\"1\">'&\n"), "&lt;b a=&quot;1&quot;&gt;&#39;&amp;\n");
        assert_eq!(escape("a\u{202E}b\u{0}\u{E0041}"), "a\\u{202e}b\\u{0}\\u{e0041}");
        assert_eq!(escape("\u{AD}\u{61C}\u{E0100}"), "\\u{ad}\\u{61c}\\u{e0100}");
    }
}
