//! Messages between our own form and the wire's.

use bytes::Bytes;
use jiff::Timestamp;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::Value;

use super::connection::short;
use crate::queue::{Message, Properties, QueueError};

const PERSISTENT: u8 = 2;
/// The worker's name as `app_id` of everything it publishes.
const APP_ID: &str = env!("CARGO_PKG_NAME");

/// The properties as they are published, by `user` where that is to be said. Refused where one is over AMQP's 255 bytes.
pub(super) fn to_wire(properties: &Properties, user: Option<&str>) -> Result<BasicProperties, QueueError> {
    let mut headers = FieldTable::default();
    for (name, text) in &properties.headers {
        headers.insert(short(name)?, AMQPValue::LongString(text.as_str().into()));
    }
    let text = |text: &Option<String>| text.as_deref().map(short).transpose();
    let mut wire =
        BasicProperties::default().with_delivery_mode(PERSISTENT).with_app_id(APP_ID.into()).with_headers(headers);
    if let Some(id) = text(&properties.message_id)? {
        wire = wire.with_message_id(id);
    }
    if let Some(id) = text(&properties.correlation_id)? {
        wire = wire.with_correlation_id(id);
    }
    if let Some(queue) = text(&properties.reply_to)? {
        wire = wire.with_reply_to(queue);
    }
    if let Some(media_type) = text(&properties.content_type)? {
        wire = wire.with_content_type(media_type);
    }
    if let Some(kind) = text(&properties.kind)? {
        wire = wire.with_type(kind);
    }
    if let Some(user) = user {
        wire = wire.with_user_id(short(user)?);
    }
    if let Some(seconds) = properties.timestamp.and_then(|time| u64::try_from(time.as_second()).ok()) {
        wire = wire.with_timestamp(seconds);
    }
    Ok(wire)
}

/// Values in headers that are nested deeper are left out.
const MAX_DEPTH: u8 = 8;

/// A message that came in. What cannot be represented (a timestamp beyond the year 9999, a header of mere bytes) is left
/// out: nobody's odd header may cost them their job.
pub(super) fn from_wire(body: Vec<u8>, wire: &BasicProperties) -> Message {
    let text = |text: &Option<lapin::types::ShortString>| text.as_ref().map(ToString::to_string);
    let headers = wire.headers().iter().flat_map(FieldTable::inner);
    let properties = Properties {
        message_id: text(wire.message_id()),
        correlation_id: text(wire.correlation_id()),
        reply_to: text(wire.reply_to()),
        content_type: text(wire.content_type()),
        kind: text(wire.kind()),
        user_id: text(wire.user_id()),
        timestamp: wire.timestamp().and_then(|seconds| Timestamp::from_second(i64::try_from(seconds).ok()?).ok()),
        headers: headers.filter_map(|(name, value)| Some((name.to_string(), header(value)?))).collect(),
    };
    Message { body: Bytes::from(body), properties }
}

fn header(value: &AMQPValue) -> Option<String> {
    Some(match json(value, MAX_DEPTH)? {
        Value::String(text) => text,
        value => value.to_string(),
    })
}

/// The value as JSON, `depth` levels of it at most; times are RFC 3339, as in the broker's own `x-death`.
fn json(value: &AMQPValue, depth: u8) -> Option<Value> {
    let below = depth.checked_sub(1)?;
    Some(match value {
        AMQPValue::LongString(text) => str::from_utf8(text.as_bytes()).ok()?.into(),
        AMQPValue::ShortString(text) => text.as_str().into(),
        AMQPValue::Boolean(truth) => (*truth).into(),
        AMQPValue::ShortShortInt(number) => (*number).into(),
        AMQPValue::ShortShortUInt(number) => (*number).into(),
        AMQPValue::ShortInt(number) => (*number).into(),
        AMQPValue::ShortUInt(number) => (*number).into(),
        AMQPValue::LongInt(number) => (*number).into(),
        AMQPValue::LongUInt(number) => (*number).into(),
        AMQPValue::LongLongInt(number) => (*number).into(),
        AMQPValue::Timestamp(seconds) => Timestamp::from_second(i64::try_from(*seconds).ok()?).ok()?.to_string().into(),
        AMQPValue::FieldArray(values) => values.as_slice().iter().filter_map(|value| json(value, below)).collect(),
        AMQPValue::FieldTable(table) => {
            let fields = table.inner().iter();
            fields.filter_map(|(name, value)| Some((name.to_string(), json(value, below)?))).collect()
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_survive_the_wire() {
        let properties = Properties {
            message_id: Some("m".into()),
            correlation_id: Some("c".into()),
            reply_to: Some("r".into()),
            content_type: Some("application/json".into()),
            kind: Some("k".into()),
            user_id: None,
            timestamp: Some(Timestamp::from_second(1_700_000_000).unwrap()),
            headers: [("traceparent".to_owned(), "00-ab-cd-01".to_owned()), (String::new(), "ü".to_owned())].into(),
        };
        let wire = to_wire(&properties, None).unwrap();
        assert_eq!(wire.delivery_mode(), &Some(PERSISTENT));
        assert_eq!(from_wire(b"\0\xff".to_vec(), &wire), Message { body: Bytes::from_static(b"\0\xff"), properties });
    }

    #[test]
    fn a_property_that_is_too_long_is_refused() {
        for properties in [
            Properties { correlation_id: Some("é".repeat(128)), ..Properties::default() },
            Properties { headers: [("h".repeat(256), String::new())].into(), ..Properties::default() },
        ] {
            assert!(matches!(to_wire(&properties, None), Err(QueueError::Refused(_))));
        }
    }

    #[test]
    fn odd_headers_and_times_are_left_out_and_other_values_become_text() {
        let mut headers = FieldTable::default();
        headers.insert("x-delivery-count".into(), AMQPValue::LongLongInt(3));
        headers.insert("bytes".into(), AMQPValue::LongString(vec![0xff_u8].into()));
        let wire = BasicProperties::default().with_headers(headers).with_timestamp(u64::MAX);
        let message = from_wire(Vec::new(), &wire);
        assert_eq!(message.properties.headers, [("x-delivery-count".to_owned(), "3".to_owned())].into());
        assert_eq!(message.properties.timestamp, None);
    }

    #[test]
    fn what_the_broker_says_of_a_dead_letter_can_be_read() {
        let mut death = FieldTable::default();
        death.insert("reason".into(), AMQPValue::LongString("delivery_limit".into()));
        death.insert("time".into(), AMQPValue::Timestamp(1_700_000_000));
        death.insert("routing-keys".into(), AMQPValue::FieldArray(vec![AMQPValue::Boolean(true)].into()));
        let mut headers = FieldTable::default();
        headers.insert("x-death".into(), AMQPValue::FieldArray(vec![AMQPValue::FieldTable(death)].into()));
        let message = from_wire(Vec::new(), &BasicProperties::default().with_headers(headers));
        let read: Value = serde_json::from_str(&message.properties.headers["x-death"]).unwrap();
        let expected = serde_json::json!(
            [{"reason": "delivery_limit", "time": "2023-11-14T22:13:20Z", "routing-keys": [true]}]
        );
        assert_eq!(read, expected);
    }

    #[test]
    fn a_header_that_is_nested_without_end_is_cut() {
        let mut value = AMQPValue::Boolean(true);
        for _ in 0..1000 {
            value = AMQPValue::FieldArray(vec![value].into());
        }
        assert_eq!(header(&value).unwrap(), format!("{}{}", "[".repeat(8), "]".repeat(8)));
    }
}
