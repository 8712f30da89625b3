//! What `doctor` says of the way to each peer: encrypted, or who could listen in.

use super::Context;
use super::report::Report;
use crate::app::{run_peers, service_peers};
use crate::transport::{Protection, TlsConfig};

/// One line for each address that the configuration names. Asks nobody: whether the peers agree is seen where they are asked.
pub(super) fn transport(context: &Context, report: &mut Report) {
    let peers = service_peers(&context.config).into_iter().chain(run_peers(&context.config));
    for named in peers {
        let what = format!("the way to {} ({})", named.name, named.peer.address);
        match named.peer.protection {
            Protection::Encrypted => report.good(&what, &format!("encrypted, {}", trust(named.tls))),
            Protection::ThisMachine => report.good(&what, "plain text, on this machine only"),
            Protection::Plain => report.warn(
                &what,
                "plain text: whoever is on it can read and change everything",
                &format!("use {}; `tls.ca_file` beside it names an authority of your own", named.scheme),
            ),
        }
    }
}

fn trust(tls: &TlsConfig) -> String {
    let authorities =
        if tls.ca_file.is_some() { "trusting tls.ca_file alone" } else { "trusting the system's authorities" };
    let ours = if tls.certificate_file.is_some() { ", with a client certificate" } else { "" };
    format!("{authorities}{ours}")
}
