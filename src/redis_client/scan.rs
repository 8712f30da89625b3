//! Going over all keys of a kind, for what must find everything: no job waits for it.

use std::collections::VecDeque;

use redis::cmd;

use super::{RedisClient, Unavailable};

/// How many keys a server looks at for one answer.
const AT_ONCE: u32 = 1000;

/// The keys that begin in some way, server by server. Those that are there from the first to the last answer come, some of
/// them twice.
pub(crate) struct KeyScan {
    client: RedisClient,
    pattern: String,
    /// Those that were not asked to the end: the first one is being asked.
    servers: VecDeque<String>,
    cursor: String,
}

impl RedisClient {
    /// Goes over the keys that begin with `start`, this deployment's prefix before it.
    ///
    /// # Errors
    /// Where a master of a cluster cannot be asked: what it has would be missing.
    pub(crate) async fn scan(&self, start: &str) -> Result<KeyScan, Unavailable> {
        let servers = self.facts().await?.into_iter().map(|facts| facts.server).collect();
        let pattern = format!("{}*", literal(&format!("{}{start}", self.0.key_prefix)));
        Ok(KeyScan { client: self.clone(), pattern, servers, cursor: FIRST.to_owned() })
    }

    /// A key without this deployment's prefix.
    pub(crate) fn without_prefix<'a>(&self, key: &'a str) -> Option<&'a str> {
        key.strip_prefix(&self.0.key_prefix)
    }
}

/// Redis' cursor at the beginning, which it gives again at the end.
const FIRST: &str = "0";

impl KeyScan {
    /// Some more keys; `None` after the last ones.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<String>>, Unavailable> {
        let Some(server) = self.servers.front() else { return Ok(None) };
        let mut scan = cmd("SCAN");
        scan.arg(&self.cursor).arg("MATCH").arg(&self.pattern).arg("COUNT").arg(AT_ONCE);
        let (next, keys): (String, Vec<String>) = self.client.ask(server, &scan).await?;
        if next == FIRST {
            self.servers.pop_front();
        }
        self.cursor = next;
        Ok(Some(keys))
    }
}

/// `text` as a pattern that nothing else fits.
fn literal(text: &str) -> String {
    let mut pattern = String::new();
    for character in text.chars() {
        if "*?[]\\^-".contains(character) {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_something_in_a_pattern_means_itself() {
        assert_eq!(literal("a*b?[c-d]:%7B{e}\\"), "a\\*b\\?\\[c\\-d\\]:%7B{e}\\\\");
    }
}
