//! Links by which people decide: an id that anybody may know, and a token that only the worker can make.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac as _};
use jiff::Timestamp;
use sha2::Sha256;

use super::ApprovalConfig;
use crate::encryption::{KEY_BYTES, decoded};

/// What a link is bound to: for any other run, call, arguments or end of the wait it is worth nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bound<'a> {
    /// The approval, which names its run and its call.
    pub approval: &'a str,
    pub arguments_digest: &'a str,
    pub until: Timestamp,
}

/// Makes links and knows its own again.
#[derive(Default)]
pub(crate) struct Links {
    keys: Vec<[u8; KEY_BYTES]>,
    base: String,
}

impl Links {
    /// By the operator's keys; no link is made where there is no key or no address.
    ///
    /// # Errors
    /// In words that do not repeat the keys.
    pub(crate) fn new(config: &ApprovalConfig) -> Result<Self, String> {
        let keys = decoded(&config.link_key).map_err(|problem| format!("link_key: {problem}"))?;
        let base = config.public_url.trim_end_matches('/').to_owned();
        if !base.is_empty() && url::Url::parse(&base).ok().is_none_or(|url| !["http", "https"].contains(&url.scheme()))
        {
            return Err("public_url: must begin with https:// or http://".to_owned());
        }
        Ok(Self { keys, base })
    }

    /// The page where a person decides; it is a secret.
    pub(crate) fn link(&self, bound: &Bound<'_>) -> Option<String> {
        let key = self.keys.first().filter(|_| !self.base.is_empty())?;
        let token = URL_SAFE_NO_PAD.encode(mac(key, bound).finalize().into_bytes());
        Some(format!("{}/approvals/{}?t={token}", self.base, bound.approval))
    }

    /// Whether the token is of a link to exactly this, signed with any of the keys.
    pub(crate) fn is_genuine(&self, token: &str, bound: &Bound<'_>) -> bool {
        let Ok(tag) = URL_SAFE_NO_PAD.decode(token) else { return false };
        self.keys.iter().any(|key| mac(key, bound).verify_slice(&tag).is_ok())
    }
}

fn mac(key: &[u8], bound: &Bound<'_>) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length is a key for hmac");
    // None of the parts has a line break in it.
    let parts = ["v1", bound.approval, bound.arguments_digest, &bound.until.as_millisecond().to_string()].join("\n");
    mac.update(parts.as_bytes());
    mac
}

impl ApprovalConfig {
    /// Everything that is wrong with it, as `field: problem`.
    pub fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = Links::new(self).err().into_iter().collect();
        if self.wait_seconds > super::LONGEST_WAIT_SECONDS {
            problems.push(format!("wait_seconds: at most {}, 30 days", super::LONGEST_WAIT_SECONDS));
        }
        problems
    }
}

impl std::fmt::Debug for Links {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Links").field("base", &self.base).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    const OLD: &str = "b2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2w=";
    const NEW: &str = "bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmU=";

    fn links(keys: &str) -> Links {
        let public_url = "https://worker.example.com/".to_owned();
        Links::new(&ApprovalConfig { link_key: keys.into(), public_url, ..ApprovalConfig::default() }).unwrap()
    }

    fn bound() -> Bound<'static> {
        Bound { approval: "ap_x.1", arguments_digest: "sha256:0", until: Timestamp::UNIX_EPOCH }
    }

    fn token(links: &Links) -> String {
        let link = links.link(&bound()).unwrap();
        link.strip_prefix("https://worker.example.com/approvals/ap_x.1?t=").unwrap().to_owned()
    }

    #[test]
    fn a_link_is_good_for_the_call_that_it_was_made_for_and_no_other() {
        let links = links(NEW);
        let (token, good) = (token(&links), bound());
        assert!(links.is_genuine(&token, &good));
        for other in [
            Bound { approval: "ap_x.2", ..good },
            Bound { arguments_digest: "sha256:1", ..good },
            Bound { until: good.until + SignedDuration::from_millis(1), ..good },
        ] {
            assert!(!links.is_genuine(&token, &other), "{other:?}");
        }
        for forged in ["", "AAAA", "%", &token[1..], &format!("{token}A"), &token.to_lowercase()] {
            assert!(!links.is_genuine(forged, &good), "{forged}");
        }
    }

    #[test]
    fn links_of_the_key_that_is_being_replaced_are_good_until_it_is_gone() {
        let old = token(&links(OLD));
        let both = links(&format!("{NEW}, {OLD}"));
        assert!(both.is_genuine(&old, &bound()));
        assert_eq!(token(&both), token(&links(NEW)), "the first key signs");
        assert!(!links(NEW).is_genuine(&old, &bound()) && !Links::default().is_genuine(&old, &bound()));
    }

    #[test]
    fn without_a_key_or_an_address_there_are_no_links() {
        let without_address = ApprovalConfig { link_key: NEW.into(), ..ApprovalConfig::default() };
        assert_eq!(Links::new(&without_address).unwrap().link(&bound()), None);
        let public_url = "https://a".to_owned();
        let without_key = ApprovalConfig { public_url, ..ApprovalConfig::default() };
        assert_eq!(Links::new(&without_key).unwrap().link(&bound()), None);
    }

    #[test]
    fn keys_of_another_form_are_refused_and_not_repeated() {
        for key in ["hunter2", "aHVudGVyMg==", &format!("{NEW},hunter2")] {
            let problems = ApprovalConfig { link_key: (*key).into(), ..ApprovalConfig::default() }.problems().concat();
            assert!(problems.starts_with("link_key: ") && !problems.contains("hunter2"), "{problems}");
        }
        let odd =
            ApprovalConfig { public_url: "worker:1".into(), wait_seconds: 2_592_001, ..ApprovalConfig::default() };
        assert_eq!(odd.problems().len(), 2);
    }
}
