//! ExecSync: a command in a running container.

use std::time::Instant;

use super::{NOBODY, prelude::*};

pub(super) fn cases() -> Vec<Case> {
    let mut all = vec![
        case(
            "output, errors and exit code come back apart",
            "captured stdout and stderr, and the exit code the command finished with",
            |run: Run| async move {
                let id = run.shared().await?.start(|_| {}).await?;
                let answer = run.exec(&id, "echo out; echo err >&2; exit 5", 0).await?;
                same("stdout", answer.stdout.as_slice(), &b"out\n"[..])?;
                same("stderr", answer.stderr.as_slice(), &b"err\n"[..])?;
                same("the exit code", answer.exit_code, 5)
            },
        ),
        case("output is bytes, not text", "stdout and stderr are bytes", |run: Run| async move {
            let id = run.shared().await?.start(|_| {}).await?;
            let answer = run.exec(&id, r"printf '\000\377\r\n'", 0).await?;
            same("stdout", answer.stdout.as_slice(), &b"\x00\xff\r\n"[..])
        }),
        case(
            "a command has the container's variables, directory, user and limits",
            "runs a command in a container",
            |run: Run| async move {
                let pod = run.shared().await?;
                let id = pod
                    .start(|config| {
                        config.working_dir = "/tmp".to_owned();
                        config.envs = vec![v1::KeyValue { key: "OWN".to_owned(), value: "a b".to_owned() }];
                        security(config).run_as_user = number(1234);
                    })
                    .await?;
                let text = run.says(&id, "pwd; echo \"$OWN\"; id -u; ps | wc -l").await?;
                let lines: Vec<&str> = text.lines().collect();
                same("what it printed", lines.get(..3), Some(&["/tmp", "a b", "1234"][..]))
            },
        ),
        case(
            "much output comes back whole, and too much is cut without an error",
            "the output is capped at 16 MB; the rest is discarded and the command goes on",
            |run: Run| async move {
                let id = run.shared().await?.start(|_| {}).await?;
                let answer = run.exec(&id, "head -c 3000000 /dev/zero", 0).await?;
                same("the length", answer.stdout.len(), 3_000_000)?;
                let answer = run.exec(&id, "head -c 20000000 /dev/zero; exit 4", 0).await?;
                same("the exit code", answer.exit_code, 4)?;
                ensure!(answer.stdout.len() <= 17 << 20, "{} bytes came back", answer.stdout.len());
                Ok(())
            },
        )
        .containerd(
            "ResourceExhausted",
            "containerd cuts at 16 MiB and then cannot send them: its own limit is 16 MiB too",
        ),
        case(
            "what it leaves behind is not waited for",
            "the command has ended when its process has",
            |run: Run| async move {
                let id = run.shared().await?.start(|_| {}).await?;
                let begin = Instant::now();
                let answer = run.exec(&id, "sleep 12 & echo done", 0).await?;
                same("stdout", answer.stdout.as_slice(), &b"done\n"[..])?;
                ensure!(begin.elapsed().as_secs() < 10, "it took {:?}", begin.elapsed());
                Ok(())
            },
        )
        .containerd_at_times("it took", "containerd waits until the pipes are closed"),
        case("twenty commands at once do not mix", "each call has its own output", |run: Run| async move {
            let id = run.shared().await?.start(|_| {}).await?;
            let calls = (0..20).map(|number| {
                let (run, id) = (run.clone(), id.clone());
                async move { run.says(&id, &format!("echo {number}")).await }
            });
            let answers = futures_util::future::join_all(calls).await;
            for (number, answer) in answers.into_iter().enumerate() {
                same("what it printed", answer?, number.to_string())?;
            }
            Ok(())
        }),
    ];
    all.extend(bad_requests());
    all
}

fn bad_requests() -> Vec<Case> {
    vec![
        case(
            "a command that takes too long is ended, with its children",
            "timeout in seconds to stop the command; the answer then is DeadlineExceeded",
            |run: Run| async move {
                let id = run.shared().await?.start(|_| {}).await?;
                let begin = Instant::now();
                let cmd = shell("sleep 987 & sleep 987");
                let wanted = v1::ExecSyncRequest { container_id: id.clone(), cmd, timeout: 1 };
                let mut request = tonic::Request::new(wanted);
                request.set_timeout(pintle_integration::time_out(5));
                refused(run.cri().exec_sync(request).await, &[Code::DeadlineExceeded])?;
                let took = begin.elapsed().as_secs_f64();
                ensure!((0.9..20.0).contains(&took), "it took {took} s");
                let look = "ps | grep -c '[s]leep 987' || true";
                run.until("its end", async || Ok((run.says(&id, look).await? == "0").then_some(()))).await
            },
        )
        .containerd("Cancelled instead of", "containerd kills the command and not its children, and waits for their end of the pipes; Pintle is right"),
        case(
            "ExecSync in a container that is not there is NotFound",
            "id of the container",
            |run: Run| async move { refused(run.exec(NOBODY, "true", 0).await, &[Code::NotFound]).map(drop) },
        ),
        case(
            "ExecSync in a container that does not run is refused",
            "runs a command in a container, which has to run",
            |run: Run| async move {
                let pod = run.shared().await?;
                let created = pod.create(|_| {}).await?;
                let ended = pod.start(|config| config.command = words(&["/bin/true"])).await?;
                run.ended(&ended).await?;
                for id in [created, ended] {
                    refused(run.exec(&id, "true", 0).await, &[Code::FailedPrecondition])?;
                }
                Ok(())
            },
        )
        .containerd(
            "Unknown",
            "containerd 1.6 refuses it with Unknown; it is the state that is wrong, and Pintle is right",
        ),
        case("no command is a bad request", "command to execute", |run: Run| async move {
            let id = run.shared().await?.start(|_| {}).await?;
            let request = v1::ExecSyncRequest { container_id: id, ..Default::default() };
            refused(run.cri().exec_sync(request).await, &[Code::InvalidArgument]).map(drop)
        })
        .containerd("Unknown", "containerd 1.6 asks runc, which refuses it; Pintle is right"),
        case(
            "a program that is not there is an error or an exit code, and never a success",
            "exit code 0 is success",
            |run: Run| async move {
                let id = run.shared().await?.start(|_| {}).await?;
                let request = v1::ExecSyncRequest { container_id: id, cmd: words(&["/no/such"]), timeout: 0 };
                match run.cri().exec_sync(request).await {
                    Ok(answer) => {
                        ensure!(answer.into_inner().exit_code != 0, "the exit code is 0");
                        Ok(())
                    }
                    Err(status) => fails(Err::<(), _>(status)).map(drop),
                }
            },
        ),
    ]
}
