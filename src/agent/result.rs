//! A tool's result as the model sees it: cut to size in the shape that it has, saying what was left out.

use serde_json::{Value, json};

/// How a value is cut, from gently to hard: characters of a string, items of an array, fields of an object.
const CUTS: [(usize, usize, usize); 6] =
    [(4000, 200, 200), (2000, 50, 100), (1000, 25, 60), (500, 12, 40), (200, 6, 25), (80, 3, 12)];
/// Deeper values are replaced by a note.
const MAX_DEPTH: usize = 24;

/// `value` as text of at most `max_bytes` bytes (but always room for a note). What is left out is said in its place.
pub fn render(value: &Value, max_bytes: usize) -> String {
    if let Some(text) = value.as_str() {
        return cut_text(&clean(text), max_bytes);
    }
    let mut shown = prune(value, (usize::MAX, usize::MAX, usize::MAX), 0);
    for cut in CUTS {
        if fits(&shown, max_bytes) {
            break;
        }
        shown = prune(value, cut, 0);
    }
    cut_text(&shown.to_string(), max_bytes)
}

fn fits(value: &Value, max_bytes: usize) -> bool {
    /// Counts what is written and gives up over the limit, so that a huge value is not printed to be measured.
    struct Counter(usize);
    impl std::io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::FileTooLarge)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    serde_json::to_writer(Counter(max_bytes), value).is_ok()
}

fn prune(value: &Value, cut: (usize, usize, usize), depth: usize) -> Value {
    let (characters, items, fields) = cut;
    if depth > MAX_DEPTH {
        return json!("… nested deeper, left out");
    }
    match value {
        Value::String(text) => Value::String(cut_characters(&clean(text), characters)),
        Value::Array(all) => {
            let mut kept: Vec<Value> = all.iter().take(items).map(|item| prune(item, cut, depth + 1)).collect();
            if all.len() > items {
                kept.push(json!(format!("… {} of {} items left out", all.len() - items, all.len())));
            }
            Value::Array(kept)
        }
        Value::Object(all) => {
            let mut kept: serde_json::Map<String, Value> = all
                .iter()
                .take(fields)
                .map(|(name, item)| (cut_characters(&clean(name), 200), prune(item, cut, depth + 1)))
                .collect();
            if all.len() > fields {
                kept.insert("…".to_owned(), json!(format!("{} of {} fields left out", all.len() - fields, all.len())));
            }
            Value::Object(kept)
        }
        other => other.clone(),
    }
}

fn cut_characters(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}… ({} bytes left out)", &text[..end], text.len() - end),
        None => text.to_owned(),
    }
}

fn cut_text(text: &str, max_bytes: usize) -> String {
    if text.len() <= max_bytes {
        return text.to_owned();
    }
    let mut end = max_bytes;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}… ({} of {} bytes left out; ask for less at a time)", &text[..end], text.len() - end, text.len())
}

/// Without control characters, and without the invisible characters that hide text from people but not from models:
/// zero-width, bidirectional overrides and tags.
fn clean(text: &str) -> String {
    let hidden = |character: char| {
        matches!(character, '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{2069}' | '\u{FEFF}' | '\u{E0000}'..='\u{E007F}')
            || character.is_control() && !matches!(character, '\n' | '\t')
    };
    if text.contains(hidden) { text.replace(hidden, "") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_result_stays_as_it_is() {
        let value = json!({"messages": [{"id": "1", "subject": "hi"}]});
        assert_eq!(render(&value, 1000), value.to_string());
    }

    #[test]
    fn a_long_list_keeps_its_shape_and_says_what_is_missing() {
        let items: Vec<Value> = (0..1000).map(|index| json!({"id": index, "subject": "x".repeat(50)})).collect();
        let text = render(&json!({ "messages": items }), 8000);
        assert!(text.len() <= 8000);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert!(value["messages"][0]["subject"].as_str().unwrap().len() == 50);
        assert!(
            value["messages"].as_array().unwrap().last().unwrap().as_str().unwrap().contains("of 1000 items left out"),
            "{text}"
        );
    }

    #[test]
    fn ten_megabytes_of_anything_fit_afterwards() {
        let text = "é".repeat(5 << 20);
        for value in [json!(text), json!({ "a": text }), json!(vec!["word"; 1 << 20]), json!({text.as_str(): [text]})] {
            let cut = render(&value, 16_384);
            assert!(cut.len() < 16_384 + 100, "{}", cut.len());
            assert!(cut.contains("left out"));
        }
    }

    #[test]
    fn a_value_nested_without_end_is_cut() {
        let mut value = json!(1);
        for _ in 0..100 {
            value = json!([value]);
        }
        assert!(render(&value, 1000).contains("nested deeper"));
    }

    #[test]
    fn hidden_characters_are_taken_out() {
        assert_eq!(render(&json!("a\u{200B}b\u{202E}c\u{0}d\u{E0041}\n"), 100), "abcd\n");
        assert_eq!(render(&json!({"k\u{E0041}": "a\u{200B}b"}), 100), r#"{"k":"ab"}"#);
    }
}
