//! What a version left behind in the queues and in Redis, as a file; see `tests/data/upgrades/README.md`.

use std::collections::BTreeMap;

use agentkit_worker::internals::clock::{Clock, SystemClock};
use agentkit_worker::internals::queue::amqp::Tier;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp};
use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use redis::Commands;
use serde::{Deserialize, Serialize};

use super::surroundings::Surroundings;

const FOLDER: &str = "tests/data/upgrades";
/// A sample is read as one that was recorded at the same time of a day before, and at least so long ago: longer than all that it
/// holds waits for, users apart.
const AGE: SignedDuration = SignedDuration::from_hours(2);
const DAY: i64 = 86_400;
/// What lies so near the time of recording is a time, too.
const NEAR: i64 = 60 * DAY;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Sample {
    pub(super) commit: String,
    pub(super) recorded_at: Timestamp,
    /// By their names without the prefix, each in its order.
    pub(super) queues: BTreeMap<String, Vec<Letter>>,
    pub(super) keys: BTreeMap<String, Kept>,
}

/// A message, without what the broker itself says in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Letter {
    pub(super) body: String,
    message_id: Option<String>,
    correlation_id: Option<String>,
    reply_to: Option<String>,
    content_type: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    timestamp: Option<u64>,
    headers: BTreeMap<String, String>,
}

/// A value of Redis, and how many milliseconds it was still to be kept.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    #[serde(flatten)]
    value: Value,
    expires_in: Option<i64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", content = "value", rename_all = "lowercase")]
enum Value {
    String(String),
    Hash(BTreeMap<String, String>),
    /// Members and scores.
    Zset(BTreeMap<String, String>),
}

/// What becomes of the messages that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    /// They wait as if they had just been published.
    Begin,
    /// The broker finds that their time is over.
    AreOver,
}

impl Sample {
    /// Every one that is kept, in whole days brought near to the present.
    pub(super) fn all() -> Vec<Self> {
        let files = std::fs::read_dir(FOLDER).unwrap().map(|entry| entry.unwrap().path());
        let files = files.filter(|path| path.extension().is_some_and(|end| end == "json"));
        let samples: Vec<Self> = files.map(|path| Self::of_today(&std::fs::read_to_string(path).unwrap())).collect();
        assert!(!samples.is_empty());
        samples
    }

    fn of_today(text: &str) -> Self {
        let recorded_at = serde_json::from_str::<Self>(text).unwrap().recorded_at;
        let age = SystemClock.now().duration_since(recorded_at) - AGE;
        serde_json::from_str(&later(text, recorded_at, age.as_secs().div_euclid(DAY))).unwrap()
    }

    pub(super) fn write(&self) {
        let mut text = serde_json::to_string_pretty(self).unwrap();
        text.push('\n');
        std::fs::write(format!("{FOLDER}/{}.json", self.commit), text).unwrap();
    }

    /// The members of a sorted set, without their scores.
    pub(super) fn members(&self, key: &str) -> Vec<&str> {
        let Value::Zset(members) = &self.keys[key].value else { panic!("{key} is no sorted set") };
        members.keys().map(String::as_str).collect()
    }

    /// Puts everything where it was.
    pub(super) async fn restore(&self, into: &Surroundings<'_>, waits: Waits) {
        let mut redis = redis::Client::open(into.redis.url()).unwrap().get_connection().unwrap();
        for (key, kept) in &self.keys {
            kept.restore(key, &mut redis);
        }
        let channel = into.broker.connect().await.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        for (queue, letters) in &self.queues {
            for letter in letters {
                let mut properties = letter.properties();
                if waits == Waits::AreOver && queue.starts_with("wait.") {
                    properties = properties.with_expiration("1".into());
                }
                let (queue, options) = (format!("{}.{queue}", into.amqp.prefix), BasicPublishOptions::default());
                let confirm =
                    channel.basic_publish("".into(), queue.into(), options, letter.body.as_bytes(), properties);
                assert!(confirm.await.unwrap().await.unwrap().is_ack());
            }
        }
    }
}

impl Letter {
    pub(super) fn of((body, properties): (Vec<u8>, BasicProperties)) -> Self {
        let text = |text: &Option<ShortString>| text.as_ref().map(ToString::to_string);
        let headers = properties.headers().iter().flat_map(FieldTable::inner);
        let ours = headers.filter(|(name, _)| name.as_str().starts_with("x-agentkit-"));
        Self {
            body: String::from_utf8(body).unwrap(),
            message_id: text(properties.message_id()),
            correlation_id: text(properties.correlation_id()),
            reply_to: text(properties.reply_to()),
            content_type: text(properties.content_type()),
            kind: text(properties.kind()),
            timestamp: *properties.timestamp(),
            headers: ours
                .map(|(name, value)| match value {
                    AMQPValue::LongString(value) => (name.to_string(), value.to_string()),
                    other => panic!("{name}: {other:?}"),
                })
                .collect(),
        }
    }

    fn properties(&self) -> BasicProperties {
        let mut headers = FieldTable::default();
        for (name, value) in &self.headers {
            headers.insert(name.as_str().into(), AMQPValue::LongString(value.as_str().into()));
        }
        let properties = BasicProperties::default().with_delivery_mode(2).with_headers(headers);
        let properties = with(properties, self.message_id.as_ref(), BasicProperties::with_message_id);
        let properties = with(properties, self.correlation_id.as_ref(), BasicProperties::with_correlation_id);
        let properties = with(properties, self.reply_to.as_ref(), BasicProperties::with_reply_to);
        let properties = with(properties, self.content_type.as_ref(), BasicProperties::with_content_type);
        let properties = with(properties, self.kind.as_ref(), BasicProperties::with_type);
        match self.timestamp {
            Some(timestamp) => properties.with_timestamp(timestamp),
            None => properties,
        }
    }
}

fn with(
    properties: BasicProperties,
    value: Option<&String>,
    set: impl FnOnce(BasicProperties, ShortString) -> BasicProperties,
) -> BasicProperties {
    match value {
        Some(value) => set(properties, value.as_str().into()),
        None => properties,
    }
}

/// All that lies in Redis.
pub(super) fn kept(url: &str) -> BTreeMap<String, Kept> {
    let mut redis = redis::Client::open(url).unwrap().get_connection().unwrap();
    let keys: Vec<String> = redis.keys("*").unwrap();
    keys.into_iter().map(|key| (key.clone(), Kept::at(&key, &mut redis))).collect()
}

impl Kept {
    fn at(key: &str, redis: &mut redis::Connection) -> Self {
        let kind: String = redis::cmd("TYPE").arg(key).query(redis).unwrap();
        let value = match kind.as_str() {
            "string" => Value::String(redis.get(key).unwrap()),
            "hash" => Value::Hash(redis.hgetall(key).unwrap()),
            "zset" => Value::Zset(redis.zrange_withscores(key, 0, -1).unwrap()),
            other => panic!("{key} is a {other}"),
        };
        let expires_in: i64 = redis.pttl(key).unwrap();
        Self { value, expires_in: (expires_in >= 0).then_some(expires_in) }
    }

    fn restore(&self, key: &str, redis: &mut redis::Connection) {
        let command = match &self.value {
            Value::String(value) => redis::cmd("SET").arg(key).arg(value).take(),
            Value::Hash(fields) => redis::cmd("HSET").arg(key).arg(fields).take(),
            Value::Zset(members) => {
                let scores: Vec<(&String, &String)> = members.iter().map(|(member, score)| (score, member)).collect();
                redis::cmd("ZADD").arg(key).arg(scores).take()
            }
        };
        command.exec(redis).unwrap();
        if let Some(milliseconds) = self.expires_in {
            redis::cmd("PEXPIRE").arg(key).arg(milliseconds).exec(redis).unwrap();
        }
    }
}

/// `text` with all its times so many days later: every date, and every number of its own that is a time near `recorded_at`, in
/// seconds, milliseconds or microseconds.
fn later(text: &str, recorded_at: Timestamp, days: i64) -> String {
    let is_near = |seconds: i64| (seconds - recorded_at.as_second()).abs() < NEAR;
    let (mut changed, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(start) = rest.find(|character: char| character.is_ascii_digit()) {
        changed.push_str(&rest[..start]);
        // In a key a colon is `%3A`.
        let own = changed.ends_with("%3A") || !changed.ends_with(|character: char| character.is_ascii_alphanumeric());
        rest = &rest[start..];
        let digits = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
        let date = rest.get(..10).filter(|_| own && digits == 4).and_then(|date| date.parse::<Date>().ok());
        let date = date.filter(|date| is_near(TimeZone::UTC.to_timestamp(date.at(0, 0, 0, 0)).unwrap().as_second()));
        let number =
            rest[..digits].parse::<i64>().ok().filter(|_| own && !rest[digits..].starts_with(char::is_alphanumeric));
        let unit = match digits {
            10 => Some(1),
            13 => Some(1000),
            16 => Some(1_000_000),
            _ => None,
        };
        let length = match (date, number.zip(unit)) {
            (Some(date), _) => {
                changed.push_str(&date.checked_add(Span::new().days(days)).unwrap().to_string());
                10
            }
            (None, Some((number, unit))) if is_near(number / unit) => {
                changed.push_str(&(number + days * DAY * unit).to_string());
                digits
            }
            _ => {
                changed.push_str(&rest[..digits]);
                digits
            }
        };
        rest = &rest[length..];
    }
    changed.push_str(rest);
    changed
}

#[test]
fn all_times_of_a_text_are_moved_and_nothing_else() {
    let recorded_at: Timestamp = "2026-11-29T21:00:00Z".parse().unwrap();
    let text = r#"{"at":"2026-11-29T20:59:59.123456789Z","id":"digest:half:a:2026-11-29T20:59:00","k":"g|1795985940","old":"2020-02-02",
        "lease":"1795985940123","born":1795985940123456,"run:{a-1%3A2026-11-29T21%3A00}":1,"other":"1395985940","hex":"a1795985940","long":"12026-11-29","n":7}"#;
    let moved = r#"{"at":"2026-12-02T20:59:59.123456789Z","id":"digest:half:a:2026-12-02T20:59:00","k":"g|1796245140","old":"2020-02-02",
        "lease":"1796245140123","born":1796245140123456,"run:{a-1%3A2026-12-02T21%3A00}":1,"other":"1395985940","hex":"a1795985940","long":"12026-11-29","n":7}"#;
    assert_eq!(later(text, recorded_at, 3), moved);
    assert_eq!(later(moved, recorded_at, -3), text);
}

/// The queues that a version may have, without the prefix.
pub(super) fn queue_names() -> Vec<String> {
    let names = agentkit_worker::internals::queue::amqp::QueueNames::new("");
    let waits = Tier::ALL.map(|tier| names.wait(tier));
    let all = waits.into_iter().chain([names.jobs(), names.urgent(), names.dead(), names.replies()]);
    all.map(|name| name.trim_start_matches('.').to_owned()).collect()
}
