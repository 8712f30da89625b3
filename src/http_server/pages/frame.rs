//! What all pages have in common: their head and navigation, and how text from elsewhere is shown.

use std::fmt::Display;

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use maud::{DOCTYPE, Markup, Render, html};

use super::session::Viewer;
use crate::text::is_invisible;

/// The look of all pages; light and dark.
pub(in crate::http_server) const LOOK: &str = include_str!("look.css");
/// Renews what a page shows.
pub(super) const LIVE: &str = include_str!("live.js");
/// The mark in a browser's tab.
pub(in crate::http_server) const MARK: &str = include_str!("mark.svg");

/// A page may load what is ours, be framed by nobody, be kept by nobody. Browsers say of its forms, and to nobody else, where
/// they come from.
const HEADERS: [(HeaderName, &str); 7] = [
    (header::CONTENT_TYPE, "text/html; charset=utf-8"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; \
         frame-ancestors 'none'; base-uri 'none'",
    ),
    (header::REFERRER_POLICY, "same-origin"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("x-robots-tag"), "noindex, nofollow"),
];

/// Text from elsewhere: nothing in it is markup, and nothing hidden.
pub(in crate::http_server) struct Shown<T>(pub(in crate::http_server) T);

impl<T: Display> Render for Shown<T> {
    fn render_to(&self, buffer: &mut String) {
        for character in self.0.to_string().chars() {
            match character {
                '&' => buffer.push_str("&amp;"),
                '<' => buffer.push_str("&lt;"),
                '>' => buffer.push_str("&gt;"),
                '"' => buffer.push_str("&quot;"),
                '\'' => buffer.push_str("&#39;"),
                '\n' => buffer.push('\n'),
                hidden if hidden.is_control() || is_invisible(hidden) => buffer.extend(hidden.escape_unicode()),
                other => buffer.push(other),
            }
        }
    }
}

/// A time, for people and for machines.
pub(super) fn time(at: Timestamp) -> Markup {
    html! { time datetime=(at.to_string()) { (at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()) } }
}

/// The same of something that follows another: the day is said where it is a new one.
pub(super) fn time_after(before: Option<Timestamp>, at: Timestamp) -> Markup {
    let day = |at: Timestamp| at.as_second().div_euclid(86_400);
    if before.is_none_or(|before| day(before) != day(at)) {
        return time(at);
    }
    html! { time datetime=(at.to_string()) { (at.strftime("%H:%M:%S").to_string()) } }
}

/// The time between two, in the two largest units that matter: `3 h 20 min`.
pub(super) fn span(from: Timestamp, to: Timestamp) -> String {
    let seconds = to.as_second().saturating_sub(from.as_second()).max(0);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// The places of the navigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    Now,
    Inbox,
    Jobs,
    Digests,
    Doctor,
}

impl Section {
    pub(super) const ALL: [Self; 5] = [Self::Now, Self::Inbox, Self::Jobs, Self::Digests, Self::Doctor];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Now => "Now",
            Self::Inbox => "Inbox",
            Self::Jobs => "Jobs",
            Self::Digests => "Digests",
            Self::Doctor => "Doctor",
        }
    }

    /// Relative: all pages are side by side, wherever a proxy puts them.
    pub(super) fn address(self) -> &'static str {
        match self {
            Self::Now => "./",
            Self::Inbox => "inbox",
            Self::Jobs => "jobs",
            Self::Digests => "digests",
            Self::Doctor => "doctor",
        }
    }
}

/// A page of whoever is signed in. `live`: whether it renews itself.
pub(super) fn page(viewer: &Viewer<'_>, here: Section, title: &str, live: bool, content: &Markup) -> Response {
    let body = html! {
        a.skip href="#content" { "To the content" }
        header.top {
            p.name { a href="./" { "agentkit-worker" } }
            nav aria-label="Pages" {
                @for place in Section::ALL {
                    a href=(place.address()) aria-current=[(place == here).then_some("page")] { (place.name()) }
                }
            }
            div.who {
                @if live { button #live type="button" hidden { "Pause" } }
                form method="post" action="sign-out" {
                    (form_token(viewer))
                    span { (Shown(&viewer.holder.name)) }
                    button.quiet { "Sign out" }
                }
            }
        }
        main #content tabindex="-1" data-live=[live.then_some("")] {
            h1 { (Shown(title)) }
            (content)
        }
        p #stale role="status" hidden {}
    };
    document(StatusCode::OK, title, "", live, &body)
}

/// A page without navigation, for whoever is not signed in. `at`: where the files that it needs are, seen from it.
pub(in crate::http_server) fn plain_page(status: StatusCode, title: &str, at: &str, content: &Markup) -> Response {
    let body = html! {
        main.alone #content {
            p.name { "agentkit-worker" }
            (content)
        }
    };
    document(status, title, at, false, &body)
}

/// A sentence about what was asked for and is not there, or not done.
pub(super) fn sentence(viewer: &Viewer<'_>, here: Section, status: StatusCode, words: &str) -> Response {
    let content = html! {
        p.said role="alert" { (Shown(words)) }
        p { a href=(here.address()) { "Back to " (here.name()) } }
    };
    let mut answer = page(viewer, here, here.name(), false, &content);
    *answer.status_mut() = status;
    answer
}

/// What a form must carry.
pub(super) fn form_token(viewer: &Viewer<'_>) -> Markup {
    html! { input type="hidden" name="form_token" value=(viewer.form_token()); }
}

/// Says in words that something has nothing to show.
pub(super) fn nothing(words: &str) -> Markup {
    html! { p.nothing { (Shown(words)) } }
}

fn document(status: StatusCode, title: &str, at: &str, live: bool, body: &Markup) -> Response {
    let document = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (Shown(title)) " · agentkit-worker" }
                link rel="icon" type="image/svg+xml" href=(format!("{at}page.svg"));
                link rel="stylesheet" href=(format!("{at}page.css"));
                @if live { script src="page.js" defer {} }
            }
            body { (body) }
        }
    };
    (status, HEADERS, document.into_string()).into_response()
}

/// A file that pages need.
pub(in crate::http_server) fn look() -> Response {
    file("text/css; charset=utf-8", LOOK)
}

/// The same.
pub(in crate::http_server) fn mark() -> Response {
    file("image/svg+xml", MARK)
}

/// The same.
pub(super) fn live() -> Response {
    file("text/javascript; charset=utf-8", LIVE)
}

fn file(kind: &'static str, text: &'static str) -> Response {
    // Asked for again with each page: a new version's page must not get an old one's look.
    ([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_elsewhere_is_neither_markup_nor_hidden() {
        let shown = |text: &str| Shown(text).render().into_string();
        assert_eq!(shown("<b a=\"1\">'&\n"), "&lt;b a=&quot;1&quot;&gt;&#39;&amp;\n");
        assert_eq!(shown("a\u{202E}b\u{0}\u{E0041}"), "a\\u{202e}b\\u{0}\\u{e0041}");
        assert_eq!(shown("\u{AD}\u{61C}\u{E0100}"), "\\u{ad}\\u{61c}\\u{e0100}");
    }

    #[test]
    fn a_span_is_told_in_two_units_and_is_never_negative() {
        let at = |second| Timestamp::from_second(second).unwrap();
        for (seconds, words) in [(-5, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (7500, "2 h 5 min"), (90_000, "1 d 1 h")]
        {
            assert_eq!(span(at(0), at(seconds)), words);
        }
    }
}
