//! What a schema can cost at most: how large it is with its references followed, and how many steps one value takes.
//!
//! Both are counted before the work is done, in a time that grows with the schema and the value alone: what a reference
//! leads to is counted once and added as often as it is met. So a refusal depends on the two texts and on nothing else:
//! not on the machine, not on the hour.

use std::collections::HashMap;

use serde_json::Value;

use super::BadSchema;
use super::parts::{self, Part};

/// Printed bytes of a schema. Model servers take no larger ones, and those seen in the field stay under 40 KB.
const MOST_BYTES: usize = 128 << 10;
/// Parts of a schema, counted each time that a reference leads to them.
const MOST_PARTS: u64 = 100_000;
/// Different patterns in one schema.
const MOST_PATTERNS: usize = 100;
/// References and combinations that lead from one to the next without getting further in the value: the stack must hold
/// them.
const LONGEST_CHAIN: usize = 64;
/// Rules that lie within each other while one value is checked.
const DEEPEST: usize = 512;
/// Steps that one value may take, each well below a microsecond.
pub(super) const MOST_STEPS: u64 = 1_000_000;
/// Steps up to which every problem is told: beyond, they would take too much memory.
pub(super) const MOST_STEPS_TOLD: u64 = 50_000;

/// A schema as it is applied: each part once, with what it leads to.
#[derive(Debug)]
pub(super) struct ValidationCost {
    parts: Vec<Part>,
    pub(super) patterns: usize,
}

/// One value takes more steps than it may.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooManySteps;

impl ValidationCost {
    /// The cost of `schema`, or why it is not used.
    pub(super) fn of(schema: &Value) -> Result<Self, BadSchema> {
        let bytes = serde_json::to_vec(schema).map_or(0, |text| text.len());
        if bytes > MOST_BYTES {
            return Err(BadSchema::costs(format!("it has {bytes} bytes, {MOST_BYTES} are allowed")));
        }
        let (parts, patterns) = parts::read(schema)?;
        let cost = Self { parts, patterns };
        if cost.patterns > MOST_PATTERNS {
            let found = cost.patterns;
            return Err(BadSchema::costs(format!("it has {found} patterns, {MOST_PATTERNS} are allowed")));
        }
        cost.check_chains()?;
        if cost.expanded() > MOST_PARTS {
            return Err(BadSchema::costs(format!(
                "its references lead to more than {MOST_PARTS} parts, each counted as often as it is met"
            )));
        }
        Ok(cost)
    }

    /// The longest way that gets no further in the value must end, and early enough.
    fn check_chains(&self) -> Result<(), BadSchema> {
        fn chain(cost: &ValidationCost, part: usize, known: &mut [Option<usize>], above: usize) -> Option<usize> {
            if let Some(known) = known[part] {
                return Some(known);
            }
            if above > LONGEST_CHAIN {
                return None;
            }
            let mut longest = 0;
            for next in &cost.parts[part].in_place {
                longest = longest.max(chain(cost, *next, known, above + 1)? + 1);
            }
            known[part] = Some(longest);
            Some(longest)
        }
        let mut known = vec![None; self.parts.len()];
        let fits = |part| chain(self, part, &mut known, 0).is_some_and(|chain| chain <= LONGEST_CHAIN);
        if (0..self.parts.len()).all(fits) {
            return Ok(());
        }
        Err(BadSchema::costs(format!(
            "its references lead back to themselves, or through more than {LONGEST_CHAIN} others, for the same value"
        )))
    }

    /// Parts, each as often as references lead to it; what leads back to itself is not followed further.
    fn expanded(&self) -> u64 {
        fn count(cost: &ValidationCost, part: usize, known: &mut [Option<u64>], depth: usize) -> u64 {
            if let Some(known) = known[part] {
                return known;
            }
            if depth > DEEPEST {
                return u64::MAX;
            }
            known[part] = Some(0);
            let Part { in_place, inside, items, members, names, .. } = &cost.parts[part];
            let next = in_place.iter().chain(inside).chain(items).chain(members.values()).chain(names);
            let sum = next.fold(1, |sum: u64, next| sum.saturating_add(count(cost, *next, known, depth + 1)));
            known[part] = Some(sum);
            sum
        }
        count(self, 0, &mut vec![None; self.parts.len()], 0)
    }

    /// How many steps it takes at most to check `value`, where these are no more than `most`.
    pub(super) fn steps(&self, value: &Value, most: u64) -> Result<u64, TooManySteps> {
        let mut count = Count { cost: self, most, known: HashMap::new(), visits: 0 };
        count.steps(0, At::Value(value), 0)
    }
}

/// What a part is applied to.
#[derive(Clone, Copy)]
enum At<'v> {
    Value(&'v Value),
    Name(&'v str),
}

impl At<'_> {
    fn address(self) -> usize {
        match self {
            Self::Value(value) => std::ptr::from_ref(value) as usize,
            Self::Name(name) => name.as_ptr() as usize,
        }
    }
}

struct Count<'p> {
    cost: &'p ValidationCost,
    most: u64,
    /// By part and by where the value is.
    known: HashMap<(usize, usize), u64>,
    /// What the counting itself took.
    visits: u64,
}

impl Count<'_> {
    fn within(&self, steps: u64) -> Result<u64, TooManySteps> {
        if steps > self.most { Err(TooManySteps) } else { Ok(steps) }
    }

    fn steps(&mut self, part: usize, at: At<'_>, depth: usize) -> Result<u64, TooManySteps> {
        let cost = self.cost;
        let rules = &cost.parts[part];
        let leads_on = !rules.in_place.is_empty() || matches!(at, At::Value(Value::Array(_) | Value::Object(_)));
        if leads_on && let Some(known) = self.known.get(&(part, at.address())) {
            return Ok(*known);
        }
        self.visits += 1;
        if depth > DEEPEST || self.visits > self.most {
            return Err(TooManySteps);
        }
        let mut sum = rules.own;
        for next in &rules.in_place {
            sum = sum.saturating_add(self.steps(*next, at, depth + 1)?);
            sum = self.within(sum)?;
        }
        match at {
            At::Value(Value::Array(items)) => {
                if rules.unevaluated {
                    sum = sum.saturating_mul(2);
                }
                for (place, item) in items.iter().enumerate() {
                    for next in rules.inside.iter().chain(rules.items.get(place)) {
                        sum = sum.saturating_add(self.steps(*next, At::Value(item), depth + 1)?);
                        sum = self.within(sum)?;
                    }
                }
                if rules.unique {
                    sum = sum.saturating_add(16 * self.size(items.iter())?);
                    sum = self.within(sum)?;
                }
            }
            At::Value(Value::Object(members)) => {
                if rules.unevaluated {
                    sum = sum.saturating_mul(1 + members.len() as u64);
                }
                for (name, member) in members {
                    let texts = rules.name_patterns.saturating_mul(length(name));
                    sum = sum.saturating_add(texts);
                    sum = self.within(sum)?;
                    for next in rules.inside.iter().chain(rules.members.get(name)) {
                        sum = sum.saturating_add(self.steps(*next, At::Value(member), depth + 1)?);
                        sum = self.within(sum)?;
                    }
                    for next in &rules.names {
                        sum = sum.saturating_add(self.steps(*next, At::Name(name), depth + 1)?);
                        sum = self.within(sum)?;
                    }
                }
            }
            At::Value(Value::String(text)) => {
                sum = sum.saturating_add((1 + rules.pattern).saturating_mul(length(text)));
            }
            At::Name(text) => sum = sum.saturating_add((1 + rules.pattern).saturating_mul(length(text))),
            At::Value(_) => {}
        }
        let sum = self.within(sum)?;
        if leads_on {
            self.known.insert((part, at.address()), sum);
        }
        Ok(sum)
    }

    /// Values within `values`, themselves included.
    fn size<'v>(&mut self, values: impl Iterator<Item = &'v Value>) -> Result<u64, TooManySteps> {
        let mut sum = 0;
        for value in values {
            self.visits += 1;
            self.within(self.visits)?;
            sum += 1 + match value {
                Value::Array(items) => self.size(items.iter())?,
                Value::Object(members) => self.size(members.values())?,
                Value::String(text) => length(text),
                _ => 0,
            };
        }
        Ok(sum)
    }
}

/// A text is read in pieces of so many bytes, a step each.
fn length(text: &str) -> u64 {
    1 + text.len() as u64 / 64
}
