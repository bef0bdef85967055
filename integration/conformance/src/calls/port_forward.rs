//! PortForward: a URL for ports of a pod.

use super::{NOBODY, exec::served, prelude::*};

fn wanted(id: &str) -> v1::PortForwardRequest {
    v1::PortForwardRequest { pod_sandbox_id: id.to_owned(), port: vec![80] }
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "PortForward gives a URL that is served",
            "fully qualified URL of the port-forward streaming server",
            |run: Run| async move {
                let pod = run.shared().await?;
                let url = run.cri().port_forward(wanted(&pod.id)).await?.into_inner().url;
                served(&run, &url).await
            },
        ),
        case(
            "PortForward to a sandbox that is not there is NotFound",
            "id of the sandbox to which to forward the port",
            |run: Run| async move {
                refused(run.cri().port_forward(wanted(NOBODY)).await, &[Code::NotFound]).map(drop)
            },
        ),
        case(
            "PortForward to a sandbox that is not ready is refused",
            "forwards ports from a sandbox, which has to run",
            |run: Run| async move {
                let pod = run.pod().await?;
                run.stop_pod(&pod.id).await?;
                refused(run.cri().port_forward(wanted(&pod.id)).await, &[Code::FailedPrecondition]).map(drop)
            },
        )
        .containerd(
            "Unknown",
            "containerd 1.6 refuses it with Unknown; it is the state that is wrong, and Pintle is right",
        ),
        case("PortForward to what is no port is a bad request", "port to forward", |run: Run| async move {
            let pod = run.shared().await?;
            for port in [-1, 0, 65_536] {
                let request = v1::PortForwardRequest { port: vec![port], ..wanted(&pod.id) };
                refused(run.cri().port_forward(request).await, &[Code::InvalidArgument])?;
            }
            Ok(())
        })
        .containerd(
            "it was not refused",
            "containerd fails when the URL is used; Pintle is right to say so at once",
        ),
    ]
}
