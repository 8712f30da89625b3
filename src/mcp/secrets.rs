//! What a server was given to know us by, and may say again where others read it.

use std::borrow::Cow;

use secrecy::{ExposeSecret, SecretString};

/// Shorter values are no secrets, and would be found in anything.
const SHORTEST: usize = 8;
const HIDDEN: &str = "[redacted]";

/// Values that nobody is to see.
#[derive(Debug, Clone, Default)]
pub(super) struct SentSecrets(Vec<SecretString>);

impl SentSecrets {
    /// Those that were sent as headers; of `Bearer …` what stands behind the scheme.
    pub(super) fn of<'a>(values: impl Iterator<Item = &'a SecretString>) -> Self {
        let bare = |value: &str| value.rsplit(' ').next().unwrap_or_default().to_owned();
        let bare = values.map(|value| bare(value.expose_secret())).filter(|value| value.len() >= SHORTEST);
        Self(bare.map(SecretString::from).collect())
    }

    /// `body` without them.
    pub(super) fn hidden<'a>(&self, body: &'a [u8]) -> Cow<'a, [u8]> {
        let Ok(mut text) = std::str::from_utf8(body).map(Cow::Borrowed) else { return Cow::Borrowed(body) };
        for secret in self.0.iter().map(ExposeSecret::expose_secret) {
            if text.contains(secret) {
                text = Cow::Owned(text.replace(secret, HIDDEN));
            }
        }
        match text {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_does_not_come_back() {
        let sent = ["Bearer crm-t0ken-1", "k", "t0ken-of-the-team"].map(SecretString::from);
        let secrets = SentSecrets::of(sent.iter());
        for (body, shown) in [
            ("you sent Bearer crm-t0ken-1!", "you sent Bearer [redacted]!"),
            (r#"["t0ken-of-the-team","crm-t0ken-1"]"#, r#"["[redacted]","[redacted]"]"#),
            ("k is fine", "k is fine"),
        ] {
            assert_eq!(secrets.hidden(body.as_bytes()), shown.as_bytes());
        }
        assert_eq!(&*secrets.hidden(b"\xFFcrm-t0ken"), b"\xFFcrm-t0ken");
        assert!(!format!("{secrets:?}").contains("t0ken"));
    }
}
