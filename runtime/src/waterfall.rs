//! How long each stage of a pod's start took: `pintle pods --waterfall`.
//!
//! In: the spans of target [`TARGET`] that the engine opens around its operations and their stages, while recording is
//! on. Out: the last [`MOST_OPERATIONS`] operations, each with its stages. While it is off, nobody is interested in those
//! spans, and opening one costs a look at a static byte.
//!
//! Everything here belongs to the process, as the subscriber does: [`layer`] goes into it, [`record`] turns it on and off,
//! [`recorded`] returns what there is. It decides nothing and writes nothing to disk.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use tracing::{
    Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
    subscriber::Interest,
};
use tracing_subscriber::{
    Layer,
    layer::{Context, Filter},
    registry::LookupSpan,
};

/// What the spans of a pod's start are called.
pub const TARGET: &str = "pintle::stage";

/// The most operations kept; a pod with one container takes three. At about 1 KiB each.
pub const MOST_OPERATIONS: usize = 512;

/// The most stages kept of one operation.
const MOST_STAGES: usize = 64;

/// Opens a span around a stage, or, with fields, around an operation.
macro_rules! stage {
    ($($description:tt)*) => {
        tracing::trace_span!(target: $crate::waterfall::TARGET, $($description)*)
    };
}
pub(crate) use stage;

static RECORDING: AtomicBool = AtomicBool::new(false);
static RECORDED: Mutex<VecDeque<Operation>> = Mutex::new(VecDeque::new());

/// One call of the engine's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Which.
    pub name: &'static str,
    /// The sandbox it was for; empty: none came of it.
    pub sandbox: String,
    /// The container, if it was about one.
    pub container: String,
    /// When it began.
    pub began: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// Its stages, in the order in which they began.
    pub stages: Vec<Stage>,
}

/// A part of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Which.
    pub name: &'static str,
    /// How many stages it is inside of.
    pub depth: usize,
    /// When it began, after the operation did.
    pub offset: Duration,
    /// How long it took.
    pub took: Duration,
}

/// Turns recording on or off. What is recorded stays.
pub fn record(on: bool) {
    RECORDING.store(on, Ordering::Release);
    tracing::callsite::rebuild_interest_cache();
}

/// Whether pods' starts are recorded now.
#[must_use]
pub fn is_recording() -> bool {
    RECORDING.load(Ordering::Acquire)
}

/// The last operations, the oldest first.
#[must_use]
pub fn recorded() -> Vec<Operation> {
    RECORDED.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
}

/// What takes the spans in, for the process's subscriber.
#[must_use]
pub fn layer<S: Subscriber + for<'a> LookupSpan<'a>>() -> impl Layer<S> {
    Recorder.with_filter(WhileRecording)
}

/// Interested in the engine's stages, while recording is on.
#[derive(Debug)]
struct WhileRecording;

impl<S> Filter<S> for WhileRecording {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        metadata.target() == TARGET && is_recording()
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if metadata.target() == TARGET && is_recording() { Interest::always() } else { Interest::never() }
    }
}

#[derive(Debug)]
struct Recorder;

/// A span under way.
#[derive(Debug)]
struct Timed {
    start: Instant,
    began: SystemTime,
    sandbox: String,
    container: String,
    /// Those of its stages that are over, if it is an operation.
    stages: Vec<Stage>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Recorder {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut timed = Timed {
            start: Instant::now(),
            began: SystemTime::now(),
            sandbox: String::new(),
            container: String::new(),
            stages: Vec::new(),
        };
        attributes.record(&mut timed);
        span.extensions_mut().insert(timed);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(timed) = span.extensions_mut().get_mut::<Timed>() {
            values.record(timed);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let Some(timed) = span.extensions_mut().remove::<Timed>() else { return };
        // What is above it, the operation last. Spans that are not ours are not in sight of this layer.
        let above: Vec<_> = span.scope().skip(1).collect();
        match above.last() {
            None => keep(span.name(), timed),
            Some(operation) => {
                if let Some(owner) = operation.extensions_mut().get_mut::<Timed>()
                    && owner.stages.len() < MOST_STAGES
                {
                    owner.stages.push(Stage {
                        name: span.name(),
                        depth: above.len() - 1,
                        offset: timed.start.saturating_duration_since(owner.start),
                        took: timed.start.elapsed(),
                    });
                }
            }
        }
    }
}

fn keep(name: &'static str, timed: Timed) {
    let Timed { start, began, sandbox, container, mut stages } = timed;
    stages.sort_by_key(|stage| (stage.offset, stage.depth));
    let operation = Operation { name, sandbox, container, began, took: start.elapsed(), stages };
    let mut recorded = RECORDED.lock().unwrap_or_else(PoisonError::into_inner);
    if recorded.len() == MOST_OPERATIONS {
        recorded.pop_front();
    }
    recorded.push_back(operation);
}

impl Visit for Timed {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        match field.name() {
            "sandbox" => self.sandbox = format!("{value:?}"),
            "container" => self.container = format!("{value:?}"),
            _ => {}
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    fn start_a_pod() {
        let operation = stage!("run_pod_sandbox", sandbox = "s1").entered();
        stage!("intent").in_scope(|| {});
        stage!("supervisor").in_scope(|| stage!("launch").in_scope(|| {}));
        drop(operation);
    }

    #[test]
    fn stages_are_recorded_while_it_is_on_and_nobody_asks_for_them_while_it_is_off() {
        let subscriber = tracing_subscriber::registry().with(layer());
        tracing::subscriber::with_default(subscriber, || {
            start_a_pod();
            assert!(stage!("intent").is_disabled());
            assert_eq!(recorded(), []);
            record(true);
            start_a_pod();
            record(false);
            start_a_pod();
        });
        let [operation] = &recorded()[..] else { panic!("{:?}", recorded()) };
        assert_eq!((operation.name, operation.sandbox.as_str()), ("run_pod_sandbox", "s1"));
        let stages: Vec<_> = operation.stages.iter().map(|stage| (stage.name, stage.depth)).collect();
        assert_eq!(stages, [("intent", 0), ("supervisor", 0), ("launch", 1)]);
        assert!(operation.stages.iter().all(|stage| stage.offset + stage.took <= operation.took));
        for _ in 0..=MOST_OPERATIONS {
            let timed = Timed {
                start: Instant::now(),
                began: SystemTime::now(),
                sandbox: String::new(),
                container: String::new(),
                stages: Vec::new(),
            };
            keep("run_pod_sandbox", timed);
        }
        assert_eq!(recorded().len(), MOST_OPERATIONS, "the oldest went");
    }
}
