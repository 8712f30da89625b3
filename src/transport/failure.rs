//! What a TLS failure means, and what an operator can do about it.

use std::error::Error;
use std::io;
use std::sync::Arc;

use rustls::{AlertDescription, CertificateError, Error as TlsError};

/// What is wrong and the cure, if `error` is a failure of the handshake; the peer, whom the caller names, is "it", and has
/// acted on nothing that was to be sent. `keys` is the section that the advice names, such as `amqp.tls`.
pub fn failure(error: &(dyn Error + 'static), keys: &str) -> Option<String> {
    Some(match find(error)? {
        TlsError::InvalidCertificate(why) => certificate(why, keys),
        TlsError::AlertReceived(alert) => alert_words(*alert, keys)?,
        TlsError::InvalidMessage(_) => {
            "it does not speak TLS at this port: compare the address's port and scheme".into()
        }
        TlsError::PeerIncompatible(_) => "it offers neither TLS 1.3 nor a TLS 1.2 that is still safe".into(),
        TlsError::NoCertificatesPresented => "it shows no certificate".into(),
        _ => return None,
    })
}

fn certificate(why: &CertificateError, keys: &str) -> String {
    match why {
        // The one is of an authority of another name, the other of one that calls itself as one that is trusted.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
            "its certificate comes from an authority that is not trusted here: name the authority's certificate in \
             {keys}.ca_file, and see whether this is the right peer"
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "its certificate has expired".into(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet: compare the clocks".into()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("{why}: have the address name the host as its certificate does")
        }
        CertificateError::Revoked => "its certificate is revoked".into(),
        why => format!("its certificate cannot be used: {why}"),
    }
}

/// The alerts by which a peer refuses us. Any other one says nothing of certificates.
fn alert_words(alert: AlertDescription, keys: &str) -> Option<String> {
    let our = format!("{keys}.certificate_file and {keys}.key_file");
    Some(match alert {
        AlertDescription::CertificateRequired => format!("it wants a client certificate: set {our}"),
        AlertDescription::HandshakeFailure => {
            format!(
                "it refuses the handshake, which may mean that it wants a client certificate: see its log, set {our}"
            )
        }
        AlertDescription::UnknownCA => {
            format!("it does not trust the authority of our client certificate: compare {our}")
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied => {
            format!("it does not accept our client certificate ({alert:?}): compare {our}")
        }
        _ => return None,
    })
}

/// The TLS library's own error, however it is wrapped.
fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a TlsError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = if let Some(shared) = error.downcast_ref::<Arc<dyn Error + Send + Sync>>() {
            Some(&**shared)
        } else if let Some(inner) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            // An I/O error does not name what it wraps as its source, only that one's source.
            Some(inner)
        } else {
            error.source()
        };
    }
    None
}
