//! Runs all cases against all runtimes and tells what came of it.
//!
//! In: cases. Out: a [`Report`]: a table of cases and runtimes, and what is wrong. Several cases run at once on each side;
//! none may rely on being alone.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use pintle_integration::time_out;

use crate::{
    calls,
    case::{Case, Kind, Verdict},
    ground::Ground,
    registry::Registry,
    run::Run,
    side::Side,
};

/// Cases at once on a side.
const AT_ONCE: usize = 6;
/// How long a case may take, in seconds.
const CASE_LIMIT: u32 = 60;

/// What came of the cases.
#[derive(Debug)]
pub struct Report {
    rows: Vec<Row>,
    sides: Vec<Kind>,
    /// Everything that should not be, in words.
    pub wrong: Vec<String>,
    /// How long the cases took.
    pub took: Duration,
}

#[derive(Debug)]
struct Row {
    call: &'static str,
    name: &'static str,
    verdicts: Vec<String>,
    notes: Vec<String>,
}

/// Runs the cases of the calls whose name, or the cases whose sentence, holds `only`.
pub async fn conformance(kinds: &[Kind], only: &str) -> Report {
    let ground = Arc::new(Ground::new());
    let _registry = Registry::start(&ground);
    let mut sides = Vec::new();
    for kind in kinds {
        sides.push(Arc::new(Side::start(*kind, &ground).await));
    }
    let cases: Vec<(&'static str, Case)> = calls::all()
        .into_iter()
        .flat_map(|(call, cases)| cases.into_iter().map(move |case| (call, case)))
        .filter(|(call, case)| call.contains(only) || case.name.contains(only))
        .collect();
    let begin = Instant::now();
    let all = stream::iter(&sides).map(|side| ask_all(side, &cases)).buffered(sides.len().max(1));
    let verdicts: Vec<Vec<(Verdict, Vec<String>)>> = all.collect().await;
    let took = begin.elapsed();
    let mut report = Report { rows: rows(&cases), sides: kinds.to_vec(), wrong: Vec::new(), took };
    for (side, verdicts) in sides.iter().zip(verdicts) {
        report.take(side.kind, verdicts);
    }
    for side in &sides {
        let left = side.close().await;
        report.wrong.extend(left.into_iter().map(|line| format!("left by {}: {line}", side.kind)));
    }
    if !report.wrong.is_empty() {
        let logs = sides.iter().map(|side| format!("{} logged:\n{}", side.kind, side.log()));
        report.wrong.extend(logs);
    }
    report
}

async fn ask_all(side: &Arc<Side>, cases: &[(&'static str, Case)]) -> Vec<(Verdict, Vec<String>)> {
    let numbered = cases.iter().enumerate();
    let ask = numbered.map(|(number, (_, case))| async move {
        let run = Run::new(side, format!("case{number}"));
        let begin = Instant::now();
        let asked = tokio::time::timeout(time_out(CASE_LIMIT), case.ask(run.clone(), side.kind)).await;
        let verdict = asked.unwrap_or_else(|_| Verdict::Wrong("it does not come to an end".to_owned()));
        if std::env::var_os("PINTLE_CONFORMANCE_TIMES").is_some() {
            eprintln!("{:>6} ms  {}  {}", begin.elapsed().as_millis(), side.kind, case.name);
        }
        (verdict, run.clean().await)
    });
    stream::iter(ask).buffered(AT_ONCE).collect().await
}

fn rows(cases: &[(&'static str, Case)]) -> Vec<Row> {
    cases
        .iter()
        .map(|(call, case)| Row { call, name: case.name, verdicts: Vec::new(), notes: Vec::new() })
        .collect()
}

impl Report {
    fn take(&mut self, kind: Kind, verdicts: Vec<(Verdict, Vec<String>)>) {
        for (row, (verdict, left)) in self.rows.iter_mut().zip(verdicts) {
            row.verdicts.push(match verdict {
                Verdict::Holds => "yes".to_owned(),
                Verdict::Differs(why) => {
                    row.notes.push(format!("{kind}: {why}"));
                    "no".to_owned()
                }
                Verdict::Wrong(words) => {
                    self.wrong.push(format!("{kind}: {}: {}: {words}", row.call, row.name));
                    "WRONG".to_owned()
                }
            });
            self.wrong.extend(left.into_iter().map(|line| format!("{kind}: {}: {line}", row.name)));
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut call = "";
        for row in &self.rows {
            if row.call != call {
                call = row.call;
                let sides = self.sides.iter().map(|side| format!("{side:>11}")).collect::<String>();
                writeln!(f, "\n{call:<86}{sides}")?;
            }
            let verdicts = row.verdicts.iter().map(|verdict| format!("{verdict:>11}")).collect::<String>();
            writeln!(f, "  {:<84}{verdicts}", row.name)?;
            for note in &row.notes {
                writeln!(f, "      {note}")?;
            }
        }
        let cases = self.rows.len();
        writeln!(f, "\n{cases} cases in {:.1} s", self.took.as_secs_f64())
    }
}
