//! Calls as bytes on the wire: any path, any values of the security header, bounded waits.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use prost::Message;
use tonic::{Code, Request, Status, Streaming, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

use crate::credentials::workload_api::client::code_name;

/// After as many that did not come the server is not asked any more.
const HANGS: usize = 3;
/// The longest message that is taken, bytes.
const MESSAGE: usize = 16 << 20;
/// The header as it must be.
pub(super) const RIGHT: &[&str] = &["true"];

/// The way to a server.
pub(super) struct RawClient {
    channel: Channel,
    answer: Duration,
    hung: AtomicUsize,
}

/// The first message of a stream, how long it took, and the stream.
pub(super) struct FirstMessage<A> {
    pub(super) message: A,
    pub(super) took: Duration,
    pub(super) stream: Streaming<A>,
}

impl RawClient {
    /// With how long one answer may take.
    pub(super) fn new(channel: Channel, answer: Duration) -> Self {
        Self { channel, answer, hung: AtomicUsize::new(0) }
    }

    pub(super) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// A call with one answer.
    pub(super) async fn unary<Q, A>(
        &self,
        path: &'static str,
        message: Q,
        header: &[&'static str],
    ) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        self.bounded(async {
            let mut grpc = self.grpc().await?;
            let path = http::uri::PathAndQuery::from_static(path);
            let codec = ProstCodec::<Q, A>::default();
            Ok(grpc.unary(request(message, header), path, codec).await?.into_inner())
        })
        .await
    }

    /// A call with a stream of answers, up to the first.
    pub(super) async fn first<Q, A>(
        &self,
        path: &'static str,
        message: Q,
        header: &[&'static str],
    ) -> Result<FirstMessage<A>, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        self.bounded(async {
            let mut grpc = self.grpc().await?;
            let start = Instant::now();
            let path = http::uri::PathAndQuery::from_static(path);
            let codec = ProstCodec::<Q, A>::default();
            let request = request(message, header);
            let mut stream = grpc.server_streaming(request, path, codec).await?.into_inner();
            let ended = || Status::unknown("the stream ended without a message");
            let message = stream.message().await?.ok_or_else(ended)?;
            Ok(FirstMessage { message, took: start.elapsed(), stream })
        })
        .await
    }

    async fn grpc(&self) -> Result<Grpc<Channel>, Status> {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(MESSAGE);
        grpc.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
        Ok(grpc)
    }

    /// The answer, or that there is none in time.
    pub(super) async fn bounded<T>(
        &self,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        if self.hung.load(Ordering::Relaxed) >= HANGS {
            let why = format!("not called: {HANGS} earlier calls had no answer");
            return Err(Status::deadline_exceeded(why));
        }
        tokio::time::timeout(self.answer, call).await.unwrap_or_else(|_| {
            self.hung.fetch_add(1, Ordering::Relaxed);
            Err(Status::deadline_exceeded(format!("no answer within {:?}", self.answer)))
        })
    }
}

fn request<M>(message: M, header: &[&'static str]) -> Request<M> {
    let mut request = Request::new(message);
    for value in header {
        let value = tonic::metadata::MetadataValue::from_static(value);
        request.metadata_mut().append("workload.spiffe.io", value);
    }
    request
}

/// A status as people read it, cut.
pub(super) fn said(status: &Status) -> String {
    let message: String = status.message().chars().take(200).collect();
    format!("{}: {message}", code_name(status.code()))
}

/// Whether a call was refused with the code that it must be refused with.
pub(super) fn refused<A>(answer: Result<A, Status>, expected: Code) -> Result<String, String> {
    match answer {
        Err(status) if status.code() == expected => Ok(said(&status)),
        Err(status) => Err(format!("expected {}; {}", code_name(expected), said(&status))),
        Ok(_) => Err(format!("expected {}; it was answered", code_name(expected))),
    }
}
