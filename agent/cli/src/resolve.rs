//! What the user's short id or name stands for.
//!
//! In: an id, a unique beginning of one, or a name: `[namespace/]pod`, `[[namespace/]pod/]container`. Out: the one object
//! meant, or an error that lists the candidates. Of several attempts at the same container or pod, a name means the newest.

use pintle_cri_api::v1;

use crate::{
    error::{CliError, Noun},
    session::{Call, Session},
};

pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const POD_UID: &str = "io.kubernetes.pod.uid";

/// What a name means that may be a container's or a pod's.
#[derive(Debug)]
pub(crate) enum ContainerOrPod<'a> {
    Container(&'a v1::Container),
    Pod(&'a v1::PodSandbox),
}

/// One object that could be meant.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    id: String,
    /// Its whole name, of which the end will do: `namespace/pod` or `namespace/pod/container`.
    path: String,
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

/// The container or pod meant by `wanted`. A pod and a container of it that are called the same are no ambiguity.
pub(crate) fn container_or_pod<'a>(
    wanted: &str,
    containers: &'a [v1::Container],
    pods: &'a [v1::PodSandbox],
) -> Result<ContainerOrPod<'a>, CliError> {
    let of_containers: Vec<Candidate> = containers.iter().map(container_candidate).collect();
    let of_pods: Vec<Candidate> = pods.iter().map(pod_candidate).collect();
    let (found, found_pods) = (matching(wanted, &of_containers), matching(wanted, &of_pods));
    match (found.as_slice(), found_pods.as_slice()) {
        (&[at], own) if own.iter().all(|&pod| pods[pod].id == containers[at].pod_sandbox_id) => {
            Ok(ContainerOrPod::Container(&containers[at]))
        }
        (&[], &[at]) => Ok(ContainerOrPod::Pod(&pods[at])),
        (several, more) => {
            let of_containers = several.iter().map(|&at| &of_containers[at]);
            Err(not_one(
                Noun::ContainerOrPod,
                wanted,
                of_containers.chain(more.iter().map(|&at| &of_pods[at])),
            ))
        }
    }
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
        path: path(&[&metadata.namespace, &metadata.name]),
        group: metadata.uid,
        attempt: metadata.attempt,
    }
}

fn container_candidate(container: &v1::Container) -> Candidate {
    let metadata = container.metadata.clone().unwrap_or_default();
    let label = |key: &str| container.labels.get(key).map_or("", String::as_str);
    Candidate {
        id: container.id.clone(),
        path: path(&[label(POD_NAMESPACE), label(POD_NAME), &metadata.name]),
        group: container.labels.get(POD_UID).unwrap_or(&container.pod_sandbox_id).clone(),
        attempt: metadata.attempt,
    }
}

fn path(parts: &[&str]) -> String {
    let given: Vec<&str> = parts.iter().copied().filter(|part| !part.is_empty()).collect();
    given.join("/")
}

/// Position of the one candidate meant.
fn pick(noun: Noun, wanted: &str, candidates: &[Candidate]) -> Result<usize, CliError> {
    match matching(wanted, candidates).as_slice() {
        &[at] => Ok(at),
        several => Err(not_one(noun, wanted, several.iter().map(|&at| &candidates[at]))),
    }
}

fn not_one<'a>(noun: Noun, wanted: &str, candidates: impl Iterator<Item = &'a Candidate>) -> CliError {
    let (wanted, candidates) = (wanted.to_owned(), candidates.map(describe).collect::<Vec<_>>());
    match candidates.is_empty() {
        true => CliError::NotFound { noun, wanted },
        false => CliError::Ambiguous { noun, wanted, candidates },
    }
}

/// Positions of the candidates that can be meant: a whole id wins over a beginning, a beginning over a name.
fn matching(wanted: &str, candidates: &[Candidate]) -> Vec<usize> {
    let positions = |test: &dyn Fn(&Candidate) -> bool| -> Vec<usize> {
        (0..candidates.len()).filter(|&at| !wanted.is_empty() && test(&candidates[at])).collect()
    };
    let by_prefix = positions(&|candidate| candidate.id.starts_with(wanted));
    if let Some(&exact) = by_prefix.iter().find(|&&at| candidates[at].id == wanted) {
        return vec![exact];
    }
    if !by_prefix.is_empty() {
        return by_prefix;
    }
    let by_name = positions(&|candidate| {
        let before = candidate.path.strip_suffix(wanted);
        before.is_some_and(|before| before.is_empty() || before.ends_with('/'))
    });
    newest_attempt(candidates, by_name)
}

/// The newest of several attempts at one thing; anything else unchanged.
fn newest_attempt(candidates: &[Candidate], positions: Vec<usize>) -> Vec<usize> {
    let key = |&at: &usize| (&candidates[at].group, &candidates[at].path);
    let same = positions.windows(2).all(|pair| key(&pair[0]) == key(&pair[1]));
    match positions.iter().max_by_key(|&&at| candidates[at].attempt) {
        Some(&newest) if same => vec![newest],
        Some(_) | None => positions,
    }
}

fn describe(candidate: &Candidate) -> String {
    let id: String = candidate.id.chars().take(20).collect();
    format!("  {id}  {} (attempt {})", candidate.path, candidate.attempt)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(id: &str, name: &str, group: &str, attempt: u32) -> Candidate {
        Candidate { id: id.into(), path: format!("ns/{name}"), group: group.into(), attempt }
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

    fn web() -> (Vec<v1::Container>, Vec<v1::PodSandbox>) {
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let container = |id: &str, pod: &str, name: &str| v1::Container {
            id: id.into(),
            pod_sandbox_id: format!("sandbox-{pod}"),
            metadata: Some(v1::ContainerMetadata { name: name.into(), attempt: 0 }),
            labels: [label(POD_NAMESPACE, "shop"), label(POD_NAME, pod)].into(),
            ..Default::default()
        };
        let pod = |name: &str| v1::PodSandbox {
            id: format!("sandbox-{name}"),
            metadata: Some(v1::PodSandboxMetadata {
                name: name.into(),
                namespace: "shop".into(),
                uid: name.into(),
                attempt: 0,
            }),
            ..Default::default()
        };
        let containers = vec![
            container("c1aa", "web", "main"),
            container("c1bb", "web", "web"),
            container("c2cc", "db", "main"),
            container("c3dd", "proxy", "db"),
        ];
        (containers, vec![pod("web"), pod("db"), pod("proxy")])
    }

    fn of_both(wanted: &str) -> Result<String, CliError> {
        let (containers, pods) = web();
        container_or_pod(wanted, &containers, &pods).map(|found| match found {
            ContainerOrPod::Container(container) => container.id.clone(),
            ContainerOrPod::Pod(pod) => pod.id.clone(),
        })
    }

    #[test]
    fn a_container_is_named_with_as_much_of_its_pods_name_as_it_takes() {
        for (wanted, id) in [
            ("c2", "c2cc"),
            ("web/main", "c1aa"),
            ("shop/web/main", "c1aa"),
            ("db/main", "c2cc"),
            ("proxy", "sandbox-proxy"),
            ("shop/db", "sandbox-db"),
            ("web", "c1bb"),
        ] {
            assert_eq!(of_both(wanted).unwrap(), id, "{wanted}");
        }
        assert!(matches!(of_both("b/main"), Err(CliError::NotFound { noun: Noun::ContainerOrPod, .. })));
    }

    #[test]
    fn a_name_of_several_containers_or_of_a_container_and_another_pod_lists_them() {
        for (wanted, candidates) in [
            ("main", ["c1aa  shop/web/main", "c2cc  shop/db/main"]),
            ("db", ["c3dd  shop/proxy/db", "sandbox-db  shop/db"]),
            ("c1", ["c1aa  shop/web/main", "c1bb  shop/web/web"]),
        ] {
            let error = of_both(wanted).unwrap_err().report();
            for candidate in candidates {
                assert!(error.contains(candidate), "{wanted}: {error}");
            }
        }
    }
}
