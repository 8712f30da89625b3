//! Where the broker is: one address, or those of several nodes of one cluster, so that no balancer is needed before it.
//!
//! Which node a connection is made to does not matter to the queues: each node of a cluster serves them all.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use lapin::uri::{AMQPScheme, AMQPUri};
use secrecy::ExposeSecret;

use super::Config;
use crate::queue::QueueError;
use crate::retry::in_random_order;
use crate::transport::Peer;

/// How several addresses are written.
const FORM: &str = "several are separated by commas, each of them whole (amqp://…,amqp://…)";

/// One address with our own parameters. Shows host and port, never user and password.
#[derive(Clone)]
pub(super) struct Address(AMQPUri);

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.0.authority.host, self.0.authority.port)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Address({self})")
    }
}

impl Address {
    fn parse(text: &str, heartbeat_seconds: u16) -> Result<Self, String> {
        let mut uri: AMQPUri = text.parse().map_err(|_| "is not an AMQP URL".to_owned())?;
        if uri.authority.host.contains(',') {
            return Err("has a comma in its host".to_owned());
        }
        if uri.vhost.is_empty() {
            // The URL `amqp://host/` names the virtual host with the empty name, which nobody means.
            "/".clone_into(&mut uri.vhost);
        }
        uri.query.heartbeat = Some(heartbeat_seconds);
        Ok(Self(uri))
    }

    pub(super) fn uri(&self) -> AMQPUri {
        self.0.clone()
    }

    pub(super) fn peer(&self) -> Peer {
        Peer::new(self.to_string(), &self.0.authority.host, self.0.scheme == AMQPScheme::AMQPS)
    }
}

/// The addresses of `amqp.url`, at least one.
pub(super) fn addresses(config: &Config) -> Result<Vec<Address>, QueueError> {
    parse(config).map_err(QueueError::Refused)
}

/// The same. An error names the address that is wrong by its place; no part of it is shown.
pub(super) fn parse(config: &Config) -> Result<Vec<Address>, String> {
    let parts = split(config.url.expose_secret());
    let (mut addresses, mut problems) = (Vec::new(), Vec::new());
    for (place, part) in (1..).zip(&parts) {
        match Address::parse(part, config.heartbeat_seconds) {
            Ok(address) => addresses.push(address),
            Err(problem) if parts.len() == 1 => problems.push(format!("the address {problem}")),
            Err(problem) => problems.push(format!("address {place} of {} {problem}", parts.len())),
        }
    }
    if addresses.windows(2).any(|pair| pair[0].0.vhost != pair[1].0.vhost) {
        problems.push("the addresses name different virtual hosts: all are to lead to the same queues".to_owned());
    }
    if problems.is_empty() {
        return Ok(addresses);
    }
    let hint = if config.url.expose_secret().contains(',') { format!("; {FORM}") } else { String::new() };
    Err(format!("{}{hint}", problems.join("; ")))
}

/// The one user of all addresses.
pub(super) fn user(config: &Config) -> Result<String, String> {
    let mut users = parse(config)?.into_iter().map(|address| address.0.authority.userinfo.username);
    let first = users.next().unwrap_or_default();
    if users.all(|user| user == first) { Ok(first) } else { Err("the addresses are of several users".to_owned()) }
}

/// Splits at the commas that another address follows: passwords and virtual hosts may have commas of their own.
pub(super) fn split(text: &str) -> Vec<&str> {
    let begins_address = |rest: &str| {
        let end = rest.find([',', '@', '/']).unwrap_or(rest.len());
        rest[..end].ends_with(':') && rest[end..].starts_with("//")
    };
    let (mut parts, mut from) = (Vec::new(), 0);
    for (comma, _) in text.match_indices(',') {
        if begins_address(&text[comma + 1..]) {
            parts.push(text[from..comma].trim());
            from = comma + 1;
        }
    }
    parts.push(text[from..].trim());
    parts
}

/// Where a connection that is made again and again was last. The next life begins elsewhere, if there is an elsewhere.
#[derive(Debug)]
pub(super) struct LastPlace(AtomicUsize);

impl Default for LastPlace {
    fn default() -> Self {
        Self(AtomicUsize::new(usize::MAX))
    }
}

impl LastPlace {
    pub(super) fn remember(&self, place: usize) {
        self.0.store(place, Ordering::Relaxed);
    }

    /// The order in which `count` addresses are tried: a random one, so that a fleet spreads over the nodes, but the one
    /// that was just left comes last. It may be frozen, and would then cost the whole connect timeout.
    pub(super) fn round(&self, count: usize) -> Vec<usize> {
        let last = self.0.load(Ordering::Relaxed);
        let mut order = in_random_order(count);
        order.sort_by_key(|place| *place == last);
        order
    }
}

/// Why no address of a round served. Only where all refuse it helps nobody to try again.
pub(super) fn none_served(addresses: &[Address], mut failures: Vec<(usize, QueueError)>) -> QueueError {
    failures.sort_by_key(|(place, _)| *place);
    let all_refuse = failures.iter().all(|(_, error)| matches!(error, QueueError::Refused(_)));
    let words = |error: &QueueError| match error {
        QueueError::Refused(words) | QueueError::Unavailable(words) => words.clone(),
        QueueError::TimedOut(after) => format!("no answer within {after:?}"),
        error => error.to_string(),
    };
    let each = failures.iter().map(|(place, error)| {
        let (address, words) = (format!("{}: ", addresses[*place]), words(error));
        if words.starts_with(&address) { words } else { address + &words }
    });
    let text = each.collect::<Vec<_>>().join("; ");
    if all_refuse { QueueError::Refused(text) } else { QueueError::Unavailable(text) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::transport::Protection;

    fn config(url: &str) -> Config {
        Config { url: url.to_owned().into(), ..Config::default() }
    }

    fn hosts(url: &str) -> Vec<String> {
        addresses(&config(url)).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_empty_virtual_host_means_the_default_one() {
        for url in ["amqp://h", "amqp://h/", "amqp://h:5672/%2f"] {
            assert_eq!(addresses(&config(url)).unwrap()[0].0.vhost, "/", "{url}");
        }
        assert_eq!(addresses(&config("amqp://h/jobs")).unwrap()[0].0.vhost, "jobs");
        assert_eq!(addresses(&Config::default()).unwrap()[0].0.query.heartbeat, Some(5));
    }

    #[test]
    fn several_addresses_are_separated_by_commas_and_one_may_have_commas_of_its_own() {
        assert_eq!(hosts("amqp://a"), ["a:5672"]);
        assert_eq!(hosts("amqp://u:p@a:1,amqp://b:2 , amqp://c:3/"), ["a:1", "b:2", "c:3"]);
        assert_eq!(hosts("amqp://u:p,q@a/v,w,amqp://b/v,w"), ["a:5672", "b:5672"]);
        let one = addresses(&config("amqp://u:p,q@a/v,w")).unwrap().remove(0).uri();
        assert_eq!((one.authority.userinfo.password.as_str(), one.vhost.as_str()), ("p,q", "v,w"));
    }

    #[test]
    fn an_unusable_address_is_refused_without_showing_it() {
        for url in ["", "hunter2", "http://u:hunter2@h", "amqp://u:hunter2@h:99999", "amqp://u:hunter2@h/%ff"] {
            let error = addresses(&config(url)).unwrap_err();
            assert!(matches!(error, QueueError::Refused(_)));
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn of_several_addresses_the_unusable_one_is_named_by_its_place() {
        let cases = [
            ("amqp://u:hunter2@a,http://u:hunter2@b", "address 2 of 2 is not an AMQP URL"),
            ("amqp://a,amqp://u:hunter2@b:port,amqp://c", "address 2 of 3 is not an AMQP URL"),
            ("hunter2,amqp://c", "address 1 of 2 is not an AMQP URL"),
            ("amqp://u:hunter2@a:1,b:2", "the address is not an AMQP URL; several are separated by commas"),
            ("amqp://a,hunter2", "has a comma in its host; several are separated by commas"),
            ("amqp://a,amqp://b,", "address 2 of 2 has a comma in its host"),
            ("amqp://a/one,amqp://b/two", "different virtual hosts"),
        ];
        for (url, expected) in cases {
            let error = addresses(&config(url)).err().unwrap_or_else(|| panic!("{url} is taken")).to_string();
            assert!(error.contains(expected) && !error.contains("hunter2"), "{url}: {error}");
        }
    }

    #[test]
    fn an_address_tells_how_it_is_protected() {
        let found = addresses(&config("amqps://u:hunter2@a,amqp://u:hunter2@b,amqp://localhost")).unwrap();
        let peers: Vec<Peer> = found.iter().map(Address::peer).collect();
        let peer = |address: &str, protection| Peer { address: address.to_owned(), protection };
        let expected = [
            peer("a:5671", Protection::Encrypted),
            peer("b:5672", Protection::Plain),
            peer("localhost:5672", Protection::ThisMachine),
        ];
        assert_eq!(peers, expected);
    }

    #[test]
    fn connections_begin_at_any_of_the_addresses_and_end_a_round_with_the_one_they_left() {
        let first: BTreeSet<usize> = (0..200).map(|_| LastPlace::default().round(3)[0]).collect();
        assert_eq!(first, BTreeSet::from([0, 1, 2]), "a fleet spreads");
        let left = LastPlace::default();
        left.remember(1);
        let rounds: BTreeSet<Vec<usize>> = (0..200).map(|_| left.round(3)).collect();
        assert_eq!(rounds, BTreeSet::from([vec![0, 2, 1], vec![2, 0, 1]]), "those who left one spread over the others");
        assert_eq!(left.round(1), [0]);
    }

    #[test]
    fn a_round_is_refused_only_where_all_refuse_and_says_of_each_why() {
        let addresses = addresses(&config("amqp://u:hunter2@a,amqp://u:hunter2@b")).unwrap();
        let refused = |place| (place, QueueError::Refused("no".to_owned()));
        let away = |place| (place, QueueError::Unavailable("away".to_owned()));
        let error = none_served(&addresses, vec![refused(1), refused(0)]);
        assert!(matches!(&error, QueueError::Refused(words) if words == "a:5672: no; b:5672: no"), "{error}");
        let error = none_served(&addresses, vec![away(1), refused(0)]);
        assert!(matches!(&error, QueueError::Unavailable(words) if words == "a:5672: no; b:5672: away"), "{error}");
        let silent = (0, QueueError::TimedOut(std::time::Duration::from_secs(5)));
        for (one, words) in [(away(0), "a:5672: away"), (silent, "a:5672: no answer within 5s")] {
            let error = none_served(&addresses[..1], vec![one]);
            assert!(matches!(&error, QueueError::Unavailable(said) if said == words), "{error}");
        }
    }
}
