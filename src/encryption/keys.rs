//! Keys, as an operator writes them down.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

/// Bytes of a key.
pub(crate) const KEY_BYTES: usize = 32;

/// The beginning of a key's SHA-256, by which the key of a value is found; printed in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; Self::BYTES]);

impl KeyId {
    /// So many.
    pub(super) const BYTES: usize = 4;

    pub(super) fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    pub(super) fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:08x}", u32::from_be_bytes(self.0))
    }
}

/// A key and its id.
pub(super) struct SealingKey {
    id: KeyId,
    key: LessSafeKey,
}

impl SealingKey {
    pub(super) fn new(bytes: &[u8; KEY_BYTES]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM_SIV, bytes).expect("32 bytes are a key of AES-256");
        Self { id: id_of(bytes), key: LessSafeKey::new(key) }
    }

    pub(super) fn id(&self) -> KeyId {
        self.id
    }

    /// `header`, and behind it `value`, encrypted.
    pub(super) fn seal(&self, nonce: Nonce, aad: Aad<Vec<u8>>, header: Vec<u8>, value: &[u8]) -> Vec<u8> {
        let (begin, mut kept) = (header.len(), header);
        kept.reserve_exact(value.len() + AES_256_GCM_SIV.tag_len());
        kept.extend_from_slice(value);
        let tag = self.key.seal_in_place_separate_tag(nonce, aad, &mut kept[begin..]);
        let tag = tag.expect("a value is shorter than 2^36 bytes");
        kept.extend_from_slice(tag.as_ref());
        kept
    }

    /// What stands encrypted behind the first `header` bytes, if it is genuine.
    pub(super) fn open(&self, nonce: Nonce, aad: Aad<Vec<u8>>, mut kept: Vec<u8>, header: usize) -> Option<Vec<u8>> {
        let length = self.key.open_in_place(nonce, aad, &mut kept[header..]).ok()?.len();
        kept.truncate(header + length);
        kept.drain(..header);
        Some(kept)
    }
}

/// The id of a key, whatever it is for.
pub(crate) fn id_of(key: &[u8; KEY_BYTES]) -> KeyId {
    let mut id = [0; KeyId::BYTES];
    id.copy_from_slice(&Sha256::digest(key)[..KeyId::BYTES]);
    KeyId(id)
}

/// All keys of `text`, each 32 bytes in base64, separated by commas.
///
/// # Errors
/// In words that do not repeat the keys.
pub(crate) fn decoded(text: &SecretString) -> Result<Vec<[u8; KEY_BYTES]>, String> {
    let all = text.expose_secret().split(',').map(str::trim).filter(|key| !key.is_empty());
    let keys = all.map(|key| STANDARD.decode(key).ok()?.try_into().ok()).collect::<Option<_>>();
    keys.ok_or_else(|| format!("must be {KEY_BYTES} bytes in base64; several are separated by commas"))
}
