//! Samples, broken in the ways that break readers.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use serde_json::Value;

/// Seconds for each kind of input; without it, a moment, and the same input each time.
const SECONDS: &str = "FUZZ_SECONDS";
const MOMENT: Duration = Duration::from_millis(250);
/// No input of a few hundred kilobytes takes longer, in a debug build on a busy machine.
const LONGEST: Duration = Duration::from_secs(20);
/// Nor memory beyond this, in KiB; what is read at the same time by other tests counts as well.
const MOST_MEMORY: u64 = 1 << 20;
/// Nor is a refusal longer.
const MOST_WORDS: usize = 64 << 10;

/// Inputs grow by no more than this at a time.
const MOST_BYTES: usize = 128 << 10;

/// What became of an input.
pub(super) enum Verdict {
    /// It was read.
    Taken,
    /// It was not, with these words for whoever sent it.
    Refused(String),
}

impl Verdict {
    pub(super) fn of<T, E: ToString>(result: Result<T, E>) -> Self {
        result.map_or_else(|error| Self::Refused(error.to_string()), |_| Self::Taken)
    }
}

/// One way to break an input.
#[derive(Debug, Clone)]
enum Change {
    /// Other bits at a place.
    Flip(Index, u8),
    /// Nothing from there on.
    Cut(Index),
    /// A part less.
    Remove(Index, usize),
    /// A part again and again.
    Repeat(Index, usize, usize),
    /// Something in between.
    Insert(Index, Vec<u8>),
    /// Another value at a place of the JSON, as it is written.
    Replace(Index, String),
    /// A place of the JSON so often within itself.
    Nest(Index, usize),
    /// A place of the JSON so often beside itself.
    Widen(Index, usize),
}

/// Values that somebody forgets, as they are written.
fn odd() -> impl Strategy<Value = String> {
    let words = [
        "null",
        "true",
        "-1",
        "0",
        "1.5",
        "1e308",
        "1e999",
        "-",
        "18446744073709551615",
        "18446744073709551616",
        "-9223372036854775809",
        "9007199254740993",
        "\"\"",
        r#""\u0000""#,
        r#""\ud800""#,
        "{}",
        "[]",
        "[null]",
        "NaN",
        r#"{"":{"":""}}"#,
        r#""../../x""#,
        r#""a:b%3A{}""#,
        r#""{{x}}""#,
        r##""#/$defs/a""##,
        r##"{"$ref":"#"}"##,
        r#""9999-12-31T23:59:59Z""#,
        r#""-009999-01-01T00:00:00Z""#,
        r#""\u202e\u0007\u001b[31m""#,
        "\"1e9\"",
    ];
    prop_oneof![
        8 => select(words.map(str::to_owned).to_vec()),
        1 => (1..100_000_usize).prop_map(|count| format!("\"{}\"", "é".repeat(count / 2))),
        1 => (1..100_000_usize).prop_map(|levels| "[".repeat(levels) + &"]".repeat(levels)),
        1 => (1..60_000_usize).prop_map(|count| format!("[{}0]", "0,".repeat(count))),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    prop_oneof![
        1 => (at(), 1..=255_u8).prop_map(|(at, bits)| Change::Flip(at, bits)),
        1 => at().prop_map(Change::Cut),
        1 => (at(), 1..64_usize).prop_map(|(at, length)| Change::Remove(at, length)),
        1 => (at(), 1..64_usize, 1..200_usize).prop_map(|(at, length, times)| Change::Repeat(at, length, times)),
        1 => (at(), vec(any::<u8>(), 1..8)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        1 => (at(), odd()).prop_map(|(at, value)| Change::Insert(at, value.into_bytes())),
        4 => (at(), odd()).prop_map(|(at, value)| Change::Replace(at, value)),
        1 => (at(), 1..200_usize).prop_map(|(at, levels)| Change::Nest(at, levels)),
        1 => (at(), 1..2000_usize).prop_map(|(at, count)| Change::Widen(at, count)),
    ]
}

impl Change {
    fn make(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        if bytes.is_empty() {
            return bytes;
        }
        let part = |at: &Index, length: usize| {
            let at = at.index(bytes.len());
            at..(at + length).min(bytes.len())
        };
        match self {
            Self::Flip(at, bits) => {
                let at = at.index(bytes.len());
                bytes[at] ^= bits;
            }
            Self::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Self::Remove(at, length) => drop(bytes.drain(part(at, *length))),
            Self::Repeat(at, length, times) => {
                let part = part(at, *length);
                let again = bytes[part.clone()].repeat(*times);
                bytes.splice(part.end..part.end, again);
            }
            Self::Insert(at, more) => {
                let at = at.index(bytes.len());
                bytes.splice(at..at, more.iter().copied());
            }
            Self::Replace(at, value) => return replaced(bytes, *at, |_| value.clone()),
            Self::Nest(at, levels) => {
                return replaced(bytes, *at, |value| format!("{}{value}{}", "[".repeat(*levels), "]".repeat(*levels)));
            }
            Self::Widen(at, count) => {
                return replaced(bytes, *at, |value| {
                    let value = value.to_string();
                    let count = (*count).min(MOST_BYTES / (value.len() + 1));
                    format!("[{}{value}]", format!("{value},").repeat(count))
                });
            }
        }
        bytes
    }
}

/// JSON with another text at a place of it; what is none stays as it is.
fn replaced(bytes: Vec<u8>, at: Index, new: impl FnOnce(&Value) -> String) -> Vec<u8> {
    const PLACE: &str = "the place that is changed";
    let Ok(mut document) = serde_json::from_slice::<Value>(&bytes) else { return bytes };
    let mut pointers = Vec::new();
    collect(&document, String::new(), &mut pointers);
    let Some(found) = document.pointer_mut(&pointers[at.index(pointers.len())]) else { return bytes };
    let value = std::mem::replace(found, PLACE.into());
    document.to_string().replacen(&format!("\"{PLACE}\""), &new(&value), 1).into_bytes()
}

/// Every place of the document.
fn collect(value: &Value, pointer: String, into: &mut Vec<String>) {
    match value {
        Value::Array(list) => {
            for (index, item) in list.iter().enumerate() {
                collect(item, format!("{pointer}/{index}"), into);
            }
        }
        Value::Object(object) => {
            for (name, item) in object {
                collect(item, format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1")), into);
            }
        }
        _ => {}
    }
    into.push(pointer);
}

/// Reads the samples, all of which are sound, and then broken ones for as long as there is time. Returns how many of these
/// were refused.
pub(super) fn fuzz<S: AsRef<[u8]>>(samples: impl IntoIterator<Item = S>, read: impl Fn(&[u8]) -> Verdict) -> u32 {
    fuzz_for(samples, read, 1)
}

/// The same in a twentieth of the time.
pub(super) fn fuzz_a_little<S: AsRef<[u8]>>(
    samples: impl IntoIterator<Item = S>,
    read: impl Fn(&[u8]) -> Verdict,
) -> u32 {
    fuzz_for(samples, read, 20)
}

fn fuzz_for<S: AsRef<[u8]>>(samples: impl IntoIterator<Item = S>, read: impl Fn(&[u8]) -> Verdict, share: u32) -> u32 {
    let samples: Vec<Vec<u8>> = samples.into_iter().map(|sample| sample.as_ref().to_vec()).collect();
    for sample in &samples {
        if let Verdict::Refused(words) = read(sample) {
            panic!("a sound sample is refused: {words}\n{}", String::from_utf8_lossy(sample));
        }
    }
    #[expect(clippy::disallowed_methods, reason = "a setting of the tests")]
    let seconds = std::env::var(SECONDS).ok().and_then(|text| text.parse().ok()).map(Duration::from_secs);
    let config = Config { cases: 4, failure_persistence: None, max_shrink_iters: 2000, ..Config::default() };
    let mut runner = match seconds {
        None => TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha)),
        Some(_) => TestRunner::new(config),
    };
    let (until, refused) = (Instant::now() + seconds.unwrap_or(MOMENT) / share, Cell::new(0_u32));
    let broken = (select(samples), vec(change(), 1..5));
    while Instant::now() < until {
        let result = runner.run(&broken, |(sample, changes)| {
            let bytes = changes.iter().fold(sample, |bytes, change| change.make(bytes));
            let began = Instant::now();
            let verdict = std::panic::catch_unwind(AssertUnwindSafe(|| read(&bytes)));
            let verdict = verdict.map_err(|_| TestCaseError::fail(told("it panicked", &bytes)))?;
            prop_assert!(began.elapsed() < LONGEST, "{}", told("it took too long", &bytes));
            prop_assert!(memory() < MOST_MEMORY, "{}", told("it took too much memory", &bytes));
            if let Verdict::Refused(words) = verdict {
                refused.set(refused.get() + 1);
                prop_assert!(!words.trim().is_empty(), "{}", told("nobody is told why it is refused", &bytes));
                prop_assert!(words.len() <= MOST_WORDS, "{}", told("too much is said of it", &bytes));
            }
            Ok(())
        });
        if let Err(error) = result {
            panic!("{error}");
        }
    }
    refused.get()
}

fn told(what: &str, bytes: &[u8]) -> String {
    format!("{what}: {}", String::from_utf8_lossy(&bytes[..bytes.len().min(4096)]))
}

/// What this process has resident, in KiB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}
