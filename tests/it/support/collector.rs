//! A collector of traces that keeps what it is sent, over HTTP or gRPC.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::eventually;
use super::http_peer::{Answer, HttpPeer, Received};

/// What came, request by request.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

/// The collector; it ends with this value.
pub(crate) struct Collector {
    pub(crate) url: String,
    kept: Kept,
    _server: Server,
}

#[expect(dead_code, reason = "each is only to be dropped with the collector")]
enum Server {
    Http(HttpPeer),
    Grpc(AbortOnDropHandle<()>),
}

impl Collector {
    /// Takes protobuf at `/v1/traces` and nothing else.
    pub(crate) async fn over_http() -> Self {
        let kept = Kept::default();
        let keep = kept.clone();
        let peer = HttpPeer::start(move |request: &Received| {
            let proto = "application/x-protobuf";
            if request.path() != "/v1/traces" || request.headers.get("content-type").is_none_or(|kind| kind != proto) {
                return Answer::of(404, "text/plain", "no");
            }
            keep.0.lock().unwrap().push(ExportTraceServiceRequest::decode(&*request.body).unwrap());
            Answer::of(200, proto, ExportTraceServiceResponse::default().encode_to_vec())
        })
        .await;
        Self { url: peer.url.clone(), kept, _server: Server::Http(peer) }
    }

    /// Takes gRPC.
    pub(crate) async fn over_grpc() -> Self {
        let kept = Kept::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let service = TraceServiceServer::new(kept.clone());
        let serve = tonic::transport::Server::builder().add_service(service);
        let task = tokio::spawn(async move {
            serve.serve_with_incoming(TcpIncoming::from(listener)).await.unwrap();
        });
        Self { url, kept, _server: Server::Grpc(AbortOnDropHandle::new(task)) }
    }

    /// All spans so far.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let requests = self.kept.0.lock().unwrap();
        let scopes = requests.iter().flat_map(|request| &request.resource_spans).flat_map(|one| &one.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }

    /// What the sender says of itself.
    pub(crate) fn resource(&self) -> BTreeMap<String, String> {
        let requests = self.kept.0.lock().unwrap();
        attributes(&requests[0].resource_spans[0].resource.as_ref().unwrap().attributes)
    }

    /// Waits for a span of this name.
    pub(crate) async fn span(&self, name: &str) -> Span {
        eventually(name, || async { self.spans().into_iter().find(|span| span.name == name) }).await
    }
}

#[tonic::async_trait]
impl TraceService for Kept {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// Attributes as text.
pub(crate) fn attributes(all: &[KeyValue]) -> BTreeMap<String, String> {
    all.iter().map(|one| (one.key.clone(), text(one.value.as_ref().unwrap()))).collect()
}

fn text(value: &AnyValue) -> String {
    match value.value.as_ref().unwrap() {
        Value::StringValue(text) => text.clone(),
        Value::BoolValue(value) => value.to_string(),
        Value::IntValue(value) => value.to_string(),
        Value::DoubleValue(value) => value.to_string(),
        Value::ArrayValue(values) => values.values.iter().map(text).collect::<Vec<_>>().join(","),
        other => panic!("{other:?}"),
    }
}
