//! The stream of container events: CRI's `GetContainerEvents`, the source of the agent's PLEG.
//!
//! In: events as they happen, published without waiting. Out: one bounded queue per subscriber. A subscriber that does
//! not keep up loses its stream and lists again; nobody ever waits for a subscriber.
//!
//! An engine that takes over from another one keeps what it tells for a while ([`EventHub::keep`]), for those who were
//! subscribed to its predecessor and come back: their stream begins with it. Of what is kept only the [`Happening`] is
//! held, the statuses are those of the moment it is sent.
//!
//! ```text
//!  opened over records ──► keeping: the newest 4096 of the first 5 minutes ──► over: events go to subscribers only
//! ```

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::Stream;
use pintle_cri_api::v1::{ContainerEventResponse, ContainerEventType};
use tokio::sync::broadcast;
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};
use tonic::Status;

use super::state::Sandbox;

/// How many events a subscriber may be behind.
pub const CAPACITY: usize = 1024;
/// How many happenings are kept for those who come back.
pub const MAX_KEPT: usize = 4096;
/// How long happenings are kept for those who come back.
pub const KEPT_FOR: Duration = Duration::from_secs(5 * 60);

/// What happened to whom: an event without the statuses.
#[derive(Debug, Clone)]
pub struct Happening {
    /// The container, or the sandbox.
    pub id: String,
    /// What happened.
    pub kind: ContainerEventType,
    /// When it was told, in nanoseconds since 1970.
    pub at: i64,
    /// The sandbox that it is, or is in.
    pub sandbox: Option<Arc<Sandbox>>,
}

/// Where events are published and subscribed to.
#[derive(Debug)]
pub struct EventHub {
    sender: broadcast::Sender<ContainerEventResponse>,
    /// Held while one is published, so that a subscriber has each event either kept or live.
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    until: Option<Instant>,
    happenings: VecDeque<Happening>,
}

impl EventHub {
    /// A hub whose subscribers may be `capacity` events behind.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { sender: broadcast::channel(capacity).0, kept: Mutex::default() }
    }

    /// From now on and for some time, happenings are kept for those who subscribe later.
    pub fn keep(&self, time: Duration) {
        self.kept().until = Some(Instant::now() + time);
    }

    /// Tells every subscriber, and keeps it while happenings are kept; whether they are. Without subscribers the event is
    /// not put together.
    pub fn publish(
        &self,
        happening: &Happening,
        event: impl FnOnce(&Happening) -> ContainerEventResponse,
    ) -> bool {
        let mut kept = self.kept();
        let keeps = kept.is_open();
        if keeps {
            if kept.happenings.len() == MAX_KEPT {
                kept.happenings.pop_front();
            }
            kept.happenings.push_back(happening.clone());
        }
        self.send(happening, event);
        keeps
    }

    /// Tells those who are subscribed now and nobody who comes later.
    pub fn publish_once(
        &self,
        happening: &Happening,
        event: impl FnOnce(&Happening) -> ContainerEventResponse,
    ) {
        let _order = self.kept();
        self.send(happening, event);
    }

    fn send(&self, happening: &Happening, event: impl FnOnce(&Happening) -> ContainerEventResponse) {
        // An error says that the last subscriber has just gone.
        if self.sender.receiver_count() > 0 && self.sender.send(event(happening)).is_err() {
            tracing::trace!("an event nobody listens to");
        }
    }

    /// What is kept, and every event from now on.
    #[must_use]
    pub fn subscribe(&self) -> (VecDeque<Happening>, LiveEvents) {
        let mut kept = self.kept();
        let happenings = if kept.is_open() { kept.happenings.clone() } else { VecDeque::new() };
        (happenings, LiveEvents { inner: Some(BroadcastStream::new(self.sender.subscribe())) })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn is_open(&mut self) -> bool {
        let open = self.until.is_some_and(|until| Instant::now() < until);
        if !open {
            *self = Self::default();
        }
        open
    }
}

/// A subscriber's events; ends with an error when it was too slow.
#[derive(Debug)]
pub struct LiveEvents {
    inner: Option<BroadcastStream<ContainerEventResponse>>,
}

impl Stream for LiveEvents {
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

    fn happening(id: usize) -> Happening {
        let kind = ContainerEventType::ContainerStoppedEvent;
        Happening { id: id.to_string(), kind, at: 0, sandbox: None }
    }

    fn event(happening: &Happening) -> ContainerEventResponse {
        ContainerEventResponse { container_id: happening.id.clone(), ..Default::default() }
    }

    fn ids(kept: &VecDeque<Happening>) -> Vec<&str> {
        kept.iter().map(|happening| happening.id.as_str()).collect()
    }

    #[tokio::test]
    async fn a_subscriber_that_keeps_up_sees_every_event_in_order() {
        let hub = EventHub::new(4);
        let (kept, mut live) = hub.subscribe();
        assert!(kept.is_empty());
        for i in 0..10 {
            hub.publish(&happening(i), event);
            assert_eq!(live.next().await.unwrap().unwrap().container_id, i.to_string());
        }
    }

    #[tokio::test]
    async fn a_subscriber_that_is_too_slow_loses_its_stream_and_nobody_else_does() {
        let hub = EventHub::new(4);
        let (_, mut slow) = hub.subscribe();
        for i in 0..10 {
            hub.publish(&happening(i), event);
        }
        assert_eq!(slow.next().await.unwrap().unwrap_err().code(), tonic::Code::DataLoss);
        assert!(slow.next().await.is_none());
        let (_, mut other) = hub.subscribe();
        hub.publish(&happening(11), event);
        assert_eq!(other.next().await.unwrap().unwrap().container_id, "11");
    }

    #[tokio::test]
    async fn what_is_kept_comes_first_once_and_only_for_a_while() {
        let hub = EventHub::new(4);
        hub.publish(&happening(0), event);
        hub.keep(KEPT_FOR);
        hub.publish(&happening(1), event);
        hub.publish_once(&happening(2), event);
        let (kept, mut live) = hub.subscribe();
        assert_eq!(ids(&kept), ["1"]);
        hub.publish(&happening(3), event);
        assert_eq!(live.next().await.unwrap().unwrap().container_id, "3");
        assert_eq!(ids(&hub.subscribe().0), ["1", "3"]);
        hub.kept().until = Some(Instant::now());
        assert!(hub.subscribe().0.is_empty());
        hub.publish(&happening(4), event);
        assert_eq!(live.next().await.unwrap().unwrap().container_id, "4");
        assert!(hub.subscribe().0.is_empty());
    }

    #[test]
    fn of_what_is_kept_the_newest_stay() {
        let hub = EventHub::new(4);
        hub.keep(KEPT_FOR);
        assert!((0..MAX_KEPT + 2).all(|i| hub.publish(&happening(i), event)));
        let (kept, _) = hub.subscribe();
        assert_eq!((kept.len(), kept.front().unwrap().id.as_str()), (MAX_KEPT, "2"));
    }
}
