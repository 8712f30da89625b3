//! Foreign text as it may be shown in errors and logs: short, in one line, without what gives rights.

use crate::text::is_invisible;

/// Longest [`excerpt`] in characters.
pub(super) const EXCERPT_CHARACTERS: usize = 200;

/// From this length on a word of letters and digits is taken for a secret: longer than names of tools and ids of
/// executions, shorter than every token, key and hash.
const SECRET_CHARACTERS: usize = 24;

/// So many characters are read for one that is shown.
const READ_FOR_ONE: usize = 100;

const REDACTED: &str = "[redacted]";

/// What can be shown of a body or another foreign text: one line of at most 200 characters in which tokens, keys, JWTs
/// and links that carry rights are replaced.
pub fn excerpt(body: &[u8]) -> String {
    // The rest of a large body is not looked at. Much more than is shown is: a secret cut in half is not known for one.
    let start = &body[..body.len().min(16 << 10)];
    redacted(&String::from_utf8_lossy(start), EXCERPT_CHARACTERS)
}

/// `text` as one line of at most `limit` characters, with secrets replaced as in [`excerpt`] and nothing in it that people do
/// not see.
pub fn redacted(text: &str, limit: usize) -> String {
    let text = shown(text, limit);
    let visible = text.split(|character: char| character.is_whitespace() || character.is_control());
    let words = visible.filter(|word| !word.is_empty()).take(limit);
    let words: Vec<_> = words.map(|word| if is_link_with_rights(word) { REDACTED } else { word }).collect();
    let line = without_secrets(&words.join(" "));
    if line.chars().count() <= limit {
        return line;
    }
    line.chars().take(limit.saturating_sub(1)).chain(['…']).collect()
}

/// What there is to see of the beginning of `text`: more than `limit` characters of it, as some are taken out later.
fn shown(text: &str, limit: usize) -> String {
    text.chars().filter(|character| !is_invisible(*character)).take(limit.saturating_mul(READ_FOR_ONE)).collect()
}

/// The line is cut at what stands around values in JSON, forms and prose. A piece is replaced where it looks like a
/// secret, or follows `token:`, `secret=` and the like, or the word `bearer`.
fn without_secrets(line: &str) -> String {
    let mut result = String::new();
    let (mut named, mut expected) = (false, false);
    for piece in line.split_inclusive(|c: char| " \"'<>,;:(){}[]&?=\\/".contains(c)) {
        let bare = piece.trim_end_matches(|c: char| !c.is_alphanumeric());
        let rest = &piece[bare.len()..];
        if !bare.is_empty() {
            let scheme = bare.eq_ignore_ascii_case("bearer") || bare.eq_ignore_ascii_case("basic");
            let secret = !scheme && (expected || looks_secret(bare));
            result.push_str(if secret { REDACTED } else { bare });
            (named, expected) = (!secret && names_secret(bare), scheme);
        }
        result.push_str(rest);
        expected |= named && rest.contains([':', '=']);
        named &= !rest.contains(' ');
    }
    result
}

fn is_link_with_rights(word: &str) -> bool {
    let lower = word.to_ascii_lowercase();
    let Some((_, rest)) = lower.split_once("://") else { return false };
    ["magiclink", "magic_link", "token=", "code=", "secret=", "signature=", "sig=", "key="]
        .iter()
        .any(|sign| lower.contains(sign))
        || rest.split('/').next().is_some_and(|host| host.contains('@'))
}

fn names_secret(word: &str) -> bool {
    let lower = word.trim_matches(|c: char| !c.is_alphanumeric()).to_ascii_lowercase();
    ["token", "secret", "password", "authorization", "apikey", "api_key", "api-key"]
        .iter()
        .any(|end| lower.ends_with(end))
}

fn looks_secret(word: &str) -> bool {
    const PREFIXES: [&str; 8] = ["eyJ", "sk-", "xoxb-", "xoxp-", "ghp_", "gho_", "ya29.", "whsec_"];
    let word = word.trim_matches(|c: char| !c.is_alphanumeric());
    if PREFIXES.iter().any(|prefix| word.starts_with(prefix)) && word.len() > 6 {
        return true;
    }
    word.len() >= SECRET_CHARACTERS
        && word.chars().any(|c| c.is_ascii_digit())
        && word.chars().any(|c| c.is_ascii_alphabetic())
        && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+~".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_shows_no_secret() {
        for (text, secret) in [
            (r#"{"authorization":"Bearer abc123"}"#, "abc123"),
            ("header Bearer abc123, sorry", "abc123"),
            ("jwt eyJhbGciOiJSUzI1NiJ9.e30.c2ln here", "c2ln"),
            (r#"{"link":"https://acme.scalekit.dev/magicLink/5f1d_x"}"#, "5f1d_x"),
            ("see https://user:pass1@acme.example/x", "pass1"),
            ("https://acme.example/cb?code=q7x", "q7x"),
            ("client_secret=s3cr3t&x=1", "s3cr3t"),
            (r#"{"access_token": "shorty1"}"#, "shorty1"),
            ("key sk-proj-12345678 is wrong", "12345678"),
            ("hash 0123456789abcdef0123456789abcdef", "0123456789abcdef"),
        ] {
            let shown = excerpt(text.as_bytes());
            assert!(!shown.contains(secret), "{shown}");
            assert!(shown.contains("[redacted]"), "{shown}");
        }
    }

    #[test]
    fn what_nobody_sees_is_taken_out_and_hides_no_secret() {
        assert_eq!(redacted("no\u{200B} such\u{E0041} page\u{AD}", 100), "no such page");
        assert_eq!(redacted("key sk-\u{200B}proj-12345678 is wrong", 100), "key [redacted] is wrong");
    }

    #[test]
    fn an_excerpt_keeps_ordinary_words() {
        for text in [
            "path templating failed: missing value for \"input.message_id\"",
            "Quota exceeded for metric 'Queries' per minute, see https://console.example.com/apis/overview",
            "exec_01J9ZK3T6Q8W gmail_batch_modify_messages failed",
        ] {
            assert_eq!(excerpt(text.as_bytes()), text);
        }
    }

    #[test]
    fn an_excerpt_is_one_short_line_whatever_comes() {
        let huge = vec![b'x'; 10 << 20];
        let words = "ab ".repeat(1 << 20);
        for body in [&b""[..], b"\xff\xfe\x00\x1b[31m\r\nGET", &huge, words.as_bytes(), "é".repeat(5000).as_bytes()] {
            let shown = excerpt(body);
            assert!(shown.chars().count() <= EXCERPT_CHARACTERS);
            assert!(!shown.chars().any(char::is_control));
        }
    }
}
