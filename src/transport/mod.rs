//! How the peers of this program are reached: encrypted or in plain text, and whom TLS trusts.

mod failure;
mod tls;

use std::net::IpAddr;

use url::Url;

pub use failure::failure;
pub(crate) use tls::choose_provider;
pub use tls::{Material, TlsConfig};

/// Somebody that this program connects to, by an address that its configuration names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Host and port, or a path; never user, password or query.
    pub address: String,
    /// Who could listen in on the way.
    pub protection: Protection,
}

/// Who could listen in on the way to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// Nobody: TLS.
    Encrypted,
    /// Nobody but this machine's own processes, though it is plain text.
    ThisMachine,
    /// Everybody on the way.
    Plain,
}

impl Peer {
    /// A peer at this host, which `address` names.
    pub fn new(address: String, host: &str, encrypted: bool) -> Self {
        let protection = match encrypted {
            true => Protection::Encrypted,
            false if is_loopback(host) => Protection::ThisMachine,
            false => Protection::Plain,
        };
        Self { address, protection }
    }

    /// A peer at an `http` or `https` address.
    pub fn of_url(url: &Url) -> Self {
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().map(|port| format!(":{port}")).unwrap_or_default();
        Self::new(format!("{host}{port}"), host, url.scheme() == "https")
    }

    /// Why no key may be sent to it, unless `allowed` says that it may, by the key of the configuration that says so.
    pub fn key_problem(&self, allowed: bool) -> Option<String> {
        (self.protection == Protection::Plain && !allowed).then(|| {
            format!(
                "the key would go to {} in plain text, where anybody on the way can read it: use https://, or set \
                 allow_plaintext_keys = true where nobody can be on the way",
                self.address
            )
        })
    }
}

/// Whether a host is this machine by its name or number alone. What a name resolves to does not count: it may change.
fn is_loopback(host: &str) -> bool {
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    if name == "localhost" || name.ends_with(".localhost") {
        return true;
    }
    let number = name.trim_start_matches('[').trim_end_matches(']');
    number.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_known_by_name_or_number() {
        for host in
            ["localhost", "LocalHost.", "a.localhost", "127.0.0.1", "127.8.0.1", "::1", "[::1]", "::ffff:127.0.0.1"]
        {
            assert!(is_loopback(host), "{host}");
        }
        for host in
            ["", "sandbox", "localhost.example.com", "notlocalhost", "10.0.0.1", "128.0.0.1", "[::2]", "0.0.0.0"]
        {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn a_key_goes_to_nobody_in_plain_text_unless_that_is_said() {
        let peer = |url: &str| Peer::of_url(&Url::parse(url).unwrap());
        for url in ["https://a.example", "http://127.0.0.1:1", "http://[::1]/v1", "http://localhost"] {
            assert_eq!(peer(url).key_problem(false), None, "{url}");
        }
        let remote = peer("http://user:hunter2@sandbox:8787/v1?key=hunter2");
        assert_eq!(remote, Peer { address: "sandbox:8787".to_owned(), protection: Protection::Plain });
        let problem = remote.key_problem(false).unwrap();
        assert!(problem.contains("sandbox:8787") && problem.contains("allow_plaintext_keys"), "{problem}");
        assert_eq!(remote.key_problem(true), None);
    }
}
