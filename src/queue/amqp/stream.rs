//! The byte stream under a connection: TCP, and TLS over it where the address says so.
//!
//! The client library's own TLS is not used: it brings 42 crates for key stores that nobody here has, and cannot trust one
//! authority alone. It takes the streams of whatever runtime it is given, so it is given Tokio with streams of ours.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_util::Stream;
use lapin::uri::{AMQPScheme, AMQPUri};
use rustls::pki_types::ServerName;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};
use tokio_util::either::Either;

use crate::transport::TlsConfig;

/// A peer that is asked what it has against us says so at once, if ever.
const TOLD_WITHIN: Duration = Duration::from_secs(2);

/// Plain or encrypted.
pub(super) type ByteStream = Either<TcpStream, TlsStream<TcpStream>>;

/// Tokio with our streams.
pub(super) type OurRuntime = Runtime<RuntimeParts<Tokio, OurReactor>>;

/// Connects to the first of the host's addresses that takes it, and encrypts where the scheme is `amqps`. `made` sees the
/// socket before anything is said over it.
pub(super) async fn connect(
    uri: &AMQPUri,
    tls: &TlsConfig,
    made: impl FnOnce(&TcpStream) -> io::Result<()>,
) -> io::Result<ByteStream> {
    let host = uri.authority.host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, uri.authority.port)).await?;
    stream.set_nodelay(true)?;
    made(&stream)?;
    if uri.scheme == AMQPScheme::AMQP {
        return Ok(Either::Left(stream));
    }
    // Read for each connection: a certificate that was renewed counts from the next one on.
    let config = tls.client().map_err(|problem| io::Error::new(io::ErrorKind::InvalidInput, problem))?;
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    Ok(Either::Right(TlsConnector::from(Arc::new(config)).connect(name, stream).await?))
}

/// What a peer says that closes its connections once TLS stands, where it says anything. With TLS 1.3 it tells only then that it
/// does not take our certificate, and when our first bytes are on their way already, its kernel resets the connection, and what
/// it told is lost: here it is listened to, and nothing is sent.
pub(super) async fn alert(uri: &AMQPUri, tls: &TlsConfig) -> Option<io::Error> {
    if uri.scheme == AMQPScheme::AMQP {
        return None;
    }
    let told = async { connect(uri, tls, |_| Ok(())).await?.read_u8().await };
    tokio::time::timeout(TOLD_WITHIN, told).await.ok()?.err()
}

/// The runtime that a connection of the library lives on.
pub(super) fn runtime() -> OurRuntime {
    Runtime::new(RuntimeParts::new(Tokio::current(), OurReactor(Tokio::current())))
}

/// Tokio, as far as the library asks for time; connections are made by [`connect`].
#[derive(Debug, Clone)]
pub(super) struct OurReactor(Tokio);

impl Reactor for OurReactor {
    type TcpStream = Compat<ByteStream>;
    type Sleep = <Tokio as Reactor>::Sleep;

    #[expect(refining_impl_trait, reason = "the library registers nothing")]
    fn register<H: io::Read + io::Write + Send + 'static>(&self, _: H) -> io::Result<Self::TcpStream> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    #[expect(clippy::manual_async_fn, reason = "an async fn would borrow the reactor, which the trait forbids")]
    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        async move { Ok(Either::Left(TcpStream::connect(address).await?).compat()) }
    }
}
