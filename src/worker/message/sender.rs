//! Who sent a message, where the operator says who may: the broker vouches for the user of each.

use super::fresh::was_handed_on;
use super::scheduled::is_scheduled;
use super::signature::HeaderKey;
use super::version::without_our_headers;
use super::wake_up::WakeUp;
use crate::producers::{Producer, Producers};
use crate::queue::{Message, PRODUCER, Properties};

/// Header: the user of the broker who sent the job, where that is none of ours; empty where the broker vouches for nobody.
/// It goes along with every copy that is made of the message.
pub(super) const SENDER: &str = "x-agentkit-sender";

/// Who may send what, and who the worker is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Senders {
    /// What the operator says of others.
    pub producers: Producers,
    /// The broker's user that the worker is, where producers are asked for.
    pub user: Option<String>,
}

/// Who sent a job.
pub(crate) enum SentBy<'m> {
    /// The operator, by the worker's own user.
    Operator,
    /// This user of the broker, if the broker vouches for any.
    User(Option<&'m str>),
    /// The holder of this token, by HTTP. The message that the worker makes of it is its own, and says whose job it brings.
    Token(&'m str),
}

impl Senders {
    /// A message as it is to be read. What only the worker says of a message counts where the broker vouches that the worker
    /// has published it, once it is asked to, and where a worker has signed it: one that was not told of producers yet, or
    /// is not any more. Beside that it says whose job it brings, by the header [`PRODUCER`].
    pub(crate) fn believed(&self, mut message: Message, key: &HeaderKey) -> Message {
        if !self.producers.is_on() {
            if message.properties.headers.contains_key(PRODUCER) && !key.has_signed(&message) {
                message.properties.headers.remove(PRODUCER);
            }
            return message;
        }
        let user = message.properties.user_id.clone().unwrap_or_default();
        if self.is_own(&message) {
            let headers = &message.properties.headers;
            // What a worker has looked at before says whose it is, or is nobody's, as a scheduler's is.
            let is_known = [SENDER, PRODUCER].iter().any(|header| headers.contains_key(*header));
            if is_known || was_handed_on(&message) || WakeUp::of(&message).is_some() || key.has_signed(&message) {
                return message;
            }
        } else if key.has_signed(&message) {
            return message;
        } else {
            message = without_our_headers(message);
            message.properties.headers.insert(SENDER.to_owned(), user.clone());
        }
        let producer = self.producers.of_user(&user).map(|(name, _)| Properties::producer_header(name));
        message.properties.headers.extend(producer);
        message
    }

    /// The same of a dead letter that an operator sends again: one that nobody vouches for, sent before anybody was asked to,
    /// is the operator's.
    pub(crate) fn believed_of_letter(&self, mut letter: Message, key: &HeaderKey) -> Message {
        if self.producers.is_on() && letter.properties.user_id.is_none() && !key.has_signed(&letter) {
            letter.properties.headers.retain(|name, _| ![SENDER, PRODUCER].contains(&name.as_str()));
            return letter;
        }
        self.believed(letter, key)
    }

    /// The producer that sent something, by its name.
    pub(crate) fn producer(&self, sent_by: &SentBy<'_>) -> Option<(&str, &Producer)> {
        match *sent_by {
            SentBy::Operator => None,
            SentBy::User(user) => self.producers.of_user(user?),
            SentBy::Token(token) => self.producers.of_token(token),
        }
    }

    /// Whether replies to who sent something may go to `queue`.
    pub(crate) fn may_be_answered_at(&self, sent_by: &SentBy<'_>, queue: &str) -> bool {
        match sent_by {
            SentBy::Operator => true,
            _ => self.producers.may_answer(self.producer(sent_by).map(|(_, producer)| producer), queue),
        }
    }

    /// Who sent a message that is [`Senders::believed`].
    pub(crate) fn of<'m>(&self, message: &'m Message) -> SentBy<'m> {
        let Properties { headers, user_id, .. } = &message.properties;
        match (headers.get(SENDER), user_id) {
            _ if !self.producers.is_on() => SentBy::Operator,
            (Some(user), _) => SentBy::User(Some(user.as_str()).filter(|user| !user.is_empty())),
            (None, _) if is_scheduled(message) => SentBy::Operator,
            // A producer may be the worker's own user, where the operator says so.
            (None, Some(user)) if self.producers.of_user(user).is_some() => SentBy::User(Some(user)),
            (None, _) => SentBy::Operator,
        }
    }

    /// Whether the worker published the message.
    pub(crate) fn is_own(&self, message: &Message) -> bool {
        self.user.is_some() && self.user == message.properties.user_id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::message::fresh::handed_on;
    use crate::worker::message::wake_up::{Reason, WakeUp};

    const NAMED: &str = "[producers.billing]\namqp_users = [\"b\"]\n[producers.shipping]\namqp_users = [\"s\"]\n";

    fn senders(producers: &str) -> Senders {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, producers).unwrap();
        Senders { producers: Producers::load(file.path()).unwrap(), user: Some("worker".to_owned()) }
    }

    fn message(user: Option<&str>, headers: &[(&str, &str)]) -> Message {
        let mut message = Message { body: "{}".into(), ..Message::default() };
        message.properties.user_id = user.map(str::to_owned);
        message.properties.headers =
            headers.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        message
    }

    fn key() -> HeaderKey {
        HeaderKey::of(&"a secret".to_owned().into())
    }

    /// Whose job it is, as it is read.
    fn owner(senders: &Senders, message: Message) -> Option<String> {
        senders.believed(message, &key()).properties.headers.get(PRODUCER).cloned()
    }

    #[test]
    fn a_job_is_its_producers_and_no_header_makes_it_anybody_elses() {
        let (named, off) = (senders(NAMED), Senders::default());
        let lie = [(PRODUCER, "shipping"), (SENDER, "s"), ("x-agentkit-turn", "3")];
        for headers in [&lie[..], &[]] {
            assert_eq!(owner(&named, message(Some("b"), headers)).as_deref(), Some("billing"));
            assert_eq!(owner(&named, message(Some("nobody"), headers)), None);
            assert_eq!(owner(&named, message(None, headers)), None);
            assert_eq!(owner(&off, message(Some("b"), headers)), None);
        }
        assert_eq!(owner(&named, message(Some("worker"), &[])), None, "the operator's");
        let sent = message(Some("b"), &[]);
        assert_eq!(off.believed(sent.clone(), &key()), sent);
    }

    #[test]
    fn what_a_worker_has_looked_at_says_itself_whose_it_is() {
        let (named, off) = (senders(NAMED), Senders::default());
        let taken = named.believed(message(Some("b"), &[]), &key());
        let mut wake_up = WakeUp { generation: 1, ..WakeUp::new(Reason::Continue) }.stamp(&taken);
        wake_up.properties.user_id = None;
        key().sign(&mut wake_up);
        let own = |message: &Message| {
            let mut message = message.clone();
            message.properties.user_id = Some("worker".to_owned());
            message
        };
        for copy in [&own(&wake_up), &own(&handed_on(&taken, false))] {
            assert_eq!(owner(&named, copy.clone()).as_deref(), Some("billing"));
        }
        // Signed, it counts where nobody is asked who published it, and with its owner alone.
        for senders in [&named, &off] {
            assert_eq!(owner(senders, wake_up.clone()).as_deref(), Some("billing"));
            let mut changed = wake_up.clone();
            changed.properties.headers.insert(PRODUCER.to_owned(), "shipping".to_owned());
            assert_eq!(owner(senders, changed), None);
        }
        let mut before = WakeUp { generation: 1, ..WakeUp::new(Reason::Continue) }.stamp(&message(None, &[]));
        key().sign(&mut before);
        assert_eq!(named.believed(before.clone(), &key()), before, "from before producers were named");
        // A producer that is the worker's own user has jobs, and what a worker made for nobody stays nobody's.
        let mixed = senders("[producers.all]\namqp_users = [\"worker\"]\n");
        assert_eq!(owner(&mixed, message(Some("worker"), &[])).as_deref(), Some("all"));
        assert_eq!(owner(&mixed, own(&before)), None);
    }

    #[test]
    fn a_letter_that_an_operator_sends_again_is_nobodys_to_forge() {
        let named = senders(NAMED);
        let headers = [(PRODUCER, "shipping"), (SENDER, "s"), ("x-agentkit-turn", "3")];
        let taken = named.believed_of_letter(message(None, &headers), &key());
        assert_eq!(taken, message(None, &headers[2..]), "from before anybody was asked");
        let taken = named.believed_of_letter(message(Some("b"), &headers), &key());
        assert_eq!(taken, message(Some("b"), &[(PRODUCER, "billing"), (SENDER, "b")]));
    }
}
