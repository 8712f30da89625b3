//! Prompts with placeholders: `{{name}}`.

use std::collections::{BTreeMap, BTreeSet};

/// Placeholders that every digest has.
pub(super) const BUILT_IN: [&str; 6] = ["date", "time", "since", "timezone", "identifier", "digest"];

/// A text with placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Placeholder(String),
}

impl Template {
    pub(super) fn new(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let Some((name, behind)) = after.split_once("}}") else {
                return Err("a placeholder is not closed: `{{` without `}}`".to_owned());
            };
            let name = name.trim();
            if name.is_empty() || name.contains(['{', '\n']) {
                return Err(format!("`{{{{{}}}}}` is no placeholder", name.lines().next().unwrap_or_default()));
            }
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(Piece::Placeholder(name.to_owned()));
            rest = behind;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Ok(Self(pieces))
    }

    /// The placeholders that are not built in: fields that recipients must have.
    pub(super) fn fields(&self) -> BTreeSet<&str> {
        let names = self.0.iter().filter_map(|piece| match piece {
            Piece::Placeholder(name) => Some(name.as_str()),
            Piece::Text(_) => None,
        });
        names.filter(|name| !BUILT_IN.contains(name)).collect()
    }

    /// The text with everything filled in, or the first placeholder that has no value. Values are not read again.
    pub(super) fn fill(&self, values: &[(&str, &str)], fields: &BTreeMap<String, String>) -> Result<String, String> {
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(piece) => text.push_str(piece),
                Piece::Placeholder(name) => {
                    let built_in = values.iter().find(|(known, _)| known == name).map(|(_, value)| *value);
                    let value = built_in.or_else(|| fields.get(name).map(String::as_str));
                    text.push_str(value.ok_or_else(|| format!("there is no value for `{{{{{name}}}}}`"))?);
                }
            }
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(text: &str) -> Result<String, String> {
        let fields =
            BTreeMap::from([("name".to_owned(), "{{date}}".to_owned()), ("date".to_owned(), "never".to_owned())]);
        Template::new(text)?.fill(&[("date", "2026-03-08")], &fields)
    }

    #[test]
    fn placeholders_are_filled_once_and_built_in_ones_win() {
        assert_eq!(fill("{{date}}: hello {{ name }}!").unwrap(), "2026-03-08: hello {{date}}!");
        assert_eq!(fill("no placeholder } {").unwrap(), "no placeholder } {");
        assert_eq!(fill("{{other}}").unwrap_err(), "there is no value for `{{other}}`");
    }

    #[test]
    fn half_placeholders_are_refused() {
        for text in ["{{", "a {{date", "{{}}", "{{ }}", "{{a{{b}}", "{{a\nb}}"] {
            assert!(Template::new(text).is_err(), "{text}");
        }
    }

    #[test]
    fn fields_are_what_recipients_must_have() {
        assert_eq!(Template::new("{{date}} {{b}} {{a}} {{b}}").unwrap().fields(), BTreeSet::from(["a", "b"]));
    }
}
