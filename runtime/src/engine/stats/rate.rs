//! How many processors a group uses now: CRI's `usage_nano_cores`, from two samples.
//!
//! In: the processor time that a group has used, whenever somebody asks. Out: the mean over the time since an earlier asking,
//! at least a second ago. Nothing is sampled in the background: who asks first is told the mean since the start, if that
//! was not long ago, else nothing. Clients that ask at the same time do not shorten each other's samples.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Samples are taken at least so far apart: processor time is accounted in steps of milliseconds.
const SHORTEST: Duration = Duration::from_secs(1);
/// A sample that is older tells nothing about now.
const LONGEST: Duration = Duration::from_secs(5 * 60);
/// Who has started longer ago is not told the mean since then.
const YOUNG: Duration = Duration::from_secs(60);

/// The samples of one group.
#[derive(Debug, Default)]
pub(crate) struct Rate(Mutex<Samples>);

#[derive(Debug, Default)]
struct Samples {
    older: Option<Sample>,
    newer: Option<Sample>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    used: u64,
}

impl Rate {
    /// Nanoseconds of processor time a second, of a group that has used so much and has started so long ago.
    pub(crate) fn nano_cores(&self, used: u64, age: Duration) -> Option<u64> {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        samples.take(Sample { at: Instant::now(), used }, age)
    }
}

impl Samples {
    fn take(&mut self, now: Sample, age: Duration) -> Option<u64> {
        let newer = self.newer.filter(|sample| sample.used <= now.used);
        let base = match newer {
            Some(newer) if now.at.duration_since(newer.at) < SHORTEST => self.older,
            _ => {
                self.older = newer;
                self.newer = Some(now);
                newer
            }
        };
        let base = base.map(|base| (base.used, now.at.duration_since(base.at)));
        let base = base.filter(|(_, time)| *time <= LONGEST);
        let (before, time) = base.or_else(|| (age <= YOUNG && !age.is_zero()).then_some((0, age)))?;
        let rate = u128::from(now.used.checked_sub(before)?) * 1_000_000_000 / time.as_nanos().max(1);
        u64::try_from(rate).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Duration = Duration::from_secs(3600);

    #[test]
    fn the_rate_is_the_mean_since_an_earlier_asking_at_least_a_second_ago() {
        let begin = Instant::now();
        let mut samples = Samples::default();
        let mut ask = |millis: u64, used: u64, age| {
            samples.take(Sample { at: begin + Duration::from_millis(millis), used }, age)
        };
        assert_eq!(ask(0, 500, OLD), None, "nothing is known yet");
        assert_eq!(ask(100, 600, OLD), None, "too early");
        assert_eq!(ask(2_000, 1_000_000_500, OLD), Some(500_000_000));
        assert_eq!(
            ask(2_500, 1_500_000_500, OLD),
            Some(600_000_000),
            "of 2.5 seconds: the last sample is too young"
        );
        assert_eq!(ask(3_000, 2_000_000_500, OLD), Some(1_000_000_000));
        assert_eq!(ask(3_600_000, 3_000_000_000, OLD), None, "an hour says nothing about now");
        assert_eq!(ask(3_601_000, 3_000_000_000, OLD), Some(0));
        assert_eq!(ask(3_602_000, 5, OLD), None, "it counts anew");
    }

    #[test]
    fn who_has_just_started_is_told_of_the_time_since() {
        let mut samples = Samples::default();
        let now = Sample { at: Instant::now(), used: 1_000_000_000 };
        assert_eq!(samples.take(now, Duration::from_secs(4)), Some(250_000_000));
        assert_eq!(Samples::default().take(now, Duration::ZERO), None);
    }
}
