//! Exec: a URL for a command.

use super::{NOBODY, prelude::*};

fn wanted(id: &str) -> v1::ExecRequest {
    v1::ExecRequest {
        container_id: id.to_owned(),
        cmd: words(&["/bin/true"]),
        stdout: true,
        ..Default::default()
    }
}

/// A URL that something answers on, over HTTP.
pub(super) async fn served(run: &Run, url: &str) -> Outcome {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let rest = rest.ok_or_else(|| Failure(format!("{url:?} is not fully qualified")))?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "80"));
    ensure!(!path.is_empty(), "{url:?} has no path");
    let host = host.trim_matches(['[', ']']);
    // The runtime's own network: a plain request is no upgrade, and is answered and refused as such.
    let ask = format!(
        "printf 'GET /{path} HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n' | busybox nc -w 5 {host} {port}"
    );
    let output = run.side().ground.command("sh").args(["-c", &ask]).output()?;
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(answer.starts_with("HTTP/1.1 "), "{url} answers {answer:?}");
    Ok(())
}

/// No stream at all, and a terminal with an error stream of its own, cannot be.
pub(super) const STREAMS: &str =
    "one of stdin, stdout and stderr must be true; with tty, stderr must be false";

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "Exec gives a URL that is served",
            "fully qualified URL of the exec streaming server",
            |run: Run| async move {
                let id = run.shared().await?.start(|_| {}).await?;
                let url = run.cri().exec(wanted(&id)).await?.into_inner().url;
                served(&run, &url).await
            },
        ),
        case("each Exec has a URL of its own", "a URL stands for one session", |run: Run| async move {
            let id = run.shared().await?.start(|_| {}).await?;
            let one = run.cri().exec(wanted(&id)).await?.into_inner().url;
            let two = run.cri().exec(wanted(&id)).await?.into_inner().url;
            ensure!(one != two, "both are {one}");
            Ok(())
        }),
        case(
            "Exec without a stream, or with stderr beside a terminal, is a bad request",
            STREAMS,
            |run: Run| async move {
                let id = run.shared().await?.start(|_| {}).await?;
                let none = v1::ExecRequest { stdout: false, ..wanted(&id) };
                refused(run.cri().exec(none).await, &[Code::InvalidArgument])?;
                let both = v1::ExecRequest { tty: true, stderr: true, ..wanted(&id) };
                refused(run.cri().exec(both).await, &[Code::InvalidArgument]).map(drop)
            },
        ),
        case(
            "Exec in a container that is not there is NotFound",
            "id of the container in which to execute the command",
            |run: Run| async move { refused(run.cri().exec(wanted(NOBODY)).await, &[Code::NotFound]).map(drop) },
        ),
        case(
            "Exec in a container that does not run is refused",
            "executes a command in a container, which has to run",
            |run: Run| async move {
                let id = run.shared().await?.create(|_| {}).await?;
                refused(run.cri().exec(wanted(&id)).await, &[Code::FailedPrecondition]).map(drop)
            },
        )
        .containerd(
            "Unknown",
            "containerd 1.6 refuses it with Unknown; it is the state that is wrong, and Pintle is right",
        ),
    ]
}
