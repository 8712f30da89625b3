//! A scripted HTTP/1.1 peer on a loopback port: answers, hangs, resets, cuts off and floods as a test wants it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use url::Url;

/// A request as it came over the wire.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) method: String,
    /// Path and query, still encoded.
    pub(crate) target: String,
    /// By lower-case name.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
    /// Which connection it came on, counted from 0.
    pub(crate) connection: usize,
}

impl Received {
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }

    /// The decoded query.
    pub(crate) fn query(&self, name: &str) -> Option<String> {
        let url = Url::parse("http://peer").unwrap().join(&self.target).unwrap();
        url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// What the peer does with a request.
pub(crate) enum Answer {
    /// A complete answer.
    Reply { status: u16, headers: Vec<(String, String)>, body: Vec<u8> },
    /// A complete answer of JSON that many requests share.
    Shared(Arc<Vec<u8>>),
    /// The answer, once somebody notifies.
    After(Arc<Notify>, Box<Answer>),
    /// Nothing, with the connection kept open.
    Hang,
    /// Nothing, until the client closes the connection; then it is notified (one permit is kept).
    HangUntilGone(Arc<Notify>),
    /// A TCP reset in place of an answer.
    Reset,
    /// The head and half of the body, then the end.
    CutOff(Vec<u8>),
    /// A body that never ends.
    Endless,
    /// These bytes, whatever they are, then the end.
    Raw(Vec<u8>),
    /// These bytes; the others once somebody notifies (one permit is kept). Then the connection stays as it is.
    InTwo(Vec<u8>, Arc<Notify>, Vec<u8>),
}

impl Answer {
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self::of(status, "application/json", body.to_string())
    }

    pub(crate) fn of(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![("content-type".to_owned(), content_type.to_owned())];
        Self::Reply { status, headers, body: body.into() }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        if let Self::Reply { headers, .. } = &mut self {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }
}

/// The peer; it ends with this value.
pub(crate) struct HttpPeer {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<Received>>>,
    arrived: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Drop for HttpPeer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl HttpPeer {
    /// A peer that asks `answer` what to do with each request.
    pub(crate) async fn start(answer: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (requests, arrived) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Notify::new()));
        let answer = Arc::new(answer);
        let (kept, notify) = (Arc::clone(&requests), Arc::clone(&arrived));
        let task = tokio::spawn(async move {
            // The connections end with the set, and the set with this task.
            let mut connections = tokio::task::JoinSet::new();
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let (kept, notify, answer) = (Arc::clone(&kept), Arc::clone(&notify), Arc::clone(&answer));
                connections.spawn(async move {
                    serve(stream, connection, |request| {
                        let todo = answer(&request);
                        kept.lock().unwrap().push(request);
                        notify.notify_waiters();
                        todo
                    })
                    .await;
                });
            }
        });
        Self { url, requests, arrived, task }
    }

    /// A peer that resets every connection before it reads a byte.
    pub(crate) async fn resetting() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_zero_linger().unwrap();
            }
        });
        Self { url, requests: Arc::default(), arrived: Arc::default(), task }
    }

    /// An address where nobody listens.
    pub(crate) async fn nobody() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    }

    /// All requests so far whose path ends with `path`.
    pub(crate) fn requests(&self, path: &str) -> Vec<Received> {
        self.requests.lock().unwrap().iter().filter(|request| request.path().ends_with(path)).cloned().collect()
    }

    /// Waits until a request for `path` has come.
    pub(crate) async fn arrival(&self, path: &str) {
        loop {
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            if !self.requests(path).is_empty() {
                return;
            }
            arrived.await;
        }
    }
}

async fn serve(mut stream: TcpStream, connection: usize, decide: impl Fn(Received) -> Answer) {
    stream.set_nodelay(true).unwrap();
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffer, connection).await {
        let mut answer = decide(request);
        while let Answer::After(gate, next) = answer {
            gate.notified().await;
            answer = *next;
        }
        if perform(&mut stream, answer).await.is_none() {
            return;
        }
    }
}

/// `None` where the connection ends with this answer.
async fn perform(stream: &mut TcpStream, answer: Answer) -> Option<()> {
    match answer {
        Answer::Reply { status, headers, body } => {
            stream.write_all(head(status, &headers, body.len()).as_bytes()).await.ok()?;
            stream.write_all(&body).await.ok()
        }
        Answer::Shared(body) => {
            let headers = [("content-type".to_owned(), "application/json".to_owned())];
            stream.write_all(head(200, &headers, body.len()).as_bytes()).await.ok()?;
            stream.write_all(&body).await.ok()
        }
        Answer::CutOff(body) => {
            stream.write_all(head(200, &[], body.len()).as_bytes()).await.ok()?;
            stream.write_all(&body[..body.len() / 2]).await.ok()?;
            None
        }
        Answer::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.ok()?;
            let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
            loop {
                stream.write_all(chunk.as_bytes()).await.ok()?;
            }
        }
        Answer::Raw(bytes) => {
            stream.write_all(&bytes).await.ok()?;
            None
        }
        Answer::InTwo(first, gate, second) => {
            stream.write_all(&first).await.ok()?;
            gate.notified().await;
            stream.write_all(&second).await.ok()?;
            std::future::pending().await
        }
        Answer::Hang => std::future::pending().await,
        Answer::HangUntilGone(gone) => {
            while read_more(stream, &mut Vec::new()).await.is_some() {}
            gone.notify_one();
            None
        }
        Answer::Reset => {
            stream.set_zero_linger().ok()?;
            None
        }
        Answer::After(..) => None,
    }
}

fn head(status: u16, headers: &[(String, String)], length: usize) -> String {
    let lines: String = headers.iter().map(|(name, value)| name.clone() + ": " + value + "\r\n").collect();
    format!("HTTP/1.1 {status} Status\r\ncontent-length: {length}\r\n{lines}\r\n")
}

async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>, connection: usize) -> Option<Received> {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        read_more(stream, buffer).await?;
    };
    let head = String::from_utf8(buffer.drain(..end).collect()).ok()?;
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: BTreeMap<_, _> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    while buffer.len() < length {
        read_more(stream, buffer).await?;
    }
    let body = buffer.drain(..length).collect();
    Some(Received { method, target, headers, body, connection })
}

async fn read_more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    match stream.read_buf(buffer).await {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(()),
    }
}
