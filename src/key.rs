//! Keys in shared stores, made so that no part can reach into another's place.

use std::fmt::{self, Write};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::{Digest, Sha256};

/// Everything but letters, digits, `-`, `_`, `.` and `~` is encoded (RFC 3986's unreserved set), `%` and `:` too.
const PART: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A key of a shared store: `part:part:…`, each part percent-encoded, so `a:b` and `a%3Ab` stay different keys.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(String);

impl Key {
    /// The key made of `parts`.
    pub fn new(parts: &[&str]) -> Self {
        Self(parts.iter().map(|part| encode(part)).collect::<Vec<_>>().join(":"))
    }

    /// The key as text, without any store's prefix.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The first `bytes` bytes of the SHA-256 of `data`, in hexadecimal: a short name for a long thing.
pub fn digest(data: impl AsRef<[u8]>, bytes: usize) -> String {
    Sha256::digest(data).iter().take(bytes).fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all that is written");
        text
    })
}

/// One part of a key, encoded.
pub fn encode(part: &str) -> String {
    utf8_percent_encode(part, PART).to_string()
}

/// What [`encode`] made a part of a key of; `None` where it is not text.
pub fn decode(part: &str) -> Option<String> {
    Some(percent_decode_str(part).decode_utf8().ok()?.into_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn hostile_parts_never_share_a_key() {
        let long = "é".repeat(100);
        let names = ["a:b", "a%3Ab", "a%253Ab", "../x", "a\nb", "a b", "{a}", "a", "b", &long];
        let mut keys = BTreeSet::new();
        for one in names {
            for other in names {
                assert!(keys.insert(Key::new(&[one, other])), "{one:?} {other:?}");
            }
        }
        for name in names {
            assert_eq!(decode(&encode(name)).as_deref(), Some(name));
        }
        for key in keys {
            assert_eq!(key.as_str().matches(':').count(), 1);
            assert!(!key.as_str().contains(['{', '}', '\n', ' ', '/']));
        }
    }
}
