//! RabbitMQ's management API: asked how many members each queue has, which AMQP does not tell. Nothing needs it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use url::Url;

use crate::http::{Client, Method, Request};
use crate::retry::in_random_order;

/// Longest wait for an answer of the API, which adds up what all nodes say: a node that stands still delays it.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How many nodes have a copy of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QueueMembers {
    /// The queue, with its prefix.
    pub(crate) queue: String,
    /// Nodes that the queue was made on, or grown to. With three it outlives the loss of any one.
    pub(crate) members: usize,
    /// Those of them that are up; the majority must be.
    pub(crate) online: usize,
}

/// Why the members are not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ManagementError {
    /// Status 401 or 403: the user has no tag for it (`rabbitmqctl set_user_tags USER monitoring`), or a wrong password.
    #[error("the management API does not let this user in")]
    Refused,
    /// No answer, or none that can be read.
    #[error("{0}")]
    Unavailable(String),
}

/// The management API of the broker, at one or several of its nodes.
pub(crate) struct Management {
    client: Client,
    addresses: Vec<Url>,
    queues: Vec<String>,
}

#[derive(Deserialize)]
struct Page {
    items: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    name: String,
    /// Classic queues have none.
    #[serde(default)]
    members: Vec<String>,
    #[serde(default)]
    online: Vec<String>,
}

impl Management {
    /// `addresses` are the lists of queues of one virtual host (`…/api/queues/VHOST`), each with its user and password.
    pub(crate) fn new(client: Client, addresses: Vec<Url>, queues: Vec<String>) -> Self {
        Self { client, addresses, queues }
    }

    /// Asks for the members of the queues; those that do not exist are left out. Each address is tried once.
    pub(crate) async fn members(&self) -> Result<Vec<QueueMembers>, ManagementError> {
        let mut failure = ManagementError::Unavailable("no address".to_owned());
        for place in in_random_order(self.addresses.len()) {
            match self.ask(self.addresses[place].clone()).await {
                Ok(members) => return Ok(members),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn ask(&self, mut url: Url) -> Result<Vec<QueueMembers>, ManagementError> {
        let any = self.queues.iter().map(|queue| literal(queue)).collect::<Vec<_>>().join("|");
        url.query_pairs_mut()
            .append_pair("page", "1")
            .append_pair("page_size", "100")
            .append_pair("use_regex", "true")
            .append_pair("name", &format!("^({any})$"))
            .append_pair("columns", "name,members,online");
        let answer = self.client.send(Request::new(Method::Get, url, ANSWER_WITHIN)).await;
        let answer = answer.map_err(|error| ManagementError::Unavailable(error.to_string()))?;
        match answer.status {
            200 => {}
            401 | 403 => return Err(ManagementError::Refused),
            status => {
                return Err(ManagementError::Unavailable(format!("the management API answers with status {status}")));
            }
        }
        let page: Page = serde_json::from_slice(&answer.body)
            .map_err(|_| ManagementError::Unavailable("this is not RabbitMQ's management API".to_owned()))?;
        let mut found: BTreeMap<String, Row> = page.items.into_iter().map(|row| (row.name.clone(), row)).collect();
        let known = self.queues.iter().filter_map(|queue| found.remove(queue)).filter(|row| !row.members.is_empty());
        Ok(known
            .map(|row| QueueMembers { queue: row.name, members: row.members.len(), online: row.online.len() })
            .collect())
    }
}

/// A regular expression that only this text fits.
fn literal(text: &str) -> String {
    text.chars().flat_map(|c| (!c.is_alphanumeric()).then_some('\\').into_iter().chain([c])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_fits_itself_only() {
        assert_eq!(literal("agentkit.wait.1s"), r"agentkit\.wait\.1s");
        assert_eq!(literal("a-b_ü"), r"a\-b\_ü");
    }
}
