//! The doctor's report as text or JSON.
//!
//! In: a report. Out: lines. Findings come in the order in which they are repaired.

use std::io::Write;
use std::time::Duration;

use pintle_runtime::doctor::{Class, Finding, Outcome, Remedy, Report};

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    Table,
    Json,
}

/// Prints it.
pub(super) fn print(report: &Report, format: Format, out: &mut impl Write) -> std::io::Result<()> {
    if format == Format::Json {
        return writeln!(out, "{:#}", serde_json::json!(report));
    }
    if report.findings.is_empty() {
        let daemon = if report.engine_runs { "running" } else { "stopped" };
        return writeln!(out, "clean: nothing too much, nothing missing (daemon {daemon})");
    }
    let rows: Vec<[String; 5]> = report.findings.iter().map(row).collect();
    let header = ["", "KIND", "NAME", "AGE", "WHAT"].map(str::to_owned);
    let width = |column: usize| {
        let cells = std::iter::once(&header).chain(&rows).map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..5).map(width).collect();
    writeln!(out, "{}", line(&header, &widths))?;
    for (row, finding) in rows.iter().zip(&report.findings) {
        writeln!(out, "{}", line(row, &widths))?;
        writeln!(out, "    ours because {}", finding.ours)?;
        writeln!(out, "    {}: {}", step_word(finding.class), finding.step)?;
        writeln!(out, "    {}", outcome(finding))?;
    }
    Ok(())
}

fn row(finding: &Finding) -> [String; 5] {
    let class = match finding.class {
        Class::Surplus => "surplus",
        Class::Lack => "lack",
    };
    let kind = format!("{:?}", finding.kind).to_lowercase();
    let age = finding.age().map_or_else(|| "-".to_owned(), age);
    [class.to_owned(), kind, finding.name.clone(), age, finding.what.clone()]
}

fn line(cells: &[String; 5], widths: &[usize]) -> String {
    let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
    padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
}

fn step_word(class: Class) -> &'static str {
    match class {
        Class::Surplus => "should have gone by",
        Class::Lack => "came by",
    }
}

fn outcome(finding: &Finding) -> String {
    match (&finding.outcome, &finding.remedy) {
        (Outcome::Repaired, _) => "repaired".to_owned(),
        (Outcome::NotRepaired(reason), _) => format!("not repaired: {reason}"),
        (Outcome::Found, Remedy::None(why)) => format!("not for --repair: {why}"),
        (Outcome::Found, _) => "--repair puts it right".to_owned(),
    }
}

fn age(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use pintle_runtime::doctor::Kind;

    use super::*;

    fn text(report: &Report, format: Format) -> String {
        let mut out = Vec::new();
        print(report, format, &mut out).expect("printed");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_finding_is_explained_and_a_clean_report_says_so() {
        let mut report = Report { engine_runs: false, looks: 1, findings: Vec::new() };
        assert_eq!(
            text(&report, Format::Table),
            "clean: nothing too much, nothing missing (daemon stopped)\n"
        );
        let finding = Finding::surplus(Kind::Mount, "/s/x", "stray").ours("it lies there").step("nobody");
        report.findings.push(finding.remedy(Remedy::Unmount("/s/x".into())));
        let expected = "         KIND   NAME  AGE  WHAT\nsurplus  mount  /s/x  -    stray\n    ours because it lies there\n    \
            should have gone by: nobody\n    --repair puts it right\n";
        assert_eq!(text(&report, Format::Table), expected);
        let json: serde_json::Value = serde_json::from_str(&text(&report, Format::Json)).expect("JSON");
        assert_eq!(json["findings"][0]["kind"], "mount");
        assert_eq!(json["findings"][0]["outcome"]["state"], "found");
    }
}
