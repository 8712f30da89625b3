//! The parts of a schema, each once, with what they lead to.

use std::collections::HashMap;

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use super::BadSchema;
/// Keywords whose schema, or list of schemas, is applied to the value itself.
const IN_PLACE: [&str; 7] = ["allOf", "anyOf", "oneOf", "not", "if", "then", "else"];
/// Keywords whose members are schemas that are applied to the value itself where it has the member's name.
const DEPENDENT: [&str; 2] = ["dependentSchemas", "dependencies"];
/// Keywords whose schema, or list of schemas, may be applied to everything directly in the value.
const INSIDE: [&str; 7] = [
    "items",
    "prefixItems",
    "additionalItems",
    "contains",
    "additionalProperties",
    "unevaluatedItems",
    "unevaluatedProperties",
];
const REFERENCES: [&str; 3] = ["$ref", "$dynamicRef", "$recursiveRef"];
/// Steps of one pattern that needs backtracking, however often it goes back.
const BACKTRACKING_STEPS: u64 = 1000;

/// A part of a schema, with what it leads to, by their places in the list.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// Steps for the keywords themselves.
    pub(super) own: u64,
    pub(super) in_place: Vec<usize>,
    /// Applied to everything directly in the value.
    pub(super) inside: Vec<usize>,
    /// Applied to items by their place, and to members by their name.
    pub(super) items: Vec<usize>,
    pub(super) members: HashMap<String, usize>,
    /// Applied to the names of members.
    pub(super) names: Vec<usize>,
    /// Steps of the patterns for texts, and of those for the names of members.
    pub(super) pattern: u64,
    pub(super) name_patterns: u64,
    /// Whether all that is applied to the value itself is looked at once more for each member.
    pub(super) unevaluated: bool,
    pub(super) unique: bool,
}

/// Finds the parts that a schema's root leads to.
struct Reader<'s> {
    root: &'s Value,
    anchors: HashMap<&'s str, Vec<&'s Value>>,
    parts: Vec<Part>,
    known: HashMap<*const Value, usize>,
    waiting: Vec<(usize, &'s Value)>,
    patterns: HashMap<&'s str, u64>,
    /// The schema's own name, by which it may refer to itself.
    name: Option<&'s str>,
    /// Whether a part of it has a name that references within it count from.
    renamed: bool,
}

/// The parts that `root` leads to, itself the first, and how many different patterns they have.
pub(super) fn read(root: &Value) -> Result<(Vec<Part>, usize), BadSchema> {
    Reader::new(root).read()
}

impl<'s> Reader<'s> {
    fn new(root: &'s Value) -> Self {
        let name = root.get("$id").and_then(Value::as_str).map(|name| name.trim_end_matches('#'));
        Self {
            root,
            anchors: HashMap::new(),
            parts: Vec::new(),
            known: HashMap::new(),
            waiting: Vec::new(),
            patterns: HashMap::new(),
            name: name.filter(|name| !name.is_empty()),
            renamed: false,
        }
    }

    fn read(mut self) -> Result<(Vec<Part>, usize), BadSchema> {
        self.find_anchors();
        self.part(self.root);
        while let Some((part, schema)) = self.waiting.pop() {
            if let Value::Object(keywords) = schema {
                self.parts[part] = self.read_keywords(keywords)?;
            }
        }
        Ok((self.parts, self.patterns.len()))
    }

    fn find_anchors(&mut self) {
        let mut waiting = vec![self.root];
        while let Some(value) = waiting.pop() {
            match value {
                Value::Array(items) => waiting.extend(items),
                Value::Object(members) => {
                    for keyword in ["$anchor", "$dynamicAnchor", "$id", "id"] {
                        let Some(text) = members.get(keyword).and_then(Value::as_str) else { continue };
                        let anchor = if keyword.ends_with("nchor") { Some(text) } else { text.strip_prefix('#') };
                        match anchor {
                            Some(anchor) => self.anchors.entry(anchor).or_default().push(value),
                            None => self.renamed |= keyword == "$id" && !std::ptr::eq(value, self.root),
                        }
                    }
                    waiting.extend(members.values());
                }
                _ => {}
            }
        }
    }

    /// The part that `schema` is, read later.
    fn part(&mut self, schema: &'s Value) -> usize {
        let next = self.parts.len();
        let part = *self.known.entry(std::ptr::from_ref(schema)).or_insert(next);
        if part == next {
            self.parts.push(Part { own: 1, ..Part::default() });
            self.waiting.push((part, schema));
        }
        part
    }

    fn all(&mut self, schemas: &'s Value) -> Vec<usize> {
        match schemas {
            Value::Array(schemas) => schemas.iter().map(|schema| self.part(schema)).collect(),
            Value::Object(_) => vec![self.part(schemas)],
            _ => Vec::new(),
        }
    }

    fn read_keywords(&mut self, keywords: &'s Map<String, Value>) -> Result<Part, BadSchema> {
        let mut part = Part { own: 1, ..Part::default() };
        for (keyword, value) in keywords {
            let keyword = keyword.as_str();
            part.own += 1;
            if REFERENCES.contains(&keyword) {
                let Some(reference) = value.as_str() else { continue };
                let targets = self.targets(reference)?;
                part.in_place.extend(targets.into_iter().map(|target| self.part(target)).collect::<Vec<_>>());
            } else if IN_PLACE.contains(&keyword) {
                part.in_place.extend(self.all(value));
            } else if keyword == "items" || keyword == "prefixItems" {
                let list = value.is_array();
                let schemas = self.all(value);
                if list { part.items.extend(schemas) } else { part.inside.extend(schemas) }
            } else if INSIDE.contains(&keyword) {
                part.inside.extend(self.all(value));
                part.unevaluated |= keyword.starts_with("unevaluated");
            } else if keyword == "propertyNames" {
                part.names.extend(self.all(value));
            } else if keyword == "uniqueItems" {
                part.unique = true;
            } else if keyword == "pattern" {
                part.pattern += value.as_str().map_or(0, |pattern| self.pattern(pattern));
            } else if let Value::Object(members) = value {
                self.read_members(&mut part, keyword, members);
            } else if let Value::Array(entries) = value {
                part.own += entries.len() as u64;
            }
        }
        Ok(part)
    }

    fn read_members(&mut self, part: &mut Part, keyword: &str, members: &'s Map<String, Value>) {
        if keyword == "properties" {
            for (name, schema) in members {
                part.members.insert(name.clone(), self.part(schema));
            }
        } else if keyword == "patternProperties" {
            for (pattern, schema) in members {
                // Once more for what is additional.
                part.name_patterns += 2 * self.pattern(pattern);
                part.inside.push(self.part(schema));
            }
        } else if DEPENDENT.contains(&keyword) {
            part.own += members.len() as u64;
            part.in_place.extend(members.values().map(|schema| self.part(schema)).collect::<Vec<_>>());
        }
    }

    /// What a reference may lead to.
    fn targets(&self, reference: &str) -> Result<Vec<&'s Value>, BadSchema> {
        let within = self.name.and_then(|name| reference.strip_prefix(name)).unwrap_or(reference);
        let Some(fragment) = within.strip_prefix('#').or_else(|| within.is_empty().then_some("")) else {
            return Err(BadSchema::invalid("a `$ref` must lead to the schema itself, as `#/$defs/name` does"));
        };
        if self.renamed {
            return Err(BadSchema::invalid("a schema with a `$ref` must have no `$id` but at its top"));
        }
        let fragment = percent_decode_str(fragment).decode_utf8_lossy();
        let targets = match self.anchors.get(fragment.as_ref()) {
            Some(anchored) => anchored.clone(),
            None => self.root.pointer(&fragment).into_iter().collect(),
        };
        if targets.is_empty() {
            return Err(BadSchema::invalid("a `$ref` leads to nothing"));
        }
        Ok(targets)
    }

    /// Steps of a pattern for each piece of a text. What the linear engine cannot do is told by its signs; one too many does
    /// no harm.
    fn pattern(&mut self, pattern: &'s str) -> u64 {
        let goes_back = ["(?=", "(?!", "(?<", "(?>", "\\k", "++", "*+", "?+", "}+"];
        let number = |pair: &[u8]| pair[0] == b'\\' && pair[1].is_ascii_digit() && pair[1] != b'0';
        let backtracks =
            goes_back.iter().any(|sign| pattern.contains(sign)) || pattern.as_bytes().windows(2).any(number);
        let repeats = pattern.bytes().filter(|byte| b"*+{|".contains(byte)).count() as u64;
        let steps = if backtracks { BACKTRACKING_STEPS } else { 4 + 4 * repeats };
        *self.patterns.entry(pattern).or_insert(steps)
    }
}
