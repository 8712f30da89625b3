//! Whom TLS trusts, and who we are: certificates in files, checked before anything connects.

use std::fs;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// Certificates for the connections to one peer. Empty: the system's authorities, and no certificate of our own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// Certificates of authorities (PEM). They alone are trusted then, not the system's.
    pub ca_file: Option<PathBuf>,
    /// The certificate that we show where the peer asks for one, and those between it and its authority (PEM).
    pub certificate_file: Option<PathBuf>,
    /// Its private key (PEM, without a passphrase).
    pub key_file: Option<PathBuf>,
}

/// What the files hold.
#[derive(Debug, Clone)]
pub struct Material {
    /// The authorities, PEM; `None` for the system's.
    pub authorities: Option<String>,
    /// Our certificates and their key, PEM.
    pub identity: Option<(String, SecretString)>,
}

impl TlsConfig {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Everything that is wrong with it or the files, as `tls.key: problem`. `encrypted` is whether any of the peer's
    /// addresses uses TLS.
    pub fn problems(&self, encrypted: bool) -> Vec<String> {
        if !self.is_empty() && !encrypted {
            return vec!["tls: is set, but no address uses TLS, so nothing would be encrypted".to_owned()];
        }
        match self.load() {
            Ok(_) => Vec::new(),
            Err(problem) => vec![format!("tls.{problem}")],
        }
    }

    /// Reads the files, and makes sure that they can be used.
    ///
    /// # Errors
    /// What is wrong, as `key: problem`.
    pub fn load(&self) -> Result<Material, String> {
        let authorities = self.ca_file.as_deref().map(|path| read("ca_file", path)).transpose()?;
        if let Some(text) = &authorities {
            roots(text)?;
        }
        let identity = match (&self.certificate_file, &self.key_file) {
            (None, None) => None,
            (Some(certificate), Some(key)) => {
                Some((read("certificate_file", certificate)?, SecretString::from(read("key_file", key)?)))
            }
            (Some(_), None) => return Err("key_file: is missing beside certificate_file".to_owned()),
            (None, Some(_)) => return Err("certificate_file: is missing beside key_file".to_owned()),
        };
        let material = Material { authorities, identity };
        if material.identity.is_some() {
            material.client_with(RootCertStore::empty())?;
        }
        Ok(material)
    }

    /// A client that trusts and shows what is configured, with the files as they are now.
    ///
    /// # Errors
    /// What is wrong, as `key: problem`, or that the system has no authorities.
    pub fn client(&self) -> Result<ClientConfig, String> {
        let material = self.load()?;
        let trusted = match &material.authorities {
            Some(text) => roots(text)?,
            None => system_roots()?,
        };
        material.client_with(trusted)
    }
}

impl Material {
    fn client_with(&self, trusted: RootCertStore) -> Result<ClientConfig, String> {
        choose_provider();
        let builder = ClientConfig::builder().with_root_certificates(trusted);
        let Some((certificates, key)) = &self.identity else { return Ok(builder.with_no_client_auth()) };
        let certificates = parse("certificate_file", certificates)?;
        let key = PrivateKeyDer::from_pem_slice(key.expose_secret().as_bytes())
            .map_err(|_| "key_file: holds no private key in PEM without a passphrase".to_owned())?;
        builder.with_client_auth_cert(certificates, key).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => "key_file: is not the key of certificate_file".to_owned(),
            error => format!("certificate_file: cannot be used: {error}"),
        })
    }
}

/// Makes ours the process' provider of cryptography. A program that embeds this crate may have chosen one already; then
/// that one counts.
pub(crate) fn choose_provider() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

fn read(key: &str, path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{key}: {}: {error}", path.display()))
}

fn parse(key: &str, text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let found = found.map_err(|error| format!("{key}: is no sound PEM: {error}"))?;
    if found.is_empty() { Err(format!("{key}: holds no certificate in PEM")) } else { Ok(found) }
}

fn roots(text: &str) -> Result<RootCertStore, String> {
    let mut trusted = RootCertStore::empty();
    for certificate in parse("ca_file", text)? {
        trusted.add(certificate).map_err(|error| format!("ca_file: a certificate cannot be used: {error}"))?;
    }
    Ok(trusted)
}

fn system_roots() -> Result<RootCertStore, String> {
    let mut trusted = RootCertStore::empty();
    trusted.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if trusted.is_empty() {
        return Err("the system trusts no authority: install ca-certificates, or set ca_file".to_owned());
    }
    Ok(trusted)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey, generate_simple_self_signed};

    use super::*;

    fn files() -> (tempfile::TempDir, TlsConfig) {
        let folder = tempfile::tempdir().unwrap();
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        let file = |name: &str, text: String| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            Some(path)
        };
        let config = TlsConfig {
            ca_file: file("ca", cert.pem()),
            certificate_file: file("certificate", cert.pem()),
            key_file: file("key", signing_key.serialize_pem()),
        };
        (folder, config)
    }

    #[test]
    fn sound_files_are_taken_and_nothing_needs_none() {
        let (_folder, config) = files();
        assert_eq!(config.problems(true), Vec::<String>::new());
        config.client().unwrap();
        assert_eq!(TlsConfig::default().problems(false), Vec::<String>::new());
    }

    #[test]
    fn what_is_wrong_with_the_files_is_named_by_its_key_and_no_key_is_shown() {
        let (folder, good) = files();
        let other = folder.path().join("other");
        let problem = |config: &TlsConfig| config.problems(true).join("\n");
        let cases = [
            (TlsConfig { ca_file: Some("/does/not/exist".into()), ..good.clone() }, "tls.ca_file: /does/not/exist"),
            (TlsConfig { ca_file: good.key_file.clone(), ..good.clone() }, "tls.ca_file: holds no certificate"),
            (TlsConfig { key_file: None, ..good.clone() }, "tls.key_file: is missing"),
            (TlsConfig { certificate_file: None, ..good.clone() }, "tls.certificate_file: is missing"),
            (TlsConfig { key_file: good.ca_file.clone(), ..good.clone() }, "tls.key_file: holds no private key"),
            (TlsConfig { key_file: Some(other.clone()), ..good.clone() }, "tls.key_file: is not the key"),
        ];
        let foreign = generate_simple_self_signed(["b.example".to_owned()]).unwrap().signing_key.serialize_pem();
        fs::write(&other, foreign).unwrap();
        for (config, expected) in cases {
            let found = problem(&config);
            assert!(found.contains(expected) && !found.contains("PRIVATE"), "{expected}: {found}");
        }
        assert!(good.problems(false).join("").contains("nothing would be encrypted"));
        assert!(!format!("{:?}", good.load().unwrap()).contains("PRIVATE"));
    }
}
