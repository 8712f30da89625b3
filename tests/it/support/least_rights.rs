//! The least rights that a worker needs at the broker and in Redis, as deploy/README.md gives them. With `TEST_LEAST_RIGHTS`
//! all workers that are processes of their own have no more; what tests and commands do themselves is another matter.

use agentkit_worker::internals::queue::amqp::{AmqpQueue, Config};

use super::setting;

/// At the broker and in Redis.
pub(crate) const USER: &str = "least-rights";
const PASSWORD: &str = "password";
/// The prefixes of tests at the broker, as a regular expression.
const PREFIXES: &str = "test-[0-9a-f]+";
/// And in Redis, as patterns; a test with a Redis of its own may have the usual one.
const KEYS: [&str; 2] = ["test-*", "agentkit"];

pub(crate) fn are_wanted() -> bool {
    setting("TEST_LEAST_RIGHTS").is_some()
}

/// What may be configured, written and read at the broker, where the worker's prefix is this expression.
pub(crate) fn at_the_broker(prefix: &str) -> Vec<String> {
    words("rabbitmqctl set_permissions agentkit ", prefix)
}

/// The rules of a user of Redis, where the worker's prefix is this pattern.
pub(crate) fn in_redis(prefix: &str) -> Vec<String> {
    words("ACL SETUSER agentkit ", prefix)
}

/// What makes a broker's node know the user; each line is a command.
pub(super) fn broker_commands() -> [Vec<String>; 2] {
    let user = ["add_user", USER, PASSWORD].map(str::to_owned).to_vec();
    let rights = [vec!["set_permissions".to_owned(), USER.to_owned()], at_the_broker(PREFIXES)].concat();
    [user, rights]
}

/// What makes a server of Redis know the user, as options.
pub(super) fn redis_options() -> Vec<String> {
    if !are_wanted() {
        return Vec::new();
    }
    let rules = KEYS.iter().flat_map(|keys| in_redis(keys)).collect();
    [vec!["--user".to_owned(), USER.to_owned()], rules].concat()
}

/// Has the queues made that such a worker finds.
pub(super) async fn prepare(of: &[(String, String)]) {
    let last = |name: &str| of.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let url = last("AGENTKIT_WORKER__AMQP__URL").or_else(|| last("AMQP_URL"));
    if let Some(url) = url.filter(|_| are_wanted()) {
        let prefix = last("AGENTKIT_WORKER__AMQP__PREFIX").unwrap_or_else(|| "agentkit".to_owned());
        let config = Config { url: url.into(), prefix, connect_attempts: 1, ..Config::default() };
        // Where that fails a test may want it so.
        let _ = AmqpQueue::connect(config).await;
    }
}

/// The variables of a worker who is this user; on a cluster of brokers workers keep their rights.
pub(super) fn variables(of: &[(String, String)]) -> Vec<(String, String)> {
    let on_cluster = of.iter().any(|(name, value)| name == "AMQP_URL" && value.contains(','));
    if !are_wanted() || on_cluster {
        return Vec::new();
    }
    let mut variables = Vec::new();
    for (name, value) in of {
        let value = match name.as_str() {
            "AMQP_URL" | "AGENTKIT_WORKER__AMQP__URL" => value.replace("guest:guest@", &format!("{USER}:{PASSWORD}@")),
            "REDIS_URL" | "AGENTKIT_WORKER__REDIS__URL" if !value.contains('@') => {
                value.replacen("://", &format!("://{USER}:{PASSWORD}@"), 1)
            }
            _ => continue,
        };
        variables.push((name.clone(), value));
    }
    let topology = "AGENTKIT_WORKER__AMQP__TOPOLOGY";
    if !of.iter().any(|(name, _)| name == topology) {
        variables.push((topology.to_owned(), "verify".to_owned()));
    }
    variables
}

/// The words behind those that a line of a code block begins with, without the quotes around them.
fn words(begins: &str, prefix: &str) -> Vec<String> {
    let page = include_str!("../../../deploy/README.md");
    let line = page.lines().find_map(|line| line.strip_prefix(begins));
    let line = line.unwrap_or_else(|| panic!("no line begins with {begins}"));
    let unquoted = line.split_whitespace().map(|word| word.trim_matches('\''));
    unquoted.map(|word| word.replace("agentkit", prefix)).collect()
}
