//! CreateContainer: what the program is, and what it has around it.

use super::prelude::*;
use crate::images::FULL;

fn of_image(config: &mut v1::ContainerConfig) {
    config.image = Some(image(FULL));
    config.command = Vec::new();
}

pub(super) fn cases() -> Vec<Case> {
    let mut all = vec![
        case(
            "command and args take the place of the image's entrypoint and command",
            "command is the entrypoint for docker, args its command",
            |run: Run| async move {
                let pod = run.shared().await?;
                for (command, args, wanted) in [
                    (&[][..], &[][..], "entrypoint command"),
                    (&[][..], &["argument"][..], "entrypoint argument"),
                    (&["/bin/echo", "own"][..], &[][..], "own"),
                    (&["/bin/echo", "own"][..], &["argument"][..], "own argument"),
                ] {
                    let id = pod
                        .start(|config| {
                            of_image(config);
                            (config.command, config.args) = (words(command), words(args));
                        })
                        .await?;
                    let status = run.ended(&id).await?;
                    same("what it printed", pod.log_text(&status)?.as_str(), wanted)?;
                }
                Ok(())
            },
        ),
        case(
            "the image gives user, groups, directory and variables where the container names none",
            "UID, or user name, that will run the commands if no user is specified when creating the container",
            |run: Run| async move {
                let script = "id -u; id -g; pwd; echo $OF_IMAGE $BOTH $OWN";
                let text = run
                    .shared()
                    .await?
                    .prints(script, |config| {
                        config.image = Some(image(FULL));
                        let pair = |key: &str| v1::KeyValue { key: key.to_owned(), value: "own".to_owned() };
                        config.envs = vec![pair("OWN"), pair("BOTH")];
                    })
                    .await?;
                same("what it printed", text.as_str(), "1000\n1000\n/srv\nimage own own")
            },
        ),
        case(
            "a working directory is where the program starts, and is made if it is missing",
            "current working directory of the command",
            |run: Run| async move {
                let change = |config: &mut v1::ContainerConfig| config.working_dir = "/made/deep".to_owned();
                let text = run.shared().await?.prints("pwd", change).await?;
                same("the directory", text.as_str(), "/made/deep")
            },
        ),
        case(
            "what it writes is logged by line, with time, stream and tag",
            "each line is TIME STREAM TAG CONTENT; TIME in RFC 3339 with nanoseconds, TAG F or P",
            log_format,
        ),
        case(
            "a long line is logged in parts, and joined it is whole",
            "TAG is P for a part of a line and F for its end",
            |run: Run| async move {
                let pod = run.shared().await?;
                let script = "head -c 100000 /dev/zero | tr '\\0' x; echo; echo end";
                let id = pod.start(|config| config.command = shell(script)).await?;
                let status = run.ended(&id).await?;
                let text = std::fs::read_to_string(&status.log_path)?;
                let mut joined = String::new();
                for line in text.lines() {
                    let fields: Vec<&str> = line.splitn(4, ' ').collect();
                    ensure!(fields.len() == 4, "{line:?} has not four fields");
                    joined.push_str(fields[3]);
                    joined.push_str(if fields[2] == "F" { "\n" } else { "" });
                }
                ensure!(text.contains(" stdout P "), "no part is marked as one");
                let (first, rest) = joined.split_once('\n').unwrap_or_default();
                same("the long line's length", first.len(), 100_000)?;
                same("what follows", rest, "end\n")
            },
        ),
    ];
    all.extend(terminals());
    all
}

async fn log_format(run: Run) -> Outcome {
    let pod = run.shared().await?;
    let id = pod.start(|config| config.command = shell("echo out; echo err >&2; printf rest")).await?;
    let status = run.ended(&id).await?;
    let text = std::fs::read_to_string(&status.log_path)?;
    let mut found = Vec::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.splitn(4, ' ').collect();
        ensure!(fields.len() == 4, "{line:?} has not four fields");
        let time = fields[0].as_bytes();
        let shape = time.len() > 20 && time[4] == b'-' && time[10] == b'T' && time[19] == b'.';
        ensure!(shape, "{:?} is no time with nanoseconds", fields[0]);
        found.push((fields[1].to_owned(), fields[2].to_owned(), fields[3].to_owned()));
    }
    found.sort();
    let line = |stream: &str, tag: &str, text: &str| (stream.to_owned(), tag.to_owned(), text.to_owned());
    let mut wanted = vec![line("stderr", "F", "err"), line("stdout", "F", "out")];
    // The last line has no end; runtimes mark it as they like.
    let last = found.iter().find(|(_, _, text)| text == "rest").cloned();
    wanted.extend(last.clone());
    wanted.sort();
    ensure!(last.is_some(), "the last line is missing in {text:?}");
    same("the lines", found, wanted)
}

fn terminals() -> Vec<Case> {
    vec![
        case(
            "a container with tty has a terminal, and its output is one stream",
            "tty: variables for interactive containers",
            |run: Run| async move {
                let pod = run.shared().await?;
                let script = "test -t 0 && test -t 1 && test -t 2 && echo terminal; echo err >&2; tty";
                let id = pod
                    .start(|config| {
                        config.command = shell(script);
                        (config.tty, config.stdin) = (true, true);
                    })
                    .await?;
                let status = run.ended(&id).await?;
                let text = std::fs::read_to_string(&status.log_path)?;
                ensure!(text.contains("terminal"), "there is no terminal: {text:?}");
                ensure!(!text.contains(" stderr "), "there are two streams: {text:?}");
                Ok(())
            },
        ),
        case(
            "a container without stdin reads nothing",
            "stdin is for interactive containers",
            |run: Run| async move {
                let text = run.shared().await?.prints("cat; echo end", |_| {}).await?;
                same("what it printed", text.as_str(), "end")
            },
        ),
        case(
            "a container with stdin waits for what comes",
            "stdin is for interactive containers",
            |run: Run| async move {
                let pod = run.shared().await?;
                let id = pod
                    .start(|config| {
                        config.command = shell("cat; echo end");
                        config.stdin = true;
                    })
                    .await?;
                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
                let state = run.status(&id).await?.state();
                same("the state", state, v1::ContainerState::ContainerRunning)?;
                Ok(run.stop(&id, 0).await?)
            },
        ),
    ]
}
