//! The way to the runtime: one channel per socket, a time limit on every call.
//!
//! In: [`Settings`]. Out: clients, and answers or errors that name the operation. Connects on first use, so
//! that `completion` needs no runtime.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use pintle_cri_api::{
    connect, ext, ext_agent_client, ext_debug_client, ext_images_client, image_client, runtime_client,
    v1::{image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient},
};
use tokio::sync::OnceCell;
use tonic::{Code, Response, Status, transport::Channel};

use crate::{
    error::{CliError, Noun},
    settings::Settings,
};

/// Limit on calls that only read, when the user gave none.
const QUICK_LIMIT: Duration = Duration::from_secs(10);

/// What a call does, for its errors, and how long it may take.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    what: String,
    noun: Option<Noun>,
    limit: Option<Duration>,
}

impl Call {
    /// A call that only reads.
    pub(crate) fn quick(what: impl Into<String>) -> Self {
        Self { what: what.into(), noun: None, limit: Some(QUICK_LIMIT) }
    }

    /// A call that may take as long as it needs.
    pub(crate) fn slow(what: impl Into<String>) -> Self {
        Self { what: what.into(), noun: None, limit: None }
    }

    pub(crate) fn on(self, noun: Noun) -> Self {
        Self { noun: Some(noun), ..self }
    }

    /// The error for a refused call.
    pub(crate) fn error(&self, status: &Status) -> CliError {
        CliError::Call {
            what: self.what.clone(),
            message: message_of(status),
            code: status.code(),
            noun: self.noun,
        }
    }
}

fn message_of(status: &Status) -> String {
    if status.message().is_empty() {
        status.code().description().to_owned()
    } else {
        status.message().to_owned()
    }
}

/// One run's connection to a runtime.
#[derive(Debug)]
pub(crate) struct Session {
    settings: Settings,
    runtime: OnceCell<Channel>,
    images: OnceCell<Channel>,
}

impl Session {
    pub(crate) fn new(settings: Settings) -> Self {
        Self { settings, runtime: OnceCell::new(), images: OnceCell::new() }
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.settings.runtime_endpoint
    }

    fn image_endpoint(&self) -> &str {
        self.settings.image_endpoint.as_deref().unwrap_or(&self.settings.runtime_endpoint)
    }

    async fn runtime_channel(&self) -> Result<Channel, CliError> {
        let channel = self.runtime.get_or_try_init(|| self.open(self.endpoint())).await?;
        Ok(channel.clone())
    }

    async fn image_channel(&self) -> Result<Channel, CliError> {
        if self.settings.image_endpoint.is_none() {
            return self.runtime_channel().await;
        }
        let channel = self.images.get_or_try_init(|| self.open(self.image_endpoint())).await?;
        Ok(channel.clone())
    }

    async fn open(&self, endpoint: &str) -> Result<Channel, CliError> {
        let limit = self.settings.timeout.unwrap_or(QUICK_LIMIT);
        match tokio::time::timeout(limit, connect(endpoint)).await {
            Ok(channel) => channel.map_err(CliError::Connect),
            Err(_) => Err(self.timed_out("connect", limit)),
        }
    }

    pub(crate) async fn runtime(&self) -> Result<RuntimeServiceClient<Channel>, CliError> {
        Ok(runtime_client(self.runtime_channel().await?))
    }

    pub(crate) async fn images(&self) -> Result<ImageServiceClient<Channel>, CliError> {
        Ok(image_client(self.image_channel().await?))
    }

    pub(crate) async fn pintle_images(&self) -> Result<ext::images_client::ImagesClient<Channel>, CliError> {
        Ok(ext_images_client(self.image_channel().await?))
    }

    pub(crate) async fn pintle_agent(&self) -> Result<ext::agent_client::AgentClient<Channel>, CliError> {
        Ok(ext_agent_client(self.runtime_channel().await?))
    }

    pub(crate) async fn pintle_debug(&self) -> Result<ext::debug_client::DebugClient<Channel>, CliError> {
        Ok(ext_debug_client(self.runtime_channel().await?))
    }

    /// Waits for an answer, within the limit.
    pub(crate) async fn call<T>(
        &self,
        call: Call,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, CliError> {
        let begun = Instant::now();
        let limit = self.settings.timeout.or(call.limit);
        let answered = match limit {
            Some(limit) => match tokio::time::timeout(limit, answer).await {
                Ok(answered) => answered,
                Err(_) => return Err(self.timed_out(&call.what, limit)),
            },
            None => answer.await,
        };
        self.trace(&call, begun.elapsed(), answered.as_ref().err());
        answered.map(Response::into_inner).map_err(|status| call.error(&status))
    }

    /// Like [`Session::call`], for the extension: a foreign runtime is told apart.
    pub(crate) async fn call_pintle<T>(
        &self,
        what: &'static str,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, CliError> {
        match self.call(Call::slow(what), answer).await {
            Err(CliError::Call { code: Code::Unimplemented, .. }) => {
                Err(CliError::NotPintle { endpoint: self.endpoint().to_owned(), what })
            }
            other => other,
        }
    }

    fn timed_out(&self, what: &str, limit: Duration) -> CliError {
        let endpoint = self.endpoint().to_owned();
        CliError::TimedOut { what: what.to_owned(), endpoint, seconds: limit.as_secs() }
    }

    fn trace(&self, call: &Call, took: Duration, refused: Option<&Status>) {
        if self.settings.debug {
            let outcome = refused.map_or_else(|| "ok".to_owned(), |status| format!("{:?}", status.code()));
            eprintln!("debug: {}: {}: {outcome} after {} ms", self.endpoint(), call.what, took.as_millis());
        }
    }
}
