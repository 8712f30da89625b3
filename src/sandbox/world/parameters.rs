//! What a tool is called with.

use serde_json::{Map, Value};

pub(super) type Parameters = Map<String, Value>;

/// A text parameter, empty where it is absent.
pub(super) fn text<'a>(params: &'a Parameters, name: &str) -> &'a str {
    params.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A count parameter. Numbers pass through floating point on their way, so `5.0` is 5.
pub(super) fn count(params: &Parameters, name: &str, default: usize) -> usize {
    let number = params.get(name).and_then(Value::as_f64).filter(|number| (0.0..=10_000.0).contains(number));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to lie between 0 and 10,000")]
    number.map_or(default, |number| number as usize)
}

/// A parameter that is a list of texts, empty where it is absent.
pub(super) fn texts(params: &Parameters, name: &str) -> Vec<String> {
    let values = params.get(name).and_then(Value::as_array).into_iter().flatten();
    values.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Whether the words stand in the text, in small letters or large.
pub(super) fn contains(text: &str, words: &str) -> bool {
    text.to_lowercase().contains(&words.to_lowercase())
}
