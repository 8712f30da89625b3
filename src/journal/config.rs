//! What the operator says about what is kept of runs.

use std::path::PathBuf;

use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::index::DEFAULT_MOST_RUNS;
use crate::encryption::Encryption;

/// Encryption and index of what is kept: journals, parked runs, magic links, dead letters; see `config/default.toml`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JournalConfig {
    /// 32 bytes in base64; several, separated by commas, while one is replaced. Empty: nothing is encrypted.
    #[schemars(with = "String")]
    pub encryption_key: SecretString,
    /// The same, in a file.
    pub encryption_key_file: Option<PathBuf>,
    /// Runs of each state that can be listed, of all users and of each.
    pub index_runs: u64,
}

impl Default for JournalConfig {
    fn default() -> Self {
        let (encryption_key, encryption_key_file) = (SecretString::default(), None);
        Self { encryption_key, encryption_key_file, index_runs: DEFAULT_MOST_RUNS }
    }
}

impl JournalConfig {
    /// By the keys; reads their file.
    ///
    /// # Errors
    /// As `field: problem`, in words that do not repeat a key.
    pub fn encryption(&self) -> Result<Encryption, String> {
        let Some(path) = &self.encryption_key_file else {
            return Encryption::new(&self.encryption_key).map_err(|problem| format!("encryption_key: {problem}"));
        };
        if !self.encryption_key.expose_secret().is_empty() {
            return Err("encryption_key_file: encryption_key is set as well; one of them is enough".to_owned());
        }
        let keys = std::fs::read_to_string(path)
            .map_err(|error| format!("encryption_key_file: the file cannot be read: {error}"))?;
        Encryption::new(&keys.into()).map_err(|problem| format!("encryption_key_file: {problem}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmU=";

    #[test]
    fn keys_come_from_a_file_as_well_and_from_one_place_only() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{KEY}\n")).unwrap();
        let from_file = JournalConfig { encryption_key_file: Some(file.path().into()), ..JournalConfig::default() };
        let written = JournalConfig { encryption_key: KEY.into(), ..JournalConfig::default() };
        let key = from_file.encryption().unwrap().key();
        assert!(key.is_some() && key == written.encryption().unwrap().key());
        let both = JournalConfig { encryption_key: KEY.into(), ..from_file };
        assert!(both.encryption().unwrap_err().starts_with("encryption_key_file: "));
        let absent = JournalConfig { encryption_key_file: Some("/nowhere".into()), ..JournalConfig::default() };
        assert!(absent.encryption().unwrap_err().starts_with("encryption_key_file: the file cannot be read"));
        let bad = JournalConfig { encryption_key: "hunter2".into(), ..JournalConfig::default() };
        let problem = bad.encryption().unwrap_err();
        assert!(problem.starts_with("encryption_key: must be") && !problem.contains("hunter2"), "{problem}");
    }
}
