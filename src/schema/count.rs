//! How many values a text of JSON holds, told before any of them takes memory.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Whether `json` holds more than `most` values: each takes many times the two bytes that it may be written in. A text that
/// is no JSON holds as many as come before its fault.
pub fn has_more_values(json: &[u8], most: usize) -> bool {
    let mut left = Some(most);
    let mut reader = serde_json::Deserializer::from_slice(json);
    // What else is wrong is told by whoever reads it.
    let _ = reader.deserialize_any(Count(&mut left));
    left.is_none()
}

/// Counts down; `None` once there were too many.
struct Count<'c>(&'c mut Option<usize>);

impl Count<'_> {
    fn one<E: Error>(&mut self) -> Result<(), E> {
        *self.0 = self.0.and_then(|left| left.checked_sub(1));
        if self.0.is_some() { Ok(()) } else { Err(E::custom("too many values")) }
    }
}

impl<'de> DeserializeSeed<'de> for Count<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Count<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_bool<E: Error>(mut self, _: bool) -> Result<(), E> {
        self.one()
    }

    fn visit_i64<E: Error>(mut self, _: i64) -> Result<(), E> {
        self.one()
    }

    fn visit_u64<E: Error>(mut self, _: u64) -> Result<(), E> {
        self.one()
    }

    fn visit_f64<E: Error>(mut self, _: f64) -> Result<(), E> {
        self.one()
    }

    fn visit_str<E: Error>(mut self, _: &str) -> Result<(), E> {
        self.one()
    }

    fn visit_unit<E: Error>(mut self) -> Result<(), E> {
        self.one()
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        self.one()?;
        while items.next_element_seed(Count(&mut *self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<(), A::Error> {
        self.one()?;
        while members.next_key::<IgnoredAny>()?.is_some() {
            members.next_value_seed(Count(&mut *self.0))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_counts_wherever_it_stands() {
        for (json, values) in [
            ("1", 1),
            ("[]", 1),
            (r#"[null, true, 1, -1, 1.5, "a,b:c"]"#, 7),
            (r#"{"a": {"b": [1, {"a": 1}]}, "a": 1e400}"#, 6),
            ("", 0),
            ("[1, 2, ", 3),
        ] {
            let json = json.as_bytes();
            assert!(!has_more_values(json, values), "{json:?}");
            assert!(values == 0 || has_more_values(json, values - 1), "{json:?}");
        }
    }

    #[test]
    fn the_rest_of_a_hostile_text_is_not_read() {
        let endless = "[".to_owned() + &"0,".repeat(1_000_000);
        assert!(has_more_values(endless.as_bytes(), 100));
    }
}
