//! Who sent a message, where the operator says who may: the broker vouches for the user of each.

use super::version::without_our_headers;
use crate::producers::Producers;
use crate::queue::{Message, Properties};

/// Header: the user of the broker who sent the job, where that is none of ours; empty where the broker vouches for nobody.
/// It goes along with every copy that is made of the message.
const SENDER: &str = "x-agentkit-sender";

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
}

impl Senders {
    /// A message as it is to be read: what only the worker says of a message counts where the broker vouches that the worker
    /// has published it, once it is asked to.
    pub(crate) fn believed(&self, message: Message) -> Message {
        if !self.producers.is_on() || self.is_own(&message) {
            return message;
        }
        let sender = message.properties.user_id.clone().unwrap_or_default();
        let mut message = without_our_headers(message);
        message.properties.headers.insert(SENDER.to_owned(), sender);
        message
    }

    /// Who sent a message that is [`Senders::believed`].
    pub(crate) fn of<'m>(&self, message: &'m Message) -> SentBy<'m> {
        let Properties { headers, user_id, .. } = &message.properties;
        match (headers.get(SENDER), user_id) {
            _ if !self.producers.is_on() => SentBy::Operator,
            (Some(user), _) => SentBy::User(Some(user.as_str()).filter(|user| !user.is_empty())),
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
