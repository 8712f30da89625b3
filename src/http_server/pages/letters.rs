//! Dead letters, as far as the pages show them.

use jiff::Timestamp;
use maud::{Markup, html};

use super::calls::job_address;
use super::frame::{Shown, nothing, time};
use super::is_unlimited;
use super::session::Viewer;
use crate::http_server::Endpoints;
use crate::job::{Identifier, Job};
use crate::queue::Message;
use crate::worker::message::dead_letter::{DEAD_AT, DEAD_DETAIL, DEAD_REASON, DEAD_STEP};

/// To look at letters they are taken from the queue for a moment, bodies included: more than so many are not.
const MOST: u32 = 200;

/// The dead letters.
pub(super) enum Letters {
    /// There is no broker.
    NoBroker,
    /// They cannot be told, and why.
    Unknown(String),
    /// So many.
    Counted(u32),
    /// All of them.
    Listed(Vec<ShownLetter>),
}

/// A dead letter.
pub(super) struct ShownLetter {
    id: Option<String>,
    identifier: Option<Identifier>,
    at: Option<Timestamp>,
    reason: String,
    detail: Option<String>,
    step: Option<String>,
}

impl Letters {
    /// Counted, or looked through where that is wanted.
    pub(super) async fn of(facts: &Endpoints, viewer: &Viewer<'_>, looked_through: bool) -> Self {
        let Some(queue) = &facts.pages.dead_letters else { return Self::NoBroker };
        let count = match queue.count().await {
            Ok(count) => count,
            Err(error) => return Self::Unknown(error.to_string()),
        };
        // Whose letter it is only its own bytes tell.
        if !looked_through || count > MOST || !is_unlimited(facts, viewer) {
            return Self::Counted(count);
        }
        match queue.take(|_| true).await {
            Ok(letters) => Self::Listed(letters.iter().map(|letter| ShownLetter::of(&letter.message)).collect()),
            Err(error) => Self::Unknown(error.to_string()),
        }
    }
}

impl ShownLetter {
    fn of(message: &Message) -> Self {
        let header = |name: &str| message.properties.headers.get(name).filter(|text| !text.is_empty()).cloned();
        let job = Job::from_slice(&message.body, &message.envelope(), usize::MAX).ok();
        let by_broker = header("x-first-death-reason").map(|reason| format!("broker: {reason}"));
        Self {
            id: job.as_ref().map(|job| job.id().to_string()).or_else(|| message.properties.message_id.clone()),
            identifier: job.map(|job| job.identifier),
            at: header(DEAD_AT).and_then(|at| at.parse().ok()).or(message.properties.timestamp),
            reason: header(DEAD_REASON).or(by_broker).unwrap_or_else(|| "put there by somebody else".to_owned()),
            detail: header(DEAD_DETAIL),
            step: header(DEAD_STEP),
        }
    }
}

/// The dead letters in the inbox.
pub(super) fn letters_part(letters: &Letters) -> Markup {
    html! {
        section data-part=[(!matches!(letters, Letters::Listed(_))).then_some("letters")] aria-labelledby="letters" {
            h2 #letters { "Dead letters" }
            @match letters {
                Letters::NoBroker => (nothing("This worker has no broker, and so no queue of dead letters.")),
                Letters::Unknown(why) => p.trouble { "They cannot be told now: " (Shown(why)) },
                Letters::Counted(0) => (nothing("No message was given up.")),
                Letters::Counted(count) => {
                    p { strong { (count) } " in the queue. "
                        @if *count <= MOST { a href="inbox?letters=1#letters" { "Look through them" } }
                        @else { "More than " (MOST) " are listed by " code { "agentkit-worker dead list" } " only." }
                    }
                },
                Letters::Listed(letters) if letters.is_empty() => (nothing("No message was given up.")),
                Letters::Listed(letters) => (table(letters)),
            }
        }
    }
}

fn table(letters: &[ShownLetter]) -> Markup {
    html! {
        p.hint { "To let one run again: " code { "agentkit-worker dead replay ID" } "; to throw it away: " code { "dead drop ID" } "." }
        table.rows {
            thead { tr { th scope="col" { "Job" } th scope="col" { "For" } th scope="col" { "Given up" } th scope="col" { "Why" } th scope="col" { "It was at" } } }
            tbody {
                @for letter in letters {
                    tr {
                        td data-label="Job" {
                            @match &letter.id { Some(id) => a href=(job_address(id)) { (Shown(id)) }, None => "no job" }
                        }
                        td data-label="For" { (or_unknown(letter.identifier.as_ref().map(Identifier::as_str))) }
                        td data-label="Given up" { @match letter.at { Some(at) => (time(at)), None => "not known" } }
                        td data-label="Why" {
                            (Shown(&letter.reason))
                            @if let Some(detail) = &letter.detail { br; span.hint { (Shown(detail)) } }
                        }
                        td data-label="It was at" { (or_unknown(letter.step.as_deref())) }
                    }
                }
            }
        }
    }
}

fn or_unknown(text: Option<&str>) -> Markup {
    html! { @match text { Some(text) => (Shown(text)), None => "not known" } }
}
