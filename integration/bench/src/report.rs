//! The results as a table and as JSON.
//!
//! In: samples and what is known of the machine. Out: text. Tells which targets are met; judges nothing else.

use serde::Serialize;

use crate::catalogue::{Better, Group, MEASURES, Measure};
use crate::samples::{Load, Samples, Summary};

/// What was compared, where, and how.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Setting {
    pub(crate) machine: String,
    pub(crate) kernel: String,
    pub(crate) cgroups: &'static str,
    pub(crate) containerd: String,
    pub(crate) runc: String,
    pub(crate) pintle: String,
    pub(crate) rounds: usize,
    pub(crate) pods: usize,
    pub(crate) big_image: String,
}

/// One line of the results.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    key: &'static str,
    group: Group,
    title: &'static str,
    unit: &'static str,
    containerd: Option<Summary>,
    pintle: Option<Summary>,
    /// How many times better Pintle's median is: less of what shall be little, more of what shall be much.
    factor: Option<f64>,
    /// The same of the best sample of each side, which a loaded machine disturbs least.
    best_factor: Option<f64>,
    target: Option<f64>,
    met: Option<bool>,
}

/// Everything, for the JSON file.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) setting: Setting,
    pub(crate) measures: Vec<Row>,
    pub(crate) loads: Vec<Load>,
    pub(crate) notes: &'static [&'static str],
}

/// What a reader must know to be fair to both sides.
pub(crate) const NOTES: &[&str] = &[
    "One client, one kept connection to each side; its making is not counted. Rounds alternate: containerd, Pintle, Pintle, containerd.",
    "Seccomp RuntimeDefault is asked for on both sides, AppArmor is off, logs are written on both sides.",
    "Both sides run the same container program and the same infra program (Pintle's pause, 1 KiB, as containerd's sandbox image).",
    "containerd: Debian's configuration with overlayfs, runc, CNI plug-ins loopback + bridge (masquerade) + host-local + portmap.",
    "restart: SIGKILL to the container's process until its successor is started by the client, upon the event; containerd's event is its own TaskExit.",
    "pull, import: MB of files in the image per second; pull from a registry on loopback by CRI PullImage, import by `ctr images import` and `pintle import` (each with its client's start).",
    "memory, CPU, start to ready: `pintle agent`, which does the kubelet's part as well, against containerd alone. runtime alone: `pintle runtime`.",
    "A factor above 1 is in Pintle's favour; `of best` compares the best sample of each side instead of the medians.",
];

/// Puts the results together.
pub(crate) fn report(setting: Setting, samples: &Samples) -> Report {
    let rows = MEASURES.iter().filter_map(|measure| row(measure, samples));
    Report { setting, measures: rows.collect(), loads: samples.loads.clone(), notes: NOTES }
}

fn row(measure: &Measure, samples: &Samples) -> Option<Row> {
    let [containerd, pintle] = samples.summaries(measure.key);
    if containerd.is_none() && pintle.is_none() {
        return None;
    }
    let both = containerd.as_ref().zip(pintle.as_ref());
    let factor = both.and_then(|(theirs, ours)| match measure.better {
        Better::Less => divided(theirs.median, ours.median),
        Better::More => divided(ours.median, theirs.median),
    });
    let best_factor = both.and_then(|(theirs, ours)| match measure.better {
        Better::Less => divided(theirs.min, ours.min),
        Better::More => divided(ours.max, theirs.max),
    });
    Some(Row {
        key: measure.key,
        group: measure.group,
        title: measure.title,
        unit: measure.unit,
        containerd,
        pintle,
        factor,
        best_factor,
        target: measure.target,
        met: factor.zip(measure.target).map(|(factor, target)| factor >= target),
    })
}

fn divided(a: f64, b: f64) -> Option<f64> {
    (b > 0.0).then(|| a / b)
}

/// Columns of the table.
const COLUMNS: usize = 11;

/// The table, in Markdown.
pub(crate) fn table(report: &Report) -> String {
    let mut lines = vec![[
        "measure".to_owned(),
        "unit".to_owned(),
        "n".to_owned(),
        "containerd".to_owned(),
        "p10-p90 (min)".to_owned(),
        "Pintle".to_owned(),
        "p10-p90 (min)".to_owned(),
        "factor".to_owned(),
        "of best".to_owned(),
        "target".to_owned(),
        String::new(),
    ]];
    lines.extend(report.measures.iter().map(cells));
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        text.push_str(&format_line(line, &widths));
        if number == 0 {
            text.push_str(&format_line(&std::array::from_fn(|column| "-".repeat(widths[column])), &widths));
        }
    }
    text
}

fn format_line(cells: &[String; COLUMNS], widths: &[usize; COLUMNS]) -> String {
    let padded = cells.iter().zip(widths).enumerate().map(|(column, (cell, &width))| match column {
        0 | 1 | 9 | 10 => format!("{cell:<width$}"),
        _ => format!("{cell:>width$}"),
    });
    format!("| {} |\n", padded.collect::<Vec<_>>().join(" | "))
}

fn cells(row: &Row) -> [String; COLUMNS] {
    let n = [&row.containerd, &row.pintle].map(|side| side.as_ref().map_or(0, |summary| summary.n));
    let median = |side: &Option<Summary>| side.as_ref().map_or("-".to_owned(), |s| number(s.median));
    let spread = |side: &Option<Summary>| {
        side.as_ref()
            .filter(|s| s.n > 1)
            .map_or("-".to_owned(), |s| format!("{}-{} ({})", number(s.p10), number(s.p90), number(s.min)))
    };
    [
        row.title.replace("  ", "&nbsp; "),
        row.unit.to_owned(),
        if n[0] == n[1] { n[0].to_string() } else { format!("{}, {}", n[0], n[1]) },
        median(&row.containerd),
        spread(&row.containerd),
        median(&row.pintle),
        spread(&row.pintle),
        factor(row.factor),
        factor(row.best_factor),
        row.target.map_or(String::new(), |target| format!(">= {target}x")),
        match row.met {
            Some(true) => "met".to_owned(),
            Some(false) => "MISSED".to_owned(),
            None => String::new(),
        },
    ]
}

fn factor(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.1}x"))
}

fn number(value: f64) -> String {
    if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

/// The machine and the load, a line each.
pub(crate) fn preamble(report: &Report) -> String {
    let s = &report.setting;
    let mut lines = vec![
        format!("{}; Linux {}; cgroups {}", s.machine, s.kernel, s.cgroups),
        format!("{}; {}; {}", s.containerd, s.runc, s.pintle),
        format!("{} rounds, {} pods; big image: {}", s.rounds, s.pods, s.big_image),
    ];
    lines.extend(report.loads.iter().map(|load| {
        format!(
            "load average {:.2} before, {:.2} after: {} ({:.0} s)",
            load.before[0], load.after[0], load.group, load.seconds
        )
    }));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::Kind;

    fn setting() -> Setting {
        let text = String::new;
        Setting {
            machine: text(),
            kernel: text(),
            cgroups: "v1",
            containerd: text(),
            runc: text(),
            pintle: text(),
            rounds: 1,
            pods: 1,
            big_image: text(),
        }
    }

    fn result(key: &'static str, theirs: f64, ours: f64) -> (Option<f64>, Option<bool>) {
        let mut samples = Samples::default();
        samples.add(key, Kind::Containerd, theirs);
        samples.add(key, Kind::Runtime, ours);
        let report = report(setting(), &samples);
        let row = report.measures.iter().find(|row| row.key == key).expect("a row");
        (row.factor, row.met)
    }

    #[test]
    fn a_factor_is_above_one_when_pintle_is_better() {
        assert_eq!(result("start", 100.0, 20.0), (Some(5.0), Some(true)));
        assert_eq!(result("start", 100.0, 21.0).1, Some(false));
        assert_eq!(result("pull", 20.0, 30.0), (Some(1.5), Some(true)));
        assert_eq!(result("start.create", 10.0, 20.0), (Some(0.5), None));
    }

    #[test]
    fn a_side_that_was_not_measured_has_no_factor() {
        let mut samples = Samples::default();
        samples.add("restart.agent", Kind::Agent, 30.0);
        let report = report(setting(), &samples);
        assert_eq!(report.measures.len(), 1);
        assert!(table(&report).contains("| 0, 1 |"), "{}", table(&report));
    }
}
