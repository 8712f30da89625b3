//! JSON of strangers, as much of it as may be kept: a value takes up to a hundred times the memory of its text, and megabytes of
//! them are never shown. Texts are kept whole, they are no larger than the answer.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// What all values of one answer may take beside their texts.
const MOST_BYTES: usize = 16 << 20;
/// What a value takes at most: in a list that grows by half again, and in an object with room for eleven.
const VALUE: usize = 64;
const LIST: usize = 128;
const OBJECT: usize = 768;
/// Fields of the outermost objects are kept in any case: they say how the call went.
const OUTER_DEPTH: usize = 2;
const OUTER_FIELDS: usize = 1000;

/// The value in `bytes`. What is left out of it is said in its place.
pub fn parse(bytes: &[u8]) -> serde_json::Result<Value> {
    let left = Cell::new(MOST_BYTES);
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Kept { left: &left, depth: 0 }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

#[derive(Clone, Copy)]
struct Kept<'a> {
    left: &'a Cell<usize>,
    depth: usize,
}

impl Kept<'_> {
    fn spend(self, bytes: usize) -> bool {
        let left = self.left.get().checked_sub(bytes);
        left.inspect(|left| self.left.set(*left)).is_some()
    }

    fn inner(self) -> Self {
        Self { depth: self.depth + 1, ..self }
    }
}

impl<'de> DeserializeSeed<'de> for Kept<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Kept<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let (mut items, mut left_out) = (Vec::new(), 0_usize);
        let room = self.spend(LIST);
        loop {
            if room && self.spend(VALUE) {
                match list.next_element_seed(self.inner())? {
                    Some(item) => items.push(item),
                    None => break,
                }
            } else {
                match list.next_element::<IgnoredAny>()? {
                    Some(_) => left_out += 1,
                    None => break,
                }
            }
        }
        if left_out > 0 {
            items.push(format!("… {left_out} more items left out").into());
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let (mut fields, mut left_out) = (Map::new(), 0_usize);
        let room = self.spend(OBJECT);
        loop {
            let is_outer = self.depth < OUTER_DEPTH && fields.len() < OUTER_FIELDS;
            if is_outer || room && self.spend(2 * VALUE) {
                let Some(name) = object.next_key::<String>()? else { break };
                let value = object.next_value_seed(self.inner())?;
                fields.insert(name, value);
            } else {
                if object.next_key::<IgnoredAny>()?.is_none() {
                    break;
                }
                object.next_value::<IgnoredAny>()?;
                left_out += 1;
            }
        }
        if left_out > 0 {
            fields.insert("…".to_owned(), format!("{left_out} more fields left out").into());
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_of_ordinary_size_is_kept_as_it_is() {
        let value = json!({
            "data": {"items": vec![json!({"id": 1, "x": [true, null, -1, 2.5, "é\n"]}); 1000]}, "execution_id": "e"
        });
        assert_eq!(parse(value.to_string().as_bytes()).unwrap(), value);
        for text in ["", "{", "[1,]", "{} x", "nul"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn of_millions_of_values_some_are_kept_and_what_says_how_the_call_went() {
        for item in ["1", "[]", "{}", r#"{"a":1}"#, "[[1]]"] {
            let count = (4 << 20) / (item.len() + 1);
            let list = vec![item; count].join(",");
            let text = format!(r#"{{"data": {{"list": [{list}], "isError": true}}, "execution_id": "e"}}"#);
            let value = parse(text.as_bytes()).unwrap();
            assert_eq!((&value["execution_id"], &value["data"]["isError"]), (&json!("e"), &json!(true)));
            let kept = value["data"]["list"].as_array().unwrap();
            assert!(kept.len() <= MOST_BYTES / VALUE + 1, "{item}: {}", kept.len());
            if count > MOST_BYTES / VALUE {
                let said = kept.last().unwrap().as_str().unwrap();
                assert_eq!(said, format!("… {} more items left out", count - (kept.len() - 1)));
            }
        }
    }

    #[test]
    fn texts_are_kept_whole() {
        let text = "x".repeat(8 << 20);
        assert_eq!(parse(json!([text]).to_string().as_bytes()).unwrap(), json!([text]));
    }
}
