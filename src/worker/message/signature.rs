//! Who wrote the headers of a message that are ours: workers sign them, and what nobody signed is not believed.
//!
//! Whoever may publish to the job queue can write such headers himself, and what earlier versions of the worker left behind
//! has no signature either. So a message without a good one is marked when it comes in ([`HeaderKey::examine`]), and so is
//! every copy that is made of it, until the journal of its run is known. Then it may say no more than the journal says
//! ([`super::founded`]). The most that forged headers can do, and to their own job alone:
//!
//! - let it wait: until `due`, if that is within [`super::wake_up::LONGEST_WAIT`]; a little longer than a lease, where it says
//!   that the run was seen alive; a day, where it needs a newer worker or is no job;
//! - have it refused, with a reply and a dead letter, where it says that something was done of which no journal knows.
//!
//! A copy of a job whose run lives or has ended changes nothing in it, whatever it says.
//!
//! The key is made of the secret that all workers of a fleet have in common anyway, Scalekit's. While that is replaced, the
//! messages of the others count as unsigned: runs go on by their journals, and what a lost journal had done is refused.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;

use super::fresh::{DELIVERIES, HANDED_ON};
use super::scheduled::SCHEDULED;
use super::sender::SENDER;
use super::wake_up;
use crate::queue::{Message, PRODUCER};

/// Header: the signature of the headers below, for this message alone.
const SIGNATURE: &str = "x-agentkit-signature";
/// Header: what the message says of its run comes from one that nobody signed.
pub(super) const UNPROVEN: &str = "x-agentkit-unproven";
/// How a signature of this kind begins.
const KIND: &str = "v1,";
/// What the key is good for, and nothing else.
const PURPOSE: &[u8] = b"agentkit-worker: headers of messages, v1";
/// What a worker says of a delivery.
const OF_DELIVERIES: [&str; 2] = [HANDED_ON, DELIVERIES];
/// Whose job a message brings: signed beside what is said of its run.
const OF_OWNERS: [&str; 2] = [SENDER, PRODUCER];

/// Signs headers, and knows its signature.
#[derive(Clone)]
pub struct HeaderKey(Hmac<Sha256>);

impl fmt::Debug for HeaderKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("HeaderKey")
    }
}

impl HeaderKey {
    /// The key of all who know `secret`.
    pub fn of(secret: &SecretString) -> Self {
        let key = keyed(secret.expose_secret().as_bytes()).chain_update(PURPOSE).finalize().into_bytes();
        Self(keyed(&key))
    }

    /// Signs what `message` says, if it says anything.
    pub fn sign(&self, message: &mut Message) {
        let signature = told(message).next().is_some().then(|| self.signature(message).finalize().into_bytes());
        let headers = &mut message.properties.headers;
        headers.remove(SIGNATURE);
        headers.extend(signature.map(|tag| (SIGNATURE.to_owned(), format!("{KIND}{}", STANDARD.encode(tag)))));
    }

    /// Marks a message that says anything which nobody signed, and takes from it what is said of its deliveries, and that it
    /// is a scheduler's.
    pub(crate) fn examine(&self, message: &mut Message) {
        if told(message).next().is_none() || self.has_signed(message) {
            return;
        }
        let headers = &mut message.properties.headers;
        headers.retain(|name, _| !OF_DELIVERIES.contains(&name.as_str()) && name != SCHEDULED);
        headers.insert(UNPROVEN.to_owned(), "1".to_owned());
    }

    /// Signs `parts` for one purpose alone.
    pub(super) fn tag(&self, purpose: &str, parts: &[&str], body: &[u8]) -> String {
        format!("{KIND}{}", STANDARD.encode(self.over(purpose, parts, body).finalize().into_bytes()))
    }

    /// Whether `tag` is the one of these parts.
    pub(super) fn is_tag(&self, tag: &str, purpose: &str, parts: &[&str], body: &[u8]) -> bool {
        let tag = tag.strip_prefix(KIND).and_then(|encoded| STANDARD.decode(encoded).ok());
        tag.is_some_and(|tag| self.over(purpose, parts, body).verify_slice(&tag).is_ok())
    }

    fn over(&self, purpose: &str, parts: &[&str], body: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        for part in [purpose.as_bytes()].into_iter().chain(parts.iter().map(|part| part.as_bytes())).chain([body]) {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }

    /// Whether the message says anything of its run, and holders of the key have signed that.
    pub(crate) fn has_signed(&self, message: &Message) -> bool {
        if told(message).next().is_none() {
            return false;
        }
        let signature = message.properties.headers.get(SIGNATURE).and_then(|text| text.strip_prefix(KIND));
        let tag = signature.and_then(|encoded| STANDARD.decode(encoded).ok());
        tag.is_some_and(|tag| self.signature(message).verify_slice(&tag).is_ok())
    }

    /// Over everything that makes the message this one, each part with its length.
    fn signature(&self, message: &Message) -> Hmac<Sha256> {
        let (properties, mut mac) = (&message.properties, self.0.clone());
        let mut part = |bytes: Option<&[u8]>| {
            let length = bytes.map_or(u64::MAX, |bytes| bytes.len() as u64);
            mac.update(&length.to_be_bytes());
            mac.update(bytes.unwrap_or_default());
        };
        part(Some(&message.body));
        for text in [&properties.message_id, &properties.correlation_id, &properties.reply_to] {
            part(text.as_deref().map(str::as_bytes));
        }
        let owners = properties.headers.iter().filter(|(name, _)| OF_OWNERS.contains(&name.as_str()));
        for (name, value) in told(message).chain(owners) {
            part(Some(name.as_bytes()));
            part(Some(value.as_bytes()));
        }
        mac
    }
}

/// Signs `copy` as `message` was signed: worth nothing where they differ.
pub(super) fn keep_signature(message: &Message, copy: &mut Message) {
    let signature = message.properties.headers.get(SIGNATURE).cloned();
    copy.properties.headers.extend(signature.map(|signature| (SIGNATURE.to_owned(), signature)));
}

/// The signed headers of `message`, always in the same order.
fn told(message: &Message) -> impl Iterator<Item = (&String, &String)> {
    let is_signed = |name: &str| {
        [UNPROVEN, SCHEDULED].contains(&name) || OF_DELIVERIES.contains(&name) || wake_up::HEADERS.contains(&name)
    };
    message.properties.headers.iter().filter(move |(name, _)| is_signed(name))
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("a key of any length will do")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::message::fresh::{deliveries, handed_on, was_redelivered};
    use crate::worker::message::wake_up::{Reason, Trust, WakeUp};

    fn key(secret: &str) -> HeaderKey {
        HeaderKey::of(&secret.to_owned().into())
    }

    fn job() -> Message {
        let mut message = Message { body: "{}".into(), ..Message::default() };
        message.properties.message_id = Some("job-1".to_owned());
        message
    }

    fn wake_up() -> WakeUp {
        WakeUp { generation: 3, effects: true, entries: Some(7), ..WakeUp::new(Reason::Continue) }
    }

    fn trust(key: &HeaderKey, mut message: Message) -> Trust {
        key.examine(&mut message);
        WakeUp::of(&message).unwrap().trust
    }

    #[test]
    fn only_the_very_message_that_was_signed_is_believed() {
        let ours = key("a");
        let mut signed = wake_up().stamp(&job());
        assert_eq!(trust(&ours, signed.clone()), Trust::Unproven, "nobody signed it");
        ours.sign(&mut signed);
        assert_eq!(trust(&ours, signed.clone()), Trust::Ours);
        assert_eq!(trust(&key("b"), signed.clone()), Trust::Unproven);
        let changes: [fn(&mut Message); 8] = [
            |message| message.body = "{ }".into(),
            |message| message.properties.message_id = None,
            |message| message.properties.reply_to = Some(String::new()),
            |message| drop(message.properties.headers.insert("x-agentkit-due".into(), "2030-01-01T00:00:00Z".into())),
            |message| drop(message.properties.headers.insert("x-agentkit-turn".into(), "4".into())),
            |message| drop(message.properties.headers.remove("x-agentkit-effects")),
            |message| drop(message.properties.headers.insert(SIGNATURE.into(), "v1,".into())),
            |message| drop(message.properties.headers.insert(DELIVERIES.into(), "1".into())),
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let mut changed = signed.clone();
            change(&mut changed);
            assert_eq!(trust(&ours, changed), Trust::Unproven, "change {index}");
        }
        signed.properties.headers.insert("x-agentkit-left".into(), "3".into());
        signed.properties.headers.insert("x-delivery-count".into(), "3".into());
        assert_eq!(trust(&ours, signed), Trust::Ours, "those are others' to say");
    }

    #[test]
    fn what_nobody_signed_stays_so_in_every_copy() {
        let ours = key("a");
        let mut forged = wake_up().stamp(&job());
        ours.examine(&mut forged);
        let mut copies =
            [WakeUp { due: None, ..WakeUp::of(&forged).unwrap() }.stamp(&forged), handed_on(&forged, true)];
        for copy in &mut copies {
            ours.sign(copy);
            assert_eq!(trust(&ours, copy.clone()), Trust::Unproven);
        }
        ours.examine(&mut copies[1]);
        assert!(was_redelivered(&copies[1]), "that we say ourselves");
        copies[1].properties.headers.remove(UNPROVEN);
        assert_eq!(trust(&ours, copies[1].clone()), Trust::Unproven, "the mark is signed, too");
    }

    #[test]
    fn a_job_as_its_caller_sent_it_needs_no_signature_and_forged_deliveries_count_nothing() {
        let ours = key("a");
        let mut plain = job();
        ours.sign(&mut plain);
        ours.examine(&mut plain);
        assert_eq!(plain, job());
        let mut forged = job();
        forged.properties.headers =
            [(DELIVERIES.to_owned(), "4294967295".to_owned()), (HANDED_ON.to_owned(), "redelivered".to_owned())].into();
        ours.examine(&mut forged);
        assert_eq!((deliveries(&forged), was_redelivered(&forged)), (0, false));
        let mut ours_own = handed_on(&job(), true);
        ours.sign(&mut ours_own);
        ours.examine(&mut ours_own);
        assert!(was_redelivered(&ours_own));
    }
}
