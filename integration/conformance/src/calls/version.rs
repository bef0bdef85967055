//! Version: who answers.

use super::prelude::*;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "a runtime tells its name, its version and that of the interface",
            "VersionResponse has the runtime's name, its version and the API version, both semver-compatible",
            |run: Run| async move {
                let answer = run.cri().version(v1::VersionRequest::default()).await?.into_inner();
                ensure!(!answer.runtime_name.is_empty(), "the name is missing");
                ensure!(!answer.version.is_empty(), "the kubelet's API version is missing");
                same("the API version", answer.runtime_api_version.as_str(), "v1")?;
                let version = answer.runtime_version;
                let number = |part: &str| part.chars().next().is_some_and(|c| c.is_ascii_digit());
                let parts: Vec<&str> = version.trim_start_matches('v').split('.').collect();
                ensure!(
                    parts.len() >= 3 && parts.iter().take(3).all(|p| number(p)),
                    "{version:?} is no semver"
                );
                Ok(())
            },
        ),
        case(
            "the version that a client names changes nothing",
            "VersionRequest.version is the client's own; nothing is negotiated",
            |run: Run| async move {
                let plain = run.cri().version(v1::VersionRequest::default()).await?.into_inner();
                let named = v1::VersionRequest { version: "0.1.0".to_owned() };
                same("the answer", run.cri().version(named).await?.into_inner(), plain)
            },
        ),
    ]
}
