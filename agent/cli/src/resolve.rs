//! What the user's short id or name stands for.
//!
//! In: an id, a unique beginning of one, or a name (pods also `namespace/name`). Out: the one object meant, or an
//! error that lists the candidates. Of several attempts at the same container or pod, a name means the newest.

use pintle_cri_api::v1;

use crate::{
    error::{CliError, Noun},
    session::{Call, Session},
};

pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";

/// One object that could be meant.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    id: String,
    name: String,
    namespace: String,
    /// Attempts at the same thing share it.
    group: String,
    attempt: u32,
}

/// All pod sandboxes.
pub(crate) async fn pods(session: &Session) -> Result<Vec<v1::PodSandbox>, CliError> {
    let mut client = session.runtime().await?;
    let answer = client.list_pod_sandbox(v1::ListPodSandboxRequest { filter: None });
    Ok(session.call(Call::quick("list pods"), answer).await?.items)
}

/// All containers.
pub(crate) async fn containers(session: &Session) -> Result<Vec<v1::Container>, CliError> {
    let mut client = session.runtime().await?;
    let answer = client.list_containers(v1::ListContainersRequest { filter: None });
    Ok(session.call(Call::quick("list containers"), answer).await?.containers)
}

/// The pod sandbox meant by `wanted`.
pub(crate) fn pod<'a>(wanted: &str, pods: &'a [v1::PodSandbox]) -> Result<&'a v1::PodSandbox, CliError> {
    let candidates: Vec<Candidate> = pods.iter().map(pod_candidate).collect();
    Ok(&pods[pick(Noun::Pod, wanted, &candidates)?])
}

/// The container meant by `wanted`.
pub(crate) fn container<'a>(
    wanted: &str,
    containers: &'a [v1::Container],
) -> Result<&'a v1::Container, CliError> {
    let candidates: Vec<Candidate> = containers.iter().map(container_candidate).collect();
    Ok(&containers[pick(Noun::Container, wanted, &candidates)?])
}

/// The ids of the pods meant by each of `wanted`, or of all.
pub(crate) async fn pod_ids(session: &Session, wanted: &[String]) -> Result<Vec<String>, CliError> {
    let pods = pods(session).await?;
    wanted.iter().map(|wanted| pod(wanted, &pods).map(|pod| pod.id.clone())).collect()
}

/// The ids of the containers meant by each of `wanted`.
pub(crate) async fn container_ids(session: &Session, wanted: &[String]) -> Result<Vec<String>, CliError> {
    let containers = containers(session).await?;
    wanted.iter().map(|wanted| container(wanted, &containers).map(|found| found.id.clone())).collect()
}

fn pod_candidate(pod: &v1::PodSandbox) -> Candidate {
    let metadata = pod.metadata.clone().unwrap_or_default();
    Candidate {
        id: pod.id.clone(),
        name: metadata.name,
        namespace: metadata.namespace,
        group: metadata.uid,
        attempt: metadata.attempt,
    }
}

fn container_candidate(container: &v1::Container) -> Candidate {
    let metadata = container.metadata.clone().unwrap_or_default();
    Candidate {
        id: container.id.clone(),
        name: metadata.name,
        namespace: container.labels.get(POD_NAME).cloned().unwrap_or_default(),
        group: container.pod_sandbox_id.clone(),
        attempt: metadata.attempt,
    }
}

/// Position of the candidate meant: a whole id wins over a beginning, a beginning over a name.
fn pick(noun: Noun, wanted: &str, candidates: &[Candidate]) -> Result<usize, CliError> {
    let positions = |test: &dyn Fn(&Candidate) -> bool| -> Vec<usize> {
        (0..candidates.len()).filter(|&at| test(&candidates[at])).collect()
    };
    let by_prefix = positions(&|candidate| !wanted.is_empty() && candidate.id.starts_with(wanted));
    let exact = by_prefix.iter().find(|&&at| candidates[at].id == wanted);
    if let Some(&at) = exact {
        return Ok(at);
    }
    let by_name = positions(&|candidate| {
        candidate.name == wanted || format!("{}/{}", candidate.namespace, candidate.name) == wanted
    });
    let meant = if by_prefix.is_empty() { newest_attempt(candidates, by_name) } else { by_prefix };
    match meant.as_slice() {
        [] => Err(CliError::NotFound { noun, wanted: wanted.to_owned() }),
        [at] => Ok(*at),
        several => Err(CliError::Ambiguous {
            noun,
            wanted: wanted.to_owned(),
            candidates: several.iter().map(|&at| describe(&candidates[at])).collect(),
        }),
    }
}

/// The newest of several attempts at one thing; anything else unchanged.
fn newest_attempt(candidates: &[Candidate], positions: Vec<usize>) -> Vec<usize> {
    let key = |&at: &usize| (&candidates[at].group, &candidates[at].name);
    let same = positions.windows(2).all(|pair| key(&pair[0]) == key(&pair[1]));
    match positions.iter().max_by_key(|&&at| candidates[at].attempt) {
        Some(&newest) if same => vec![newest],
        Some(_) | None => positions,
    }
}

fn describe(candidate: &Candidate) -> String {
    let id: String = candidate.id.chars().take(20).collect();
    format!("  {id}  {}/{} (attempt {})", candidate.namespace, candidate.name, candidate.attempt)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(id: &str, name: &str, group: &str, attempt: u32) -> Candidate {
        Candidate { id: id.into(), name: name.into(), namespace: "ns".into(), group: group.into(), attempt }
    }

    #[test]
    fn a_unique_beginning_or_a_name_is_enough() {
        let all = [candidate("abc1", "web", "p1", 0), candidate("abd2", "db", "p1", 0)];
        for (wanted, at) in [("abc1", 0), ("abd", 1), ("web", 0), ("ns/db", 1)] {
            assert_eq!(pick(Noun::Container, wanted, &all).unwrap(), at, "{wanted}");
        }
    }

    #[test]
    fn an_ambiguous_beginning_lists_the_candidates() {
        let all = [candidate("abc1", "web", "p1", 0), candidate("abd2", "db", "p1", 0)];
        let error = pick(Noun::Container, "ab", &all).unwrap_err().to_string();
        assert!(error.contains("abc1  ns/web") && error.contains("abd2  ns/db"), "{error}");
    }

    #[test]
    fn a_whole_id_wins_over_longer_ones() {
        let all = [candidate("abc1", "web", "p1", 0), candidate("abc", "db", "p1", 0)];
        assert_eq!(pick(Noun::Pod, "abc", &all).unwrap(), 1);
    }

    #[test]
    fn a_name_means_the_newest_attempt_but_never_another_pod() {
        let mut all = vec![candidate("a1", "web", "p1", 0), candidate("a2", "web", "p1", 1)];
        assert_eq!(pick(Noun::Container, "web", &all).unwrap(), 1);
        all.push(candidate("b1", "web", "p2", 0));
        assert!(matches!(pick(Noun::Container, "web", &all), Err(CliError::Ambiguous { .. })));
    }

    #[test]
    fn nothing_matches_an_empty_or_unknown_name() {
        let all = [candidate("abc1", "web", "p1", 0)];
        for wanted in ["", "zz"] {
            assert!(matches!(pick(Noun::Pod, wanted, &all), Err(CliError::NotFound { .. })), "{wanted}");
        }
    }
}
