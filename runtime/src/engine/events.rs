//! The stream of container events: CRI's `GetContainerEvents`, the source of the agent's PLEG.
//!
//! In: events as they happen, published without waiting. Out: one bounded queue per subscriber. A subscriber that does
//! not keep up loses its stream and lists again; nobody ever waits for a subscriber.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::Stream;
use pintle_cri_api::v1::ContainerEventResponse;
use tokio::sync::broadcast;
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};
use tonic::Status;

/// How many events a subscriber may be behind.
pub const CAPACITY: usize = 1024;

/// Where events are published and subscribed to.
#[derive(Debug, Clone)]
pub struct EventHub {
    sender: broadcast::Sender<ContainerEventResponse>,
}

impl EventHub {
    /// A hub whose subscribers may be `capacity` events behind.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { sender: broadcast::channel(capacity).0 }
    }

    /// Whether anybody listens; if not, an event need not be put together.
    #[must_use]
    pub fn has_subscribers(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    /// Tells every subscriber.
    pub fn publish(&self, event: ContainerEventResponse) {
        // An error says that nobody listens.
        if self.sender.send(event).is_err() {
            tracing::trace!("an event nobody listens to");
        }
    }

    /// Every event from now on.
    #[must_use]
    pub fn subscribe(&self) -> EventStream {
        EventStream { inner: Some(BroadcastStream::new(self.sender.subscribe())) }
    }
}

/// A subscriber's events; ends with an error when it was too slow.
#[derive(Debug)]
pub struct EventStream {
    inner: Option<BroadcastStream<ContainerEventResponse>>,
}

impl Stream for EventStream {
    type Item = Result<ContainerEventResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(inner) = self.inner.as_mut() else { return Poll::Ready(None) };
        match Pin::new(inner).poll_next(cx) {
            Poll::Ready(Some(Ok(event))) => Poll::Ready(Some(Ok(event))),
            Poll::Ready(Some(Err(BroadcastStreamRecvError::Lagged(lost)))) => {
                self.inner = None;
                let text = format!("{lost} events were lost because they were not read in time; list again");
                Poll::Ready(Some(Err(Status::data_loss(text))))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    fn event(id: usize) -> ContainerEventResponse {
        ContainerEventResponse { container_id: id.to_string(), ..Default::default() }
    }

    #[tokio::test]
    async fn a_subscriber_that_keeps_up_sees_every_event_in_order() {
        let hub = EventHub::new(4);
        let mut stream = hub.subscribe();
        for i in 0..10 {
            hub.publish(event(i));
            assert_eq!(stream.next().await.unwrap().unwrap().container_id, i.to_string());
        }
    }

    #[tokio::test]
    async fn a_subscriber_that_is_too_slow_loses_its_stream_and_nobody_else_does() {
        let hub = EventHub::new(4);
        let mut slow = hub.subscribe();
        for i in 0..10 {
            hub.publish(event(i));
        }
        assert_eq!(slow.next().await.unwrap().unwrap_err().code(), tonic::Code::DataLoss);
        assert!(slow.next().await.is_none());
        let mut other = hub.subscribe();
        hub.publish(event(11));
        assert_eq!(other.next().await.unwrap().unwrap().container_id, "11");
    }
}
