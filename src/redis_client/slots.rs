//! Which slot of a Redis Cluster a key belongs to, and which node has it.

use redis::{Arg, Cmd, FromRedisValue, Value, from_redis_value};

/// So many slots the keys of a cluster are spread over.
pub(super) const SLOTS: u16 = 16_384;

/// A run of slots that one master serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) master: Address,
}

/// Where a node is reached. Ordered, so that nodes are always told of in the same order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Address {
    /// Empty where the node that says so has not told: then it is that node's own.
    pub(super) host: String,
    pub(super) port: u16,
}

impl Address {
    /// `host:port`, as a redirection names it; the host may be empty, or an IPv6 address with or without brackets.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Some(Self { host, port: port.parse().ok()? })
    }

    /// This address as the node at `host` meant it.
    pub(super) fn said_by(self, host: &str) -> Self {
        if self.host.is_empty() { Self { host: host.to_owned(), ..self } } else { self }
    }
}

/// The slot of a key: of its hash tag where it has one.
pub(super) fn of_key(key: &[u8]) -> u16 {
    let position = |from: usize, byte: u8| Some(key[from..].iter().position(|other| *other == byte)? + from);
    let tag = position(0, b'{').and_then(|open| Some((open + 1, position(open + 1, b'}')?)));
    match tag {
        Some((start, end)) if start < end => checksum(&key[start..end]) % SLOTS,
        _ => checksum(key) % SLOTS,
    }
}

/// The slot of a command. Of all that are sent here the first argument is the one key.
pub(super) fn of_command(command: &Cmd) -> u16 {
    match command.args_iter().nth(1) {
        Some(Arg::Simple(key)) => of_key(key),
        _ => 0,
    }
}

/// The answer to `CLUSTER SLOTS`: per range its first and last slot, its master, its replicas.
pub(super) fn ranges(answer: Value) -> Option<Vec<Range>> {
    from_redis_value::<Vec<Vec<Value>>>(answer).ok()?.into_iter().map(range).collect()
}

fn range(row: Vec<Value>) -> Option<Range> {
    let mut row = row.into_iter();
    let (first, last) = (number(row.next()?)?, number(row.next()?)?);
    let mut master = read::<Vec<Value>>(row.next()?)?.into_iter();
    let host: Option<String> = read(master.next()?)?;
    // `?` stands for a name that the node was told to announce, but not which.
    let host = host.filter(|host| host != "?").unwrap_or_default();
    let master = Address { host, port: number(master.next()?)? };
    (first <= last && last < SLOTS).then_some(Range { first, last, master })
}

/// A number that fits; `from_redis_value` would cut off what does not.
fn number(value: Value) -> Option<u16> {
    u16::try_from(read::<i64>(value)?).ok()
}

fn read<T: FromRedisValue>(value: Value) -> Option<T> {
    from_redis_value(value).ok()
}

/// CRC-16/XMODEM, which the cluster's specification prescribes.
fn checksum(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |sum, byte| {
        (0..8).fold(
            sum ^ (u16::from(*byte) << 8),
            |sum, _| {
                if sum & 0x8000 == 0 { sum << 1 } else { (sum << 1) ^ 0x1021 }
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slot_of_a_key_is_the_one_that_the_specification_gives() {
        assert_eq!(checksum(b"123456789"), 0x31C3);
        for (key, slot) in [("", 0), ("foo", 12_182), ("bar", 5_061), ("{foo}bar", 12_182), ("a{foo}{bar}", 12_182)] {
            assert_eq!(of_key(key.as_bytes()), slot, "{key}");
        }
        for whole in ["foo{}{bar}", "foo}bar{", "{foo"] {
            assert_eq!(of_key(whole.as_bytes()), checksum(whole.as_bytes()) % SLOTS, "{whole} has no hash tag");
        }
        assert_eq!(of_key(b"foo{{bar}}zap"), of_key(b"{bar"));
        assert_eq!(of_command(redis::cmd("SET").arg("foo").arg("bar")), 12_182);
    }

    #[test]
    fn slots_are_read_from_any_answer() {
        let text = |text: &str| Value::BulkString(text.into());
        let node = |host: Value, port| Value::Array(vec![host, Value::Int(port), text("id"), Value::Array(vec![])]);
        let row = |first, last, nodes: Vec<Value>| {
            Value::Array([Value::Int(first), Value::Int(last)].into_iter().chain(nodes).collect())
        };
        let answer = Value::Array(vec![
            row(0, 100, vec![node(text("10.0.0.1"), 6379), node(text("10.0.0.2"), 6379)]),
            row(101, 16_383, vec![node(Value::Nil, 7000)]),
        ]);
        let found = ranges(answer).unwrap();
        let address = |host: &str, port| Address { host: host.to_owned(), port };
        assert_eq!(found[0], Range { first: 0, last: 100, master: address("10.0.0.1", 6379) });
        assert_eq!(found[1].master.clone().said_by("start"), address("start", 7000));
        assert_eq!(found[0].master.clone().said_by("start"), address("10.0.0.1", 6379));
        assert_eq!(ranges(Value::Array(vec![])), Some(vec![]));
        for broken in [
            Value::Nil,
            Value::Array(vec![Value::Int(1)]),
            Value::Array(vec![row(0, 16_384, vec![node(text("a"), 1)])]),
            Value::Array(vec![row(2, 1, vec![node(text("a"), 1)])]),
            Value::Array(vec![row(0, 1, vec![node(text("a"), 65_536)])]),
            Value::Array(vec![row(0, 1, vec![])]),
        ] {
            assert!(ranges(broken.clone()).is_none_or(|ranges| ranges.is_empty()), "{broken:?}");
        }
    }

    #[test]
    fn an_address_is_read_in_every_spelling() {
        for (text, host) in [("10.0.0.1:7000", "10.0.0.1"), (":7000", ""), ("::1:7000", "::1"), ("[::1]:7000", "::1")] {
            assert_eq!(Address::parse(text), Some(Address { host: host.to_owned(), port: 7000 }));
        }
        assert_eq!((Address::parse("host"), Address::parse("host:x")), (None, None));
    }
}
