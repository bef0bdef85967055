//! Bars for pulls and imports, one per blob, on stderr.
//!
//! In: progress events. Out: a picture on a terminal, or nothing. Never touches stdout.

use std::collections::HashMap;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use pintle_cri_api::ext::{Progress, progress::Phase};

/// When to draw bars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ProgressWhen {
    Auto,
    Always,
    Never,
}

impl ProgressWhen {
    /// Whether to draw, on a stderr that is a terminal or not.
    pub(crate) fn draws(self, terminal: bool) -> bool {
        match self {
            Self::Auto => terminal,
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// Most bars kept at once; an archive of a thousand layers shows the first ones only.
const MAX_BARS: usize = 64;

/// The bars of one pull or import.
#[derive(Debug)]
pub(crate) struct Bars {
    all: MultiProgress,
    bars: HashMap<String, ProgressBar>,
}

impl Bars {
    pub(crate) fn new(drawn: bool) -> Self {
        let target = if drawn { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { all: MultiProgress::with_draw_target(target), bars: HashMap::new() }
    }

    pub(crate) fn update(&mut self, progress: &Progress) {
        if !self.bars.contains_key(&progress.blob) && self.bars.len() < MAX_BARS {
            let bar = self.all.add(ProgressBar::no_length().with_style(style()));
            bar.set_prefix(short(&progress.blob));
            self.bars.insert(progress.blob.clone(), bar);
        }
        let Some(bar) = self.bars.get(&progress.blob) else { return };
        if progress.total_bytes > 0 {
            bar.set_length(progress.total_bytes);
        }
        bar.set_position(progress.done_bytes);
        bar.set_message(word(progress.phase()));
        if matches!(progress.phase(), Phase::Done | Phase::Exists) {
            bar.abandon();
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        for bar in self.bars.values() {
            bar.abandon();
        }
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix:14} {msg:12} [{bar:30}] {bytes:>10}/{total_bytes}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

fn short(blob: &str) -> String {
    blob.strip_prefix("sha256:").unwrap_or(blob).chars().take(12).collect()
}

fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Waiting => "waiting",
        Phase::Downloading => "downloading",
        Phase::Verifying => "verifying",
        Phase::Unpacking => "unpacking",
        Phase::Done => "done",
        Phase::Exists => "exists",
    }
}
