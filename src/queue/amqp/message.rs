//! Messages between our own form and the wire's.

use bytes::Bytes;
use jiff::Timestamp;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString};

use super::connection::short;
use crate::queue::{Message, Properties, QueueError};

const PERSISTENT: u8 = 2;
/// The worker's name as `app_id` of everything it publishes.
const APP_ID: &str = env!("CARGO_PKG_NAME");

/// The properties as they are published. Refused where one is over AMQP's 255 bytes.
pub(super) fn to_wire(properties: &Properties) -> Result<BasicProperties, QueueError> {
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
    if let Some(seconds) = properties.timestamp.and_then(|time| u64::try_from(time.as_second()).ok()) {
        wire = wire.with_timestamp(seconds);
    }
    Ok(wire)
}

/// A message that came in. What cannot be represented (a timestamp beyond the year 9999, a header that is neither text
/// nor a whole number) is left out: nobody's odd header may cost them their job.
pub(super) fn from_wire(body: Vec<u8>, wire: &BasicProperties) -> Message {
    let text = |text: &Option<lapin::types::ShortString>| text.as_ref().map(ToString::to_string);
    let headers = wire.headers().iter().flat_map(FieldTable::inner);
    let properties = Properties {
        message_id: text(wire.message_id()),
        correlation_id: text(wire.correlation_id()),
        reply_to: text(wire.reply_to()),
        content_type: text(wire.content_type()),
        kind: text(wire.kind()),
        timestamp: wire.timestamp().and_then(|seconds| Timestamp::from_second(i64::try_from(seconds).ok()?).ok()),
        headers: headers.filter_map(|(name, value)| Some((name.to_string(), header(value)?))).collect(),
    };
    Message { body: Bytes::from(body), properties }
}

fn header(value: &AMQPValue) -> Option<String> {
    let utf8 = |text: &LongString| str::from_utf8(text.as_bytes()).ok().map(str::to_owned);
    match value {
        AMQPValue::LongString(text) => utf8(text),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        AMQPValue::ShortShortInt(number) => Some(number.to_string()),
        AMQPValue::ShortShortUInt(number) => Some(number.to_string()),
        AMQPValue::ShortInt(number) => Some(number.to_string()),
        AMQPValue::ShortUInt(number) => Some(number.to_string()),
        AMQPValue::LongInt(number) => Some(number.to_string()),
        AMQPValue::LongUInt(number) => Some(number.to_string()),
        AMQPValue::LongLongInt(number) => Some(number.to_string()),
        _ => None,
    }
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
            timestamp: Some(Timestamp::from_second(1_700_000_000).unwrap()),
            headers: [("traceparent".to_owned(), "00-ab-cd-01".to_owned()), (String::new(), "ü".to_owned())].into(),
        };
        let wire = to_wire(&properties).unwrap();
        assert_eq!(wire.delivery_mode(), &Some(PERSISTENT));
        assert_eq!(from_wire(b"\0\xff".to_vec(), &wire), Message { body: Bytes::from_static(b"\0\xff"), properties });
    }

    #[test]
    fn a_property_that_is_too_long_is_refused() {
        for properties in [
            Properties { correlation_id: Some("é".repeat(128)), ..Properties::default() },
            Properties { headers: [("h".repeat(256), String::new())].into(), ..Properties::default() },
        ] {
            assert!(matches!(to_wire(&properties), Err(QueueError::Refused(_))));
        }
    }

    #[test]
    fn odd_headers_and_times_are_left_out_and_numbers_become_text() {
        let mut headers = FieldTable::default();
        headers.insert("x-delivery-count".into(), AMQPValue::LongLongInt(3));
        headers.insert("x-death".into(), AMQPValue::FieldTable(FieldTable::default()));
        headers.insert("bytes".into(), AMQPValue::LongString(LongString::from(vec![0xff_u8])));
        let wire = BasicProperties::default().with_headers(headers).with_timestamp(u64::MAX);
        let message = from_wire(Vec::new(), &wire);
        assert_eq!(message.properties.headers, [("x-delivery-count".to_owned(), "3".to_owned())].into());
        assert_eq!(message.properties.timestamp, None);
    }
}
