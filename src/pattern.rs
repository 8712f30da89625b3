//! Patterns as operators write them.

/// Whether a pattern, in which `*` stands for anything, fits the whole of `text`; capital letters do not count.
pub(crate) fn fits(pattern: &str, text: &str) -> bool {
    fits_exactly(&pattern.to_lowercase(), &text.to_lowercase())
}

/// The same where capital letters count, as in names: users that differ by them are others.
pub(crate) fn fits_exactly(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_fits_the_whole() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "anything", true),
            ("", "", true),
            ("", "a", false),
            ("a", "a", true),
            ("a", "ab", false),
            ("a", "ba", false),
            ("a*", "ba", false),
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*c", "acb", false),
            ("aa*aa", "aaa", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*", "ba", false),
            ("Gmail_*", "gmail_send", true),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
        assert!(fits_exactly("acme_*", "acme_1") && !fits_exactly("acme_*", "Acme_1"));
    }
}
