//! Samples by measure and side, and what is told of them.
//!
//! In: figures. Out: [`Summary`]: median, percentiles, median absolute deviation, extremes. Medians, because a loaded machine
//! makes some samples very large and none too small.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::catalogue::Group;
use crate::daemon::Kind;
use crate::kernel;

/// What was measured of one side.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Summary {
    pub(crate) n: usize,
    pub(crate) median: f64,
    pub(crate) p10: f64,
    pub(crate) p90: f64,
    pub(crate) mad: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) samples: Vec<f64>,
}

/// The machine's load around a group of measures.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Load {
    pub(crate) group: String,
    pub(crate) seconds: f64,
    pub(crate) before: [f64; 3],
    pub(crate) after: [f64; 3],
}

/// Both sides of a measure.
#[derive(Debug, Clone, Default)]
struct Pair {
    containerd: Vec<f64>,
    pintle: Vec<f64>,
}

/// Everything measured in a run.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    pairs: BTreeMap<&'static str, Pair>,
    pub(crate) loads: Vec<Load>,
}

impl Samples {
    /// Takes a figure.
    pub(crate) fn add(&mut self, key: &'static str, kind: Kind, value: f64) {
        let pair = self.pairs.entry(key).or_default();
        match kind {
            Kind::Containerd => pair.containerd.push(value),
            Kind::Runtime | Kind::Agent => pair.pintle.push(value),
        }
    }

    /// Takes a time, in milliseconds.
    pub(crate) fn add_time(&mut self, key: &'static str, kind: Kind, time: Duration) {
        self.add(key, kind, time.as_secs_f64() * 1e3);
    }

    /// containerd's summary of a measure, and Pintle's.
    pub(crate) fn summaries(&self, key: &str) -> [Option<Summary>; 2] {
        let pair = self.pairs.get(key).cloned().unwrap_or_default();
        [summary(pair.containerd), summary(pair.pintle)]
    }

    /// Notes the load before a group; [`Self::end`] notes the one after.
    pub(crate) fn begin(groups: &[Group]) -> (Load, std::time::Instant) {
        let group =
            groups.iter().map(|group| format!("{group:?}").to_lowercase()).collect::<Vec<_>>().join(", ");
        let load = Load { group, seconds: 0.0, before: kernel::load(), after: [0.0; 3] };
        (load, std::time::Instant::now())
    }

    /// Ends what [`Self::begin`] began.
    pub(crate) fn end(&mut self, (load, begin): (Load, std::time::Instant)) {
        self.loads.push(Load { seconds: begin.elapsed().as_secs_f64(), after: kernel::load(), ..load });
    }
}

fn summary(mut samples: Vec<f64>) -> Option<Summary> {
    let in_order = samples.clone();
    samples.sort_by(f64::total_cmp);
    let (min, max) = (*samples.first()?, *samples.last()?);
    let median = quantile(&samples, 0.5);
    let mut distances: Vec<f64> = samples.iter().map(|sample| (sample - median).abs()).collect();
    distances.sort_by(f64::total_cmp);
    Some(Summary {
        n: samples.len(),
        median,
        p10: quantile(&samples, 0.1),
        p90: quantile(&samples, 0.9),
        mad: quantile(&distances, 0.5),
        min,
        max,
        samples: in_order,
    })
}

/// Between two samples, by their distance; 0 of none.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index between 0 and the number of samples"
)]
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let place = part * sorted.len().saturating_sub(1) as f64;
    let (low, rest) = (place.floor() as usize, place.fract());
    let at = |index: usize| sorted.get(index).copied();
    let first = at(low).unwrap_or(0.0);
    first + (at(low + 1).unwrap_or(first) - first) * rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_tells_median_spread_and_extremes() {
        let summary = summary(vec![5.0, 1.0, 3.0, 2.0, 4.0]).expect("samples");
        assert_eq!((summary.n, summary.median, summary.mad), (5, 3.0, 1.0));
        assert_eq!((summary.min, summary.max), (1.0, 5.0));
        assert!((summary.p10 - 1.4).abs() < 1e-9 && (summary.p90 - 4.6).abs() < 1e-9, "{summary:?}");
    }

    #[test]
    fn of_no_samples_there_is_no_summary() {
        assert!(summary(Vec::new()).is_none());
    }
}
