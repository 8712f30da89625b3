//! Whether a webhook comes from who holds the secret: the signatures of Standard Webhooks (standardwebhooks.com), as
//! Scalekit signs its events.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::digest::CtOutput;
use hmac::{Hmac, Mac as _};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

/// A webhook is taken for so many seconds before and after it was signed, against replays.
const TOLERANCE_SECONDS: i64 = 300;
/// Signatures of one webhook that are looked at. A sender that replaces its secret gives two.
const MOST_CANDIDATES: usize = 10;

/// The keys of signatures that are taken; several while a secret is being replaced.
pub(crate) struct Secrets(Vec<Vec<u8>>);

/// A webhook as it came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Signed<'a> {
    /// Header `webhook-id`.
    pub id: &'a str,
    /// Header `webhook-timestamp`: Unix seconds.
    pub timestamp: &'a str,
    /// Header `webhook-signature`: `v1,` and base64, several separated by spaces.
    pub signature: &'a str,
    /// The body, byte for byte.
    pub body: &'a [u8],
}

/// Why a webhook is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Forged {
    /// There is no id, or the time is none.
    #[error("`webhook-id`, `webhook-timestamp` and `webhook-signature` are needed")]
    Incomplete,
    /// It was signed too long ago, or by a clock that is ahead.
    #[error("it was signed more than {TOLERANCE_SECONDS} seconds ago or ahead")]
    OutOfTime,
    /// No signature fits.
    #[error("no signature fits")]
    BadSignature,
}

impl Secrets {
    /// Reads `whsec_` and base64, several separated by commas; none where the text is empty.
    ///
    /// # Errors
    /// In words that do not repeat the text.
    pub(crate) fn parse(text: &SecretString) -> Result<Self, String> {
        let all = text.expose_secret().split(',').map(str::trim).filter(|secret| !secret.is_empty());
        let key = |secret: &str| {
            let key = secret.strip_prefix("whsec_").and_then(|encoded| STANDARD.decode(encoded).ok());
            key.filter(|key| !key.is_empty())
        };
        let keys: Option<Vec<_>> = all.map(key).collect();
        keys.map(Self).ok_or_else(|| "must be `whsec_` and base64; several are separated by commas".to_owned())
    }

    /// Whether there is none, so that no webhook can be believed.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What each key signs this with, as the header `webhook-signature` has it; `timestamp` is Unix seconds.
    pub(crate) fn sign(&self, id: &str, timestamp: &str, body: &[u8]) -> String {
        let signed = Signed { id, timestamp, signature: "", body };
        let tags = self.0.iter().map(|key| format!("v1,{}", STANDARD.encode(tag(key, &signed).into_bytes())));
        tags.collect::<Vec<_>>().join(" ")
    }

    /// Whether one of the keys signed exactly this, about `now`.
    pub(crate) fn verify(&self, signed: &Signed<'_>, now: Timestamp) -> Result<(), Forged> {
        let Ok(timestamp) = signed.timestamp.parse::<i64>() else { return Err(Forged::Incomplete) };
        if signed.id.is_empty() {
            return Err(Forged::Incomplete);
        }
        if now.as_second().saturating_sub(timestamp).saturating_abs() > TOLERANCE_SECONDS {
            return Err(Forged::OutOfTime);
        }
        let candidates = candidates(signed.signature);
        if candidates.is_empty() {
            return Err(Forged::BadSignature);
        }
        let fits = self.0.iter().map(|key| tag(key, signed)).any(|tag| candidates.contains(&tag));
        if fits { Ok(()) } else { Err(Forged::BadSignature) }
    }
}

/// Compared in a time that does not tell how much of it is right.
type Tag = CtOutput<Hmac<Sha256>>;

/// The signatures that are looked at, so many at most: what costs anything must not be given without number by who has no
/// secret. One that cannot be read is somebody else's: another version's, or rubbish beside the right one.
fn candidates(signature: &str) -> Vec<Tag> {
    let encoded = signature.split(' ').take(MOST_CANDIDATES).filter_map(|candidate| candidate.strip_prefix("v1,"));
    let tags = encoded.filter_map(|encoded| <[u8; 32]>::try_from(STANDARD.decode(encoded).ok()?).ok());
    tags.map(|tag| Tag::new(tag.into())).collect()
}

fn tag(key: &[u8], signed: &Signed<'_>) -> Tag {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length is a key for hmac");
    for part in [signed.id.as_bytes(), b".", signed.timestamp.as_bytes(), b".", signed.body] {
        mac.update(part);
    }
    mac.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    // Computed with OpenSSL: printf '%s' "$id.$timestamp.$body" | openssl dgst -sha256 -hmac "$key" -binary | base64
    const SECRET: &str = "whsec_b25lIGtleSBmb3IgdGVzdHM=";
    const OTHER: &str = "whsec_YW5vdGhlciBrZXkgZm9yIHRlc3Rz";
    const BODY: &[u8] = br#"{"type":"connected_account.status_updated"}"#;
    const GOOD: &str = "v1,UA3jhv9qHMXRdwvbEYK7VgsXgd3Q2v42fa8ePwSGZxI=";
    const AT: i64 = 1_795_000_000;

    fn secrets(text: &str) -> Secrets {
        Secrets::parse(&text.to_owned().into()).unwrap()
    }

    fn verify(secret: &str, signature: &str, body: &[u8], late: i64) -> Result<(), Forged> {
        let signed = Signed { id: "msg_1", timestamp: "1795000000", signature, body };
        secrets(secret).verify(&signed, Timestamp::from_second(AT + late).unwrap())
    }

    #[test]
    fn what_was_signed_with_the_secret_is_believed() {
        assert_eq!(verify(SECRET, GOOD, BODY, 0), Ok(()));
    }

    #[test]
    fn one_good_signature_among_others_is_enough() {
        for beside in ["v1,", "v1,%%%", "v1", "v2,AAAA", "v1a,AAAA", "", "v1,AAAA", "v1,é"] {
            assert_eq!(verify(SECRET, &format!("{beside} {GOOD} {beside}"), BODY, 0), Ok(()), "{beside}");
            assert_eq!(verify(SECRET, beside, BODY, 0), Err(Forged::BadSignature), "{beside}");
        }
    }

    #[test]
    fn ten_signatures_are_looked_at_however_many_are_given_and_none_of_the_wrong_length() {
        let flood = |good_at: usize| {
            let mut all = vec!["v1,"; 100_000];
            all[good_at] = GOOD;
            all.join(" ")
        };
        assert_eq!(verify(SECRET, &flood(MOST_CANDIDATES - 1), BODY, 0), Ok(()));
        assert_eq!(verify(SECRET, &flood(MOST_CANDIDATES), BODY, 0), Err(Forged::BadSignature));
        assert_eq!(candidates(&flood(MOST_CANDIDATES - 1)).len(), 1, "each key signs once for all of these");
        assert!(candidates(&vec![GOOD; 100_000].join(" ")).len() <= MOST_CANDIDATES);
        for wrong in ["v1,", "v1,AAAA", &format!("{GOOD}AAAA")] {
            assert!(candidates(wrong).is_empty(), "{wrong}: nobody needs to sign for it");
        }
    }

    #[test]
    fn a_secret_that_is_being_replaced_counts_beside_the_new_one() {
        assert_eq!(verify(&format!("{OTHER}, {SECRET}"), GOOD, BODY, 0), Ok(()));
        assert_eq!(verify(OTHER, GOOD, BODY, 0), Err(Forged::BadSignature));
    }

    #[test]
    fn a_single_changed_byte_is_noticed() {
        assert_eq!(verify(SECRET, GOOD, &BODY[1..], 0), Err(Forged::BadSignature));
        let now = Timestamp::from_second(AT).unwrap();
        for (id, timestamp) in [("msg_2", "1795000000"), ("msg_1", "1795000001")] {
            let signed = Signed { id, timestamp, signature: GOOD, body: BODY };
            assert_eq!(secrets(SECRET).verify(&signed, now), Err(Forged::BadSignature));
        }
    }

    #[test]
    fn five_minutes_are_the_limit_both_ways() {
        for late in [-300, 300] {
            assert_eq!(verify(SECRET, GOOD, BODY, late), Ok(()));
        }
        for late in [-301, 301, 86_400] {
            assert_eq!(verify(SECRET, GOOD, BODY, late), Err(Forged::OutOfTime));
        }
    }

    #[test]
    fn headers_that_make_no_sense_are_refused() {
        let now = Timestamp::from_second(AT).unwrap();
        let extreme = i64::MIN.to_string();
        for (id, timestamp) in [("", "1795000000"), ("msg_1", ""), ("msg_1", "soon"), ("msg_1", "1795000000.5")] {
            let signed = Signed { id, timestamp, signature: GOOD, body: BODY };
            assert_eq!(secrets(SECRET).verify(&signed, now), Err(Forged::Incomplete), "{id} {timestamp}");
        }
        let signed = Signed { id: "msg_1", timestamp: &extreme, signature: GOOD, body: BODY };
        assert_eq!(secrets(SECRET).verify(&signed, now), Err(Forged::OutOfTime));
    }

    #[test]
    fn a_secret_of_another_form_is_refused_and_not_repeated() {
        for text in ["hunter2", "whsec_", "whsec_%", "whsec_aHVudGVyMg==,hunter2"] {
            let problem = Secrets::parse(&text.to_owned().into()).err().unwrap();
            assert!(!problem.contains("hunter2"), "{problem}");
        }
        assert!(secrets("").is_empty() && secrets(" , ").is_empty());
    }
}
