//! Text from elsewhere, and what it hides.

use std::borrow::Cow;

use serde_json::Value;

/// Characters that people do not see and models read, or that turn text round: soft hyphens, fillers, joiners, bidirectional
/// marks and overrides, variation selectors, tags. Unicode's default-ignorable code points, and the annotation marks.
pub(crate) fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{AD}'
            | '\u{34F}'
            | '\u{61C}'
            | '\u{115F}'..='\u{1160}'
            | '\u{17B4}'..='\u{17B5}'
            | '\u{180B}'..='\u{180F}'
            | '\u{200B}'..='\u{200F}'
            | '\u{202A}'..='\u{202E}'
            | '\u{2060}'..='\u{206F}'
            | '\u{3164}'
            | '\u{FE00}'..='\u{FE0F}'
            | '\u{FEFF}'
            | '\u{FFA0}'
            | '\u{FFF0}'..='\u{FFFB}'
            | '\u{1BCA0}'..='\u{1BCA3}'
            | '\u{1D173}'..='\u{1D17A}'
            | '\u{E0000}'..='\u{E0FFF}'
    )
}

/// Those, and control characters but line breaks and tabs.
pub(crate) fn is_hidden(character: char) -> bool {
    is_invisible(character) || character.is_control() && !matches!(character, '\n' | '\t')
}

/// `text` without what is hidden in it.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    if text.contains(is_hidden) { text.replace(is_hidden, "").into() } else { text.into() }
}

/// `text` without anything that a terminal would obey.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

/// `value` with all its text made so, names included.
pub(crate) fn visible_value(value: Value) -> Value {
    match value {
        Value::String(text) => match visible(&text) {
            Cow::Borrowed(_) => Value::String(text),
            Cow::Owned(visible) => Value::String(visible),
        },
        Value::Array(items) => items.into_iter().map(visible_value).collect(),
        Value::Object(fields) => {
            fields.into_iter().map(|(name, value)| (visible(&name).into_owned(), visible_value(value))).collect()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_nobody_sees_is_taken_out_and_what_people_write_stays() {
        let hidden = "\u{AD}\u{34F}\u{61C}\u{115F}\u{17B4}\u{180E}\u{200B}\u{200D}\u{202E}\u{2060}\u{2066}\u{206F}\u{3164}\u{FE0F}\
                      \u{FEFF}\u{FFA0}\u{FFF9}\u{1D173}\u{E0001}\u{E0041}\u{E0100}\u{E01EF}\u{0}\u{1B}\u{7F}\u{85}";
        for character in hidden.chars() {
            assert_eq!(visible(&format!("a{character}b")), "ab", "{character:?}");
        }
        let plain = "Grüße, \"שלום\" مرحبا\tनमस्ते 日本語 한국어 👍 – “quoted” … 1\u{A0}000\n";
        assert!(matches!(visible(plain), Cow::Borrowed(text) if text == plain));
    }

    #[test]
    fn all_text_of_a_value_is_looked_through() {
        let value = json!({"a\u{200B}": ["b\u{E0041}", 1, null, {"c": "d\u{AD}"}]});
        assert_eq!(visible_value(value), json!({"a": ["b", 1, null, {"c": "d"}]}));
    }
}
