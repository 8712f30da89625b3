//! An authority of the test's own, and the certificates it gives out, as files.

use std::fs;
use std::path::PathBuf;

use agentkit_worker::internals::transport::TlsConfig;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use tempfile::TempDir;

use super::unique;

/// The names that the servers of the tests have.
const NAMES: [&str; 2] = ["localhost", "0.0.0.0"];

/// Signs certificates; the files go with it.
pub(crate) struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
    pub(crate) file: PathBuf,
}

/// A certificate and its key.
pub(crate) struct Files {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = named(&unique("authority"), &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let file = folder.path().join("authority.pem");
        fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
        Self { folder, issuer: Issuer::new(params, key), file }
    }

    /// For a server of the names `localhost` and `0.0.0.0`, but not `127.0.0.1`.
    pub(crate) fn server(&self) -> Files {
        self.sign("server", &NAMES, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// For a client.
    pub(crate) fn client(&self) -> Files {
        self.sign("client", &[], ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// Trusts this authority alone, and shows no certificate.
    pub(crate) fn trusted(&self) -> TlsConfig {
        TlsConfig { ca_file: Some(self.file.clone()), ..TlsConfig::default() }
    }

    /// Trusts this authority alone, and shows a certificate of its.
    pub(crate) fn mutual(&self) -> TlsConfig {
        let Files { certificate, key } = self.client();
        TlsConfig { certificate_file: Some(certificate), key_file: Some(key), ..self.trusted() }
    }

    fn sign(&self, name: &str, names: &[&str], purpose: ExtendedKeyUsagePurpose) -> Files {
        let mut params = named(name, names);
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |kind: &str| self.folder.path().join(format!("{name}.{kind}.pem"));
        let files = Files { certificate: path("certificate"), key: path("key") };
        fs::write(&files.certificate, certificate.pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }
}

fn named(name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
