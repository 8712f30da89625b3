//! A TCP proxy in this process: its connections can be cut, made slow or to stand still, and refused.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// The proxy; it ends with this value.
pub(crate) struct Proxy {
    address: SocketAddr,
    flow: watch::Sender<Flow>,
    _server: AbortOnDropHandle<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Flow {
    /// Connections made before the latest cut are reset.
    cuts: u64,
    /// Bytes stay where they are, and new connections are taken but not served.
    frozen: bool,
    /// Connections are reset as soon as they are made.
    shut: bool,
    /// So many bytes pass on a connection in a millisecond, where not as many as come.
    bytes_per_millisecond: Option<u64>,
}

impl Proxy {
    /// A proxy for the server at `target`, `host:port`.
    pub(crate) async fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (flow, state) = watch::channel(Flow { cuts: 0, frozen: false, shut: false, bytes_per_millisecond: None });
        let server = tokio::spawn(accept(listener, target.to_owned(), state));
        Self { address, flow, _server: AbortOnDropHandle::new(server) }
    }

    /// Where it listens, `host:port`.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Resets all connections; new ones are served.
    pub(crate) fn cut(&self) {
        self.flow.send_modify(|flow| flow.cuts += 1);
    }

    /// Lets nothing through, without a word, or everything again.
    pub(crate) fn freeze(&self, frozen: bool) {
        self.flow.send_modify(|flow| flow.frozen = frozen);
    }

    /// Lets no more bytes through on a connection.
    pub(crate) fn slow(&self, bytes_per_millisecond: u64) {
        self.flow.send_modify(|flow| flow.bytes_per_millisecond = Some(bytes_per_millisecond));
    }

    /// Resets all connections and every new one, as if the server were gone, or serves them again.
    pub(crate) fn shut(&self, shut: bool) {
        self.flow.send_modify(|flow| flow.shut = shut);
    }
}

async fn accept(listener: TcpListener, target: String, flow: watch::Receiver<Flow>) {
    // The connections end with the set, and the set with this task.
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        connections.spawn(serve(client, target.clone(), flow.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(mut client: TcpStream, target: String, flow: watch::Receiver<Flow>) {
    let cuts = flow.borrow().cuts;
    let mut ends = flow.clone();
    let end = async { ends.wait_for(|flow| flow.cuts != cuts || flow.shut).await.map(drop) };
    let passing = async {
        let Ok(mut server) = TcpStream::connect(target).await else { return };
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::select! {
            () = pass(from_client, to_server, flow.clone()) => {}
            () = pass(from_server, to_client, flow.clone()) => {}
        }
    };
    tokio::select! {
        _ = end => {}
        () = passing => {}
    }
    // Without lingering the kernel sends a reset.
    let _ = client.set_zero_linger();
}

async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut flow: watch::Receiver<Flow>) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        let pace = flow.borrow().bytes_per_millisecond;
        if let Some(pace) = pace {
            tokio::time::sleep(Duration::from_millis(count as u64 / pace)).await;
        }
        let flows = flow.wait_for(|flow| !flow.frozen).await.is_ok();
        if !flows || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
