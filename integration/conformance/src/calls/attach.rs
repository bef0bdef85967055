//! Attach: a URL for the streams of a running container.

use super::{
    NOBODY,
    exec::{STREAMS, served},
    prelude::*,
};

fn wanted(id: &str) -> v1::AttachRequest {
    v1::AttachRequest { container_id: id.to_owned(), stdout: true, ..Default::default() }
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "Attach gives a URL that is served",
            "fully qualified URL of the attach streaming server",
            |run: Run| async move {
                let id = run.shared().await?.start(|_| {}).await?;
                let url = run.cri().attach(wanted(&id)).await?.into_inner().url;
                served(&run, &url).await
            },
        ),
        case(
            "Attach without a stream, or with stderr beside a terminal, is a bad request",
            STREAMS,
            |run: Run| async move {
                let id =
                    run.shared().await?.start(|config| (config.tty, config.stdin) = (true, true)).await?;
                let none = v1::AttachRequest { stdout: false, ..wanted(&id) };
                refused(run.cri().attach(none).await, &[Code::InvalidArgument])?;
                let both = v1::AttachRequest { tty: true, stderr: true, ..wanted(&id) };
                refused(run.cri().attach(both).await, &[Code::InvalidArgument]).map(drop)
            },
        ),
        case(
            "Attach to a container that is not there is NotFound",
            "id of the container to which to attach",
            |run: Run| async move { refused(run.cri().attach(wanted(NOBODY)).await, &[Code::NotFound]).map(drop) },
        ),
        case(
            "Attach to a container that has ended is refused",
            "attaches to a running container",
            |run: Run| async move {
                let id = run.shared().await?.start(|config| config.command = words(&["/bin/true"])).await?;
                run.ended(&id).await?;
                refused(run.cri().attach(wanted(&id)).await, &[Code::FailedPrecondition]).map(drop)
            },
        )
        .containerd(
            "Unknown",
            "containerd 1.6 refuses it with Unknown; it is the state that is wrong, and Pintle is right",
        ),
    ]
}
