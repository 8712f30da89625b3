//! Dead letters: messages that are given up, each with its reason, for a person to look at.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use super::wake_up::{Reason, WakeUp};
use crate::agent::event::GivenUp;
use crate::encryption::{Binding, DecryptError, Encryption, key_of};
use crate::job::Job;
use crate::key::digest;
use crate::queue::{Delivery, Message, QueueError};

/// Header of a dead letter: why it was given up.
pub(crate) const DEAD_REASON: &str = "x-agentkit-dead-reason";
/// Header of a dead letter: how often it was tried.
pub(crate) const DEAD_ATTEMPTS: &str = "x-agentkit-dead-attempts";
/// Header of a dead letter: the last step that is known.
pub(crate) const DEAD_STEP: &str = "x-agentkit-dead-step";
/// Header of a dead letter: what went wrong, for people.
pub(crate) const DEAD_DETAIL: &str = "x-agentkit-dead-detail";
/// Header of a dead letter: when it was given up (RFC 3339).
pub(crate) const DEAD_AT: &str = "x-agentkit-dead-at";

/// Header of a dead letter that is encrypted: the id of its key.
pub(crate) const DEAD_KEY: &str = "x-agentkit-dead-key";
/// Header of a dead letter that is encrypted: its id, as it is read from the body of others.
const DEAD_ID: &str = "x-agentkit-dead-id";

/// Header of the broker's: how often, where and why it dead-lettered the message.
const DEATHS: &str = "x-death";
/// Characters of a letter's detail.
const LONGEST_DETAIL: usize = 500;

/// Why a message is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeadLetterReason {
    /// Its bytes are not a job.
    InvalidJob,
    /// Its producer may not send it.
    ProducerNotAllowed,
    /// Its run's workers died, one after another.
    Poison,
    /// It was delivered so often that the broker would drop it soon.
    DeliveryLimit,
    /// Its run's journal says what cannot be.
    DamagedJournal,
    /// Its headers, which nobody signed, say what its run's journal does not know.
    Unfounded,
}

impl DeadLetterReason {
    /// As in the header and in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::InvalidJob => "invalid_job",
            Self::ProducerNotAllowed => "producer_not_allowed",
            Self::Poison => "poison",
            Self::DeliveryLimit => "delivery_limit",
            Self::DamagedJournal => "damaged_journal",
            Self::Unfounded => "unfounded",
        }
    }
}

/// The letter is sent again, or thrown away.
pub(crate) async fn removed(letter: Delivery) -> Result<(), QueueError> {
    letter.ack().await
}

/// Whether the broker made this letter because the job queue's delivery limit was reached. Not where it did so again with one
/// that came from here: that message is left to people.
pub(crate) fn is_from_the_broker(letter: &Message) -> bool {
    let headers = &letter.properties.headers;
    let deaths: Vec<Value> = headers.get(DEATHS).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    !headers.contains_key(DEAD_REASON)
        && deaths.iter().any(|death| death["reason"] == DeadLetterReason::DeliveryLimit.as_str())
        && WakeUp::of(letter).is_none_or(|wake_up| wake_up.reason != Reason::DeliveryLimit)
}

/// `letter` with the headers that say why it was given up, after how many attempts, and when.
pub(crate) fn dead_letter(mut letter: Message, why: &GivenUp, attempts: u32, now: Timestamp) -> Message {
    let detail = why.detail.chars().filter(|character| !character.is_control()).take(LONGEST_DETAIL).collect();
    letter.properties.headers.extend([
        (DEAD_REASON.to_owned(), why.reason.clone()),
        (DEAD_ATTEMPTS.to_owned(), attempts.to_string()),
        (DEAD_STEP.to_owned(), why.step.clone()),
        (DEAD_DETAIL.to_owned(), detail),
        (DEAD_AT.to_owned(), now.to_string()),
    ]);
    letter
}

/// What a letter is called: the job's id where the body is a job, else what else names the message.
pub(crate) fn letter_id(letter: &Message) -> String {
    if let Some(id) = letter.properties.headers.get(DEAD_ID).filter(|_| is_encrypted(letter)) {
        return id.clone();
    }
    let id = match Job::from_slice(&letter.body, &letter.envelope(), usize::MAX) {
        Ok(job) => Some(job.id()),
        Err(invalid) => invalid.id,
    };
    let named = letter.properties.message_id.clone().filter(|id| !id.is_empty());
    id.map(|id| id.to_string()).or(named).unwrap_or_else(|| digest(&letter.body, 8))
}

/// `letter` with its body and its detail encrypted, where there is a key to encrypt with. What `dead list` shows besides stays
/// as it is.
pub(crate) fn encrypted(mut letter: Message, encryption: &Encryption) -> Message {
    let Some(key) = encryption.key() else { return letter };
    let id = letter_id(&letter);
    letter.body = encryption.encrypt(&place("dead", &id), &letter.body).into_owned().into();
    let headers = &mut letter.properties.headers;
    if let Some(detail) = headers.get_mut(DEAD_DETAIL) {
        *detail = STANDARD.encode(encryption.encrypt(&place("dead-detail", &id), detail.as_bytes()));
    }
    headers.extend([(DEAD_KEY.to_owned(), key.to_string()), (DEAD_ID.to_owned(), id)]);
    letter
}

/// `letter` as it was before it was encrypted, if it was.
///
/// # Errors
/// Without the key, or where it was changed since.
pub(crate) fn decrypted(mut letter: Message, encryption: &Encryption) -> Result<Message, DecryptError> {
    if !is_encrypted(&letter) {
        return Ok(letter);
    }
    let id = letter_id(&letter);
    letter.body = encryption.decrypt(|| place("dead", &id), letter.body.into())?.into();
    let headers = &mut letter.properties.headers;
    if let Some(detail) = headers.get_mut(DEAD_DETAIL) {
        let bytes = STANDARD.decode(&*detail).map_err(|_| DecryptError::Cut)?;
        let bytes = encryption.decrypt(|| place("dead-detail", &id), bytes)?;
        *detail = String::from_utf8_lossy(&bytes).into_owned();
    }
    headers.retain(|name, _| ![DEAD_KEY, DEAD_ID].contains(&name.as_str()));
    Ok(letter)
}

/// Not by a header alone, which anybody may write.
fn is_encrypted(letter: &Message) -> bool {
    letter.properties.headers.contains_key(DEAD_KEY) && !matches!(key_of(&letter.body), Ok(None))
}

fn place(kind: &str, id: &str) -> Binding {
    Binding::new(kind, &[id])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_letter_that_the_broker_made_and_no_worker_has_dealt_with_is_answered_for() {
        let letter = |headers: &[(&str, &str)]| {
            let mut message = Message::default();
            message.properties.headers =
                headers.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
            is_from_the_broker(&message)
        };
        let limit = r#"[{"reason": "delivery_limit", "queue": "agentkit.jobs"}, {"reason": "expired"}]"#;
        assert!(letter(&[("x-death", limit)]));
        assert!(letter(&[("x-death", limit), ("x-agentkit-turn", "3"), ("x-agentkit-reason", "continue")]));
        assert!(!letter(&[("x-death", limit), ("x-agentkit-turn", "3"), ("x-agentkit-reason", "delivery_limit")]));
        assert!(!letter(&[("x-death", limit), (DEAD_REASON, "poison")]));
        for deaths in ["", "[]", "{", r#"[{"reason": "expired"}]"#] {
            assert!(!letter(&[("x-death", deaths)]), "{deaths}");
        }
        assert!(!letter(&[]));
    }

    #[test]
    fn a_letter_is_what_it_was_once_it_is_decrypted_and_its_id_and_reason_are_read_without_the_key() {
        let key = |byte: u8| Encryption::new(&STANDARD.encode([byte; 32]).into()).unwrap();
        let why = GivenUp { reason: "poison".into(), detail: "said: secret".into(), step: "called x".into() };
        for (body, id) in [
            (r#"{"id": "a", "identifier": "u", "connections": ["gmail"], "prompt": "secret"}"#, "a"),
            ("secret", "named"),
        ] {
            let mut message = Message { body: body.into(), ..Message::default() };
            message.properties.message_id = Some("named".into());
            let letter = dead_letter(message, &why, 3, Timestamp::UNIX_EPOCH);
            assert_eq!(encrypted(letter.clone(), &Encryption::default()), letter);
            let kept = encrypted(letter.clone(), &key(1));
            assert!(!format!("{kept:?}").contains("secret"), "{kept:?}");
            assert_eq!((letter_id(&letter).as_str(), letter_id(&kept).as_str()), (id, id));
            assert_eq!(kept.properties.headers[DEAD_REASON], "poison");
            assert_eq!(kept.properties.headers[DEAD_KEY], key(1).key().unwrap().to_string());
            assert_eq!(decrypted(kept.clone(), &key(1)).unwrap(), letter);
            assert_eq!(decrypted(kept.clone(), &key(2)), Err(DecryptError::UnknownKey(key(1).key().unwrap())));
            let mut elsewhere = kept;
            elsewhere.properties.headers.insert(DEAD_ID.into(), "other".into());
            assert_eq!(decrypted(elsewhere, &key(1)), Err(DecryptError::Forged(key(1).key().unwrap())));
        }
    }

    #[test]
    fn a_letter_that_only_says_that_it_is_encrypted_is_read_as_it_is() {
        let mut letter = Message { body: "{}".into(), ..Message::default() };
        letter.properties.headers.extend([DEAD_KEY, DEAD_ID].map(|name| (name.to_owned(), "x".to_owned())));
        assert_eq!(decrypted(letter.clone(), &Encryption::default()).unwrap(), letter);
        assert_ne!(letter_id(&letter), "x");
    }
}
