//! `pods --waterfall`: how long each stage of pods' starts took.
//!
//! In: the operations that the runtime recorded, the pods' names. Out: per start a table of offsets, durations and bars,
//! the oldest first. An operation long after the others of its pod (a restarted container) starts a table of its own.

use std::{fmt::Write as _, io::Write};

use pintle_cri_api::{
    ext::{Operation, WaterfallRequest, waterfall_request::Recording},
    v1::PodSandbox,
};

use crate::{error::CliError, io::Io, session::Session};

/// How wide a bar is that lasts as long as everything.
const BAR: usize = 40;

/// What begins later than this after everything before has ended is not part of the same start.
const PAUSE_NANOS: i64 = 5_000_000_000;

const SHORT_ID: usize = 13;

/// What shall become of the recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Record {
    On,
    Off,
}

pub(crate) async fn run(
    record: Option<Record>,
    pods: &[PodSandbox],
    session: &Session,
    io: &mut Io<'_>,
) -> Result<(), CliError> {
    let recording = match record {
        None => Recording::Keep,
        Some(Record::On) => Recording::On,
        Some(Record::Off) => Recording::Off,
    };
    let mut client = session.pintle_debug().await?;
    let request = WaterfallRequest { recording: recording.into() };
    let answer = session.call_pintle("the waterfall of pods' starts", client.waterfall(request)).await?;
    io.out.write_all(render(&answer.operations, pods).as_bytes())?;
    if !answer.recording {
        writeln!(
            io.err,
            "pods' starts are not recorded now: 'pintle pods --waterfall --record on' records them"
        )?;
    }
    Ok(())
}

fn render(operations: &[Operation], pods: &[PodSandbox]) -> String {
    let mut text = String::new();
    for pod in pods {
        let of: Vec<_> = operations.iter().filter(|o| o.pod_sandbox_id == pod.id).collect();
        for start in starts(of) {
            if !text.is_empty() {
                text.push('\n');
            }
            table(&mut text, pod, &start);
        }
    }
    text
}

/// A pod's operations, by start.
fn starts(mut operations: Vec<&Operation>) -> Vec<Vec<&Operation>> {
    operations.sort_by_key(|operation| operation.began_at);
    let mut starts: Vec<Vec<&Operation>> = Vec::new();
    for operation in operations {
        let end = starts.last().map(|start| start.iter().map(|o| end_of(o)).max().unwrap_or_default());
        match (starts.last_mut(), end) {
            (Some(start), Some(end)) if operation.began_at - end < PAUSE_NANOS => start.push(operation),
            _ => starts.push(vec![operation]),
        }
    }
    starts
}

fn end_of(operation: &Operation) -> i64 {
    operation.began_at.saturating_add(operation.duration_nanos)
}

fn table(text: &mut String, pod: &PodSandbox, start: &[&Operation]) {
    let begin = start.first().map_or(0, |operation| operation.began_at);
    let total = start.iter().map(|operation| end_of(operation) - begin).max().unwrap_or_default().max(1);
    let metadata = pod.metadata.clone().unwrap_or_default();
    let id: String = pod.id.chars().take(SHORT_ID).collect();
    line(text, format_args!("{}/{} {id}: {} ms", metadata.namespace, metadata.name, millis(total)));
    for operation in start {
        let offset = operation.began_at - begin;
        let container: String = operation.container_id.chars().take(SHORT_ID).collect();
        let name = format!("{} {container}", operation.name);
        row(text, &name, (offset, operation.duration_nanos), total);
        for stage in &operation.stages {
            let indent = "  ".repeat(usize::try_from(stage.depth).unwrap_or_default().min(8) + 1);
            let at = (offset + stage.offset_nanos, stage.duration_nanos);
            row(text, &format!("{indent}{}", stage.name), at, total);
        }
    }
}

fn row(text: &mut String, name: &str, (offset, took): (i64, i64), total: i64) {
    let column = |nanos: i64| {
        (1..=BAR).filter(|at| i128::from(nanos) * BAR as i128 >= *at as i128 * i128::from(total)).count()
    };
    let (from, to) = (column(offset), column(offset + took));
    // Something is to be seen of the shortest stage.
    let bar = "█".repeat((to - from).max(1));
    let bar = format!("{}{bar}", " ".repeat(from.min(BAR - 1)));
    line(text, format_args!("  {name:<32} {:>9} {:>9}  {bar}", millis(offset), millis(took)));
}

fn line(text: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    writeln!(text, "{what}").unwrap_or_default();
}

fn millis(nanos: i64) -> String {
    format!("{}.{:02}", nanos / 1_000_000, nanos % 1_000_000 / 10_000)
}

#[cfg(test)]
mod tests {
    use pintle_cri_api::{ext::Stage, v1::PodSandboxMetadata};

    use super::*;

    fn operation(name: &str, began_ms: i64, took_ms: i64) -> Operation {
        Operation {
            name: name.to_owned(),
            pod_sandbox_id: "0123456789abcdef".to_owned(),
            began_at: began_ms * 1_000_000,
            duration_nanos: took_ms * 1_000_000,
            ..Default::default()
        }
    }

    #[test]
    fn a_start_is_a_table_with_a_bar_for_each_stage_and_a_restart_another_one() {
        let mut run = operation("run_pod_sandbox", 1_000, 10);
        run.stages = vec![
            Stage { name: "supervisor".into(), depth: 0, offset_nanos: 0, duration_nanos: 5_000_000 },
            Stage { name: "launch".into(), depth: 1, offset_nanos: 2_000_000, duration_nanos: 10 },
        ];
        let mut create = operation("create_container", 1_010, 10);
        create.container_id = "c".repeat(64);
        let again = operation("start_container", 60_000, 2);
        let pod = PodSandbox {
            id: "0123456789abcdef".to_owned(),
            metadata: Some(PodSandboxMetadata {
                name: "web".into(),
                namespace: "shop".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let text = render(&[again, create, run], &[pod]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "shop/web 0123456789abc: 20.00 ms");
        let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let bar = |columns: usize| "█".repeat(columns);
        assert_eq!(cells(lines[1]), ["run_pod_sandbox", "0.00", "10.00", &bar(20)]);
        assert_eq!(cells(lines[2]), ["supervisor", "0.00", "5.00", &bar(10)]);
        assert!(lines[3].starts_with("      launch"), "{text}");
        assert_eq!(cells(lines[3]), ["launch", "2.00", "0.00", &bar(1)]);
        assert_eq!(cells(lines[4]), ["create_container", "ccccccccccccc", "10.00", "10.00", &bar(20)]);
        assert!(lines[4].ends_with(&format!(" {}{}", " ".repeat(20), bar(20))), "{text}");
        assert_eq!(lines[6], "shop/web 0123456789abc: 2.00 ms");
        assert_eq!(lines.len(), 8);
    }
}
