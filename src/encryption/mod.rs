//! Encryption of what is kept: values that are opaque to the store, each bound to the place where it lies.
//!
//! A value is encrypted with AES-256-GCM-SIV, of the library that TLS is made with. Its nonce is made of the place, so the
//! same value in the same place gives the same bytes (an append that is repeated is recognised), and this mode of AES gives
//! away no more than that where a nonce comes twice. The place is authenticated as well: what is put elsewhere does not
//! open. One key is good for 2^32 places and more.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | [`FORM`]: no text begins with it, so whatever begins otherwise was never encrypted and is read as it is |
//! | 4 | the key's id: the beginning of its SHA-256 |
//! | as many as the value has | the value, encrypted |
//! | 16 | the tag that authenticates all of it, and its place |

mod keys;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{Aad, NONCE_LEN, Nonce};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

pub use self::keys::KeyId;
use self::keys::SealingKey;
pub(crate) use self::keys::{KEY_BYTES, decoded, id_of};

/// The first byte of what is encrypted as described here. It and those up to 0xBF begin no UTF-8; those are left to later forms.
const FORM: u8 = 0x81;
const LAST_FORM: u8 = 0xBF;
/// Bytes before the encrypted value.
const HEADER_BYTES: usize = 1 + KeyId::BYTES;
/// What stands first among the keys where nothing new is to be encrypted.
const NONE: &str = "none";

/// Encrypts and decrypts by the operator's keys; without any it leaves everything as it is. Clones share the keys.
#[derive(Clone, Default)]
pub struct Encryption {
    keys: Arc<[SealingKey]>,
    /// Whether new values are encrypted, with the first key.
    writes: bool,
}

/// Where a value lies: it can be read nowhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding(Vec<u8>);

/// Why a value cannot be decrypted. It is there all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecryptError {
    /// The key is not among ours.
    #[error("it is encrypted with the key {0}, which is not configured: add that one to journal.encryption_key")]
    UnknownKey(KeyId),
    /// It is not what was encrypted, or not where that was.
    #[error("it was changed, or put where it does not belong, after it was encrypted with the key {0}")]
    Forged(KeyId),
    /// Too short to have been encrypted.
    #[error("it was cut off after it was encrypted")]
    Cut,
    /// In a form that this version does not know.
    #[error("it is encrypted in a form that only a newer version knows ({0:#04x})")]
    NewerForm(u8),
}

impl DecryptError {
    /// Whether another configuration or version of the worker may read it.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::UnknownKey(_) | Self::NewerForm(_))
    }
}

impl Binding {
    /// What `kind` of value it is, and all that names it.
    pub fn new(kind: &str, names: &[&str]) -> Self {
        let mut bytes = Vec::new();
        for part in [&[kind], names].concat() {
            bytes.extend(u64::try_from(part.len()).expect("a length fits").to_be_bytes());
            bytes.extend(part.as_bytes());
        }
        Self(bytes)
    }

    fn nonce(&self) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&Sha256::digest(&self.0)[..NONCE_LEN]);
        Nonce::assume_unique_for_key(nonce)
    }

    /// What is authenticated beside the value.
    fn with(&self, header: &[u8]) -> Aad<Vec<u8>> {
        Aad::from([header, &self.0].concat())
    }
}

impl Encryption {
    /// By `keys`: each 32 bytes in base64, separated by commas; the first one encrypts, all decrypt. Where `none` stands
    /// first, nothing new is encrypted; where nothing stands there, nothing at all is.
    ///
    /// # Errors
    /// In words that do not repeat the keys.
    pub fn new(keys: &SecretString) -> Result<Self, String> {
        let text = keys.expose_secret().trim();
        let rest = text.strip_prefix(NONE).filter(|rest| rest.is_empty() || rest.trim_start().starts_with(','));
        let keys = decoded(&rest.unwrap_or(text).into())?;
        let writes = rest.is_none() && !keys.is_empty();
        Ok(Self { keys: keys.iter().map(SealingKey::new).collect(), writes })
    }

    /// The key that new values are encrypted with; `None` where they are not.
    pub fn key(&self) -> Option<KeyId> {
        self.keys.first().filter(|_| self.writes).map(SealingKey::id)
    }

    /// All keys that values are decrypted with.
    pub fn known_keys(&self) -> impl Iterator<Item = KeyId> + '_ {
        self.keys.iter().map(SealingKey::id)
    }

    /// `value` as it is kept in `place`.
    pub fn encrypt<'a>(&self, place: &Binding, value: &'a [u8]) -> Cow<'a, [u8]> {
        let Some(key) = self.keys.first().filter(|_| self.writes) else { return Cow::Borrowed(value) };
        let header = [&[FORM], key.id().as_bytes().as_slice()].concat();
        Cow::Owned(key.seal(place.nonce(), place.with(&header), header, value))
    }

    /// What was kept in `place`, also before anything was encrypted; that costs nothing.
    pub fn decrypt(&self, place: impl FnOnce() -> Binding, kept: Vec<u8>) -> Result<Vec<u8>, DecryptError> {
        let Some(id) = key_of(&kept)? else { return Ok(kept) };
        let place = place();
        let key = self.keys.iter().find(|key| key.id() == id).ok_or(DecryptError::UnknownKey(id))?;
        let aad = place.with(&kept[..HEADER_BYTES]);
        key.open(place.nonce(), aad, kept, HEADER_BYTES).ok_or(DecryptError::Forged(id))
    }
}

/// The key that `kept` is encrypted with; `None` where it is not encrypted.
pub fn key_of(kept: &[u8]) -> Result<Option<KeyId>, DecryptError> {
    match kept.first() {
        Some(&FORM) => {
            let id = kept.get(1..HEADER_BYTES).and_then(|id| id.try_into().ok()).ok_or(DecryptError::Cut)?;
            Ok(Some(KeyId::from_bytes(id)))
        }
        Some(&form) if (FORM..=LAST_FORM).contains(&form) => Err(DecryptError::NewerForm(form)),
        _ => Ok(None),
    }
}

impl fmt::Debug for Encryption {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<String> = self.known_keys().map(|id| id.to_string()).collect();
        formatter.debug_struct("Encryption").field("keys", &keys).field("writes", &self.writes).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OLD: &str = "b2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2w=";
    const NEW: &str = "bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmU=";

    fn encryption(keys: &str) -> Encryption {
        Encryption::new(&keys.into()).unwrap()
    }

    fn place() -> Binding {
        Binding::new("entry", &["order-4711", "3"])
    }

    #[test]
    fn without_a_key_everything_stays_as_it_is() {
        let off = Encryption::default();
        assert_eq!((off.encrypt(&place(), b"{}"), off.key()), (Cow::Borrowed(b"{}".as_slice()), None));
        assert_eq!(off.decrypt(place, b"{}".to_vec()).unwrap(), b"{}");
    }

    #[test]
    fn what_is_in_one_place_cannot_be_read_in_another() {
        let encryption = encryption(NEW);
        let kept = encryption.encrypt(&place(), b"secret").into_owned();
        assert_eq!(kept.len(), b"secret".len() + 21);
        assert_eq!(encryption.decrypt(place, kept.clone()).unwrap(), b"secret");
        for elsewhere in [
            Binding::new("entry", &["order-4711", "4"]),
            Binding::new("entry", &["order-471", "13"]),
            Binding::new("entry", &["order-47113"]),
            Binding::new("remains", &["order-4711", "3"]),
        ] {
            let id = encryption.key().unwrap();
            assert_eq!(
                encryption.decrypt(|| elsewhere.clone(), kept.clone()),
                Err(DecryptError::Forged(id)),
                "{elsewhere:?}"
            );
        }
    }

    #[test]
    fn the_same_again_is_the_same_bytes_and_anything_else_shares_none_with_it() {
        let encryption = encryption(NEW);
        let kept = |value: &[u8]| encryption.encrypt(&place(), value).into_owned();
        assert_eq!(kept(b"secret"), kept(b"secret"));
        let (one, other) = (kept(&[b'a'; 64]), kept(&[[b'a'; 63].as_slice(), b"b"].concat()));
        let same = one[HEADER_BYTES..].iter().zip(&other[HEADER_BYTES..]).filter(|(one, other)| one == other).count();
        assert!(same < 8, "{same} of 80 bytes");
    }

    #[test]
    fn a_key_is_replaced_without_anything_becoming_unreadable() {
        let (old, both, new) = (encryption(OLD), encryption(&format!("{NEW}, {OLD}")), encryption(NEW));
        let kept = old.encrypt(&place(), b"{}").into_owned();
        assert_eq!(both.decrypt(place, kept.clone()).unwrap(), b"{}");
        assert_eq!(both.key(), new.key());
        let error = new.decrypt(place, kept.clone()).unwrap_err();
        assert_eq!(error, DecryptError::UnknownKey(old.key().unwrap()));
        assert!(error.may_pass() && error.to_string().contains(&old.key().unwrap().to_string()), "{error}");
        let off = encryption(&format!("none,{OLD}"));
        assert_eq!((off.key(), off.encrypt(&place(), b"{}")), (None, Cow::Borrowed(b"{}".as_slice())));
        assert_eq!(off.decrypt(place, kept).unwrap(), b"{}");
    }

    #[test]
    fn keys_of_another_form_are_refused_and_nothing_prints_them() {
        for keys in ["hunter2", "aHVudGVyMg==", &format!("{NEW},hunter2"), &format!("{NEW},none")] {
            let problem = Encryption::new(&(*keys).into()).unwrap_err();
            assert!(problem.starts_with("must be 32 bytes in base64") && !problem.contains("hunter2"), "{problem}");
        }
        let printed = format!("{:?}", encryption(NEW));
        assert!(!printed.contains("new") && !printed.contains(NEW), "{printed}");
        assert!(encryption(" , ").key().is_none());
    }

    #[test]
    fn a_later_form_is_not_taken_for_text() {
        for form in [0x82, LAST_FORM] {
            let error = encryption(NEW).decrypt(place, vec![form, 1, 2]).unwrap_err();
            assert!(error == DecryptError::NewerForm(form) && error.may_pass());
        }
    }

    proptest! {
        #[test]
        fn what_is_encrypted_comes_back_and_nothing_else_does(
            value in prop::collection::vec(any::<u8>(), 0..400), at in any::<prop::sample::Index>(), bit in 0..8u8,
        ) {
            let encryption = encryption(NEW);
            let kept = encryption.encrypt(&place(), &value).into_owned();
            prop_assert_eq!(encryption.decrypt(place, kept.clone()).unwrap(), value);
            let cut = kept[..at.index(kept.len())].to_vec();
            if !cut.is_empty() {
                prop_assert!(encryption.decrypt(place, cut).is_err());
            }
            let longer = [kept.as_slice(), &[0]].concat();
            prop_assert!(encryption.decrypt(place, longer).is_err());
            let at = at.index(kept.len());
            let mut flipped = kept;
            flipped[at] ^= 1 << bit;
            // But for the first byte: by that it would be text that was never encrypted, and no text begins with it.
            if at > 0 || (FORM..=LAST_FORM).contains(&flipped[0]) {
                prop_assert!(encryption.decrypt(place, flipped).is_err());
            }
        }

        #[test]
        fn foreign_bytes_are_refused_or_left_as_they_are(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let decrypted = encryption(NEW).decrypt(place, bytes.clone());
            let begins_text = bytes.first().is_none_or(|first| !(FORM..=LAST_FORM).contains(first));
            prop_assert_eq!(decrypted.is_ok(), begins_text);
            if begins_text {
                prop_assert_eq!(decrypted.unwrap(), bytes);
            }
        }
    }
}
