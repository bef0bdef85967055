//! How much memory a process holds, and whether that grows.
//!
//! In: a process id; a series of measurements. Out: bytes; the slope of the line that fits them best.

use std::fs;

/// What `/proc/<pid>/smaps_rollup` says, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Resident.
    pub rss: u64,
    /// Resident, with shared pages divided among those who share them.
    pub pss: u64,
    /// Written to and shared with nobody; less for as long as a forked child shares it.
    pub private_dirty: u64,
    /// Not of a file, shared with a child or not.
    pub anonymous: u64,
}

impl Memory {
    /// Of a process that lives.
    ///
    /// # Panics
    /// When it is gone.
    pub fn of(pid: i32) -> Self {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let field = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).expect("the field is there");
            let kilobytes = line.split_whitespace().nth(1).expect("a number");
            kilobytes.parse::<u64>().expect("a number") * 1024
        };
        Self {
            rss: field("Rss:"),
            pss: field("Pss:"),
            private_dirty: field("Private_Dirty:"),
            anonymous: field("Anonymous:"),
        }
    }
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rss, pss, private_dirty, .. } = self;
        write!(f, "rss {} pss {} private dirty {} KiB", rss / 1024, pss / 1024, private_dirty / 1024)
    }
}

/// The slope of the straight line with the least squares through `(x, y)`; 0 for fewer than two different `x`.
pub fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.iter().map(|_| 1.0).sum::<f64>();
    let (sum_x, sum_y) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
    let (mean_x, mean_y) = (sum_x / count, sum_y / count);
    let spread: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    if points.len() < 2 || spread == 0.0 {
        return 0.0;
    }
    points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum::<f64>() / spread
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_is_that_of_the_line_through_the_points() {
        assert!((slope(&[(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]) - 2.0).abs() < 1e-9);
        assert!((slope(&[(0.0, 0.0), (1.0, 2.0), (2.0, 1.0)]) - 0.5).abs() < 1e-9);
        assert_eq!(slope(&[(1.0, 5.0)]), 0.0);
        assert_eq!(slope(&[]), 0.0);
    }
}
