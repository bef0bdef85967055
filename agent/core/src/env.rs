//! A container's environment, and the expansion of `$(VAR)` in it, in `command` and in `args`.
//!
//! In: a container, its pod, and what is only known once the pod has a sandbox. Out: names and values in order. An
//! unknown `$(VAR)` stays as it is, `$$` is a dollar sign, exactly as Kubernetes defines it. What grows longer than the
//! kernel would take is refused before it does: a few variables that repeat each other would fill the memory.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as api;

use crate::quantity::Quantity;
use crate::resources::{self, Bytes, MilliCpu};

/// The longest argument and the longest `NAME=VALUE`: what `execve` takes, 32 pages with a zero byte at the end.
pub const MAX_WORD: usize = 32 * 4096 - 1;
/// The most bytes of a container's arguments, and of its variables: what `execve` takes of both together with the usual
/// 8 MiB of stack.
pub const MAX_WORDS_TOGETHER: usize = 2 * 1024 * 1024;

/// What an environment may refer to besides the pod itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EnvFacts {
    /// The pod's addresses, the primary one first.
    pub pod_ips: Vec<String>,
    /// The node's addresses, the primary one first.
    pub host_ips: Vec<String>,
    /// What a container without a limit may use of the processors.
    pub allocatable_cpu: MilliCpu,
    /// What a container without a limit may use of the memory.
    pub allocatable_memory: Bytes,
}

/// Why an environment cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// A source that this agent does not know.
    #[error("variable {name}: its source is not supported")]
    UnknownSource {
        /// The variable.
        name: String,
    },
    /// `fieldRef` to something that is not there to refer to.
    #[error("variable {name}: no field {field} to refer to")]
    UnknownField {
        /// The variable.
        name: String,
        /// The path.
        field: String,
    },
    /// `resourceFieldRef` to something that is not there to refer to.
    #[error("variable {name}: no resource {resource} of container {container} to refer to")]
    UnknownResource {
        /// The variable.
        name: String,
        /// The resource.
        resource: String,
        /// The container.
        container: String,
    },
    /// A value that grew too long.
    #[error(
        "variable {name}: more than the {MAX_WORD} bytes that a program can be given, with what it refers to"
    )]
    LongVariable {
        /// The variable.
        name: String,
    },
    /// A word of `command` or `args` that grew too long.
    #[error("word {} of command or args: more than the {MAX_WORD} bytes that a program can be given, with what it refers to", .at + 1)]
    LongWord {
        /// Which one, counted from 0.
        at: usize,
    },
    /// All of them together.
    #[error("{what} have more than {MAX_WORDS_TOGETHER} bytes together, with what they refer to")]
    TooMuch {
        /// The variables or the words.
        what: &'static str,
    },
}

/// The environment of a container. A name that comes twice keeps its first place and has its last value.
pub fn resolve(
    pod: &api::Pod,
    container: &api::Container,
    facts: &EnvFacts,
) -> Result<Vec<(String, String)>, EnvError> {
    let mut order: Vec<String> = Vec::new();
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let mut together = 0;
    for env in container.env.iter().flatten() {
        let too_long = || EnvError::LongVariable { name: env.name.clone() };
        let value = match (env.value.as_deref().unwrap_or_default(), &env.value_from) {
            ("", Some(source)) => referred((pod, container), env, source, facts)?,
            (text, _) => expand(text, |name| values.get(name).map(String::as_str)).ok_or_else(too_long)?,
        };
        let length = env.name.len() + 1 + value.len();
        if length > MAX_WORD {
            return Err(too_long());
        }
        together += length;
        if together > MAX_WORDS_TOGETHER {
            return Err(EnvError::TooMuch { what: "the variables" });
        }
        if values.insert(env.name.clone(), value).is_none() {
            order.push(env.name.clone());
        }
    }
    Ok(order
        .into_iter()
        .map(|name| {
            let value = values.remove(&name).unwrap_or_default();
            (name, value)
        })
        .collect())
}

/// `command` or `args` with the variables of a resolved environment put in.
pub fn expand_all(words: &[String], env: &[(String, String)]) -> Result<Vec<String>, EnvError> {
    let values: BTreeMap<&str, &str> =
        env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut expanded = Vec::with_capacity(words.len());
    let mut together = 0;
    for (at, word) in words.iter().enumerate() {
        let word = expand(word, |name| values.get(name).copied()).ok_or(EnvError::LongWord { at })?;
        together += word.len() + 1;
        if together > MAX_WORDS_TOGETHER {
            return Err(EnvError::TooMuch { what: "the words of command or args" });
        }
        expanded.push(word);
    }
    Ok(expanded)
}

/// Replaces `$(NAME)` by its value and `$$` by `$`. What has no value, or no closing bracket, stays. Absent when it
/// becomes longer than [`MAX_WORD`].
pub fn expand<'v>(text: &str, value: impl Fn(&str) -> Option<&'v str>) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match value(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&rest[at..rest.len() - tail.len()]),
            }
            rest = tail;
        } else {
            // Neither an escape nor a reference. What follows is not looked at again: `$(a$(b)` has one reference.
            out.push('$');
            let skipped = after.chars().next().map_or(0, char::len_utf8);
            out.push_str(&after[..skipped]);
            rest = &after[skipped..];
        }
        if out.len() > MAX_WORD {
            return None;
        }
    }
    out.push_str(rest);
    (out.len() <= MAX_WORD).then_some(out)
}

/// Splits `metadata.labels['KEY']` into map and key.
pub(crate) fn subscript(field: &str) -> Option<(&str, &str)> {
    let (map, rest) = field.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

fn referred(
    (pod, container): (&api::Pod, &api::Container),
    env: &api::EnvVar,
    source: &api::EnvVarSource,
    facts: &EnvFacts,
) -> Result<String, EnvError> {
    if let Some(reference) = &source.field_ref {
        return field(pod, &reference.field_path, facts).ok_or_else(|| EnvError::UnknownField {
            name: env.name.clone(),
            field: reference.field_path.clone(),
        });
    }
    if let Some(reference) = &source.resource_field_ref {
        let wanted = reference.container_name.as_deref().filter(|name| !name.is_empty());
        let owner = match wanted {
            None => Some(container),
            Some(wanted) => {
                pod.spec.iter().flat_map(|spec| &spec.containers).find(|container| container.name == wanted)
            }
        };
        return owner.and_then(|owner| resource(owner, reference, facts)).ok_or_else(|| {
            EnvError::UnknownResource {
                name: env.name.clone(),
                resource: reference.resource.clone(),
                container: wanted.unwrap_or(&container.name).to_owned(),
            }
        });
    }
    Err(EnvError::UnknownSource { name: env.name.clone() })
}

fn field(pod: &api::Pod, path: &str, facts: &EnvFacts) -> Option<String> {
    let metadata = &pod.metadata;
    let spec = pod.spec.as_ref();
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => &metadata.labels,
            "metadata.annotations" => &metadata.annotations,
            _ => return None,
        };
        return Some(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let text = match path {
        "metadata.name" => metadata.name.clone(),
        "metadata.namespace" => metadata.namespace.clone(),
        "metadata.uid" => metadata.uid.clone(),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()),
        "status.podIP" => facts.pod_ips.first().cloned(),
        "status.podIPs" => Some(facts.pod_ips.join(",")),
        "status.hostIP" => facts.host_ips.first().cloned(),
        "status.hostIPs" => Some(facts.host_ips.join(",")),
        _ => return None,
    };
    Some(text.unwrap_or_default())
}

fn resource(
    container: &api::Container,
    reference: &api::ResourceFieldSelector,
    facts: &EnvFacts,
) -> Option<String> {
    let amounts = resources::of_container(container);
    let divisor = reference.divisor.as_ref().map(|divisor| Quantity::parse(&divisor.0));
    let divisor = match divisor {
        None => Quantity::parse("1").ok()?,
        Some(Ok(divisor)) if divisor.is_zero() => Quantity::parse("1").ok()?,
        Some(divisor) => divisor.ok()?,
    };
    let amount = match reference.resource.as_str() {
        "limits.cpu" => format!("{}m", amounts.cpu_limit.unwrap_or(facts.allocatable_cpu).0),
        "requests.cpu" => format!("{}m", amounts.cpu_request.unwrap_or_default().0),
        "limits.memory" => amounts.memory_limit.unwrap_or(facts.allocatable_memory).0.to_string(),
        "requests.memory" => amounts.memory_request.unwrap_or_default().0.to_string(),
        _ => return None,
    };
    Some(Quantity::parse(&amount).ok()?.in_units_of(divisor)?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn expanded(text: &str) -> String {
        expand(text, |name| match name {
            "A" => Some("a"),
            "EMPTY" => Some(""),
            "DOLLAR" => Some("$(A)"),
            _ => None,
        })
        .expect("short")
    }

    #[test]
    fn references_expand_as_kubernetes_defines_it() {
        for (text, result) in [
            ("", ""),
            ("plain", "plain"),
            ("$(A)", "a"),
            ("x$(A)y$(A)z", "xayaz"),
            ("$(EMPTY)", ""),
            ("$(UNKNOWN)", "$(UNKNOWN)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$a"),
            ("$$$$(A)", "$$(A)"),
            ("$", "$"),
            ("a$", "a$"),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("$(A$(A)", "$(A$(A)"),
            ("$($(A))", "$($(A))"),
            ("$()", "$()"),
            ("$(DOLLAR)", "$(A)"),
            ("$ä$(A)", "$äa"),
            ("$\u{20ac}", "$\u{20ac}"),
        ] {
            assert_eq!(expanded(text), result, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_text_without_a_dollar_stays(text in "[^$]{0,40}") {
            prop_assert_eq!(expanded(&text), text);
        }

        #[test]
        fn an_escaped_text_comes_back(text in "[$()A-Z a-z]{0,40}") {
            prop_assert_eq!(expanded(&text.replace('$', "$$")), text);
        }
    }

    fn variable(name: &str, value: &str) -> api::EnvVar {
        api::EnvVar { name: name.to_owned(), value: Some(value.to_owned()), ..Default::default() }
    }

    fn field_variable(name: &str, path: &str) -> api::EnvVar {
        let field_ref = api::ObjectFieldSelector { field_path: path.to_owned(), ..Default::default() };
        let source = api::EnvVarSource { field_ref: Some(field_ref), ..Default::default() };
        api::EnvVar { name: name.to_owned(), value_from: Some(source), ..Default::default() }
    }

    fn resource_variable(name: &str, resource: &str, divisor: &str) -> api::EnvVar {
        let resource_field_ref = api::ResourceFieldSelector {
            resource: resource.to_owned(),
            divisor: Some(k8s_openapi::apimachinery::pkg::api::resource::Quantity(divisor.to_owned())),
            ..Default::default()
        };
        let source = api::EnvVarSource { resource_field_ref: Some(resource_field_ref), ..Default::default() };
        api::EnvVar { name: name.to_owned(), value_from: Some(source), ..Default::default() }
    }

    fn resolved(env: Vec<api::EnvVar>) -> Vec<(String, String)> {
        resolve_all(env).unwrap()
    }

    fn resolve_all(env: Vec<api::EnvVar>) -> Result<Vec<(String, String)>, EnvError> {
        let container = api::Container {
            name: "app".to_owned(),
            env: Some(env),
            resources: Some(api::ResourceRequirements {
                limits: resources::list(&[("cpu", "1500m")]),
                requests: resources::list(&[("memory", "1500")]),
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut pod = api::Pod::default();
        pod.metadata.name = Some("web-n1".to_owned());
        pod.metadata.labels = Some([("a/b".to_owned(), "c".to_owned())].into());
        let facts = EnvFacts {
            pod_ips: vec!["10.0.0.2".to_owned(), "fd00::2".to_owned()],
            allocatable_memory: Bytes(1 << 30),
            ..EnvFacts::default()
        };
        resolve(&pod, &container, &facts)
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_variable_sees_those_above_it_and_not_those_below() {
        let env =
            vec![variable("A", "1"), variable("B", "$(A)-$(C)"), variable("C", "3"), variable("D", "$(B)")];
        assert_eq!(resolved(env), pairs(&[("A", "1"), ("B", "1-$(C)"), ("C", "3"), ("D", "1-$(C)")]));
    }

    #[test]
    fn a_name_that_comes_twice_has_its_last_value() {
        let env = vec![variable("PATH", "/a"), variable("X", "x"), variable("PATH", "$(PATH):/b")];
        assert_eq!(resolved(env), pairs(&[("PATH", "/a:/b"), ("X", "x")]));
    }

    #[test]
    fn fields_and_resources_are_looked_up() {
        let env = vec![
            field_variable("NAME", "metadata.name"),
            field_variable("LABEL", "metadata.labels['a/b']"),
            field_variable("NONE", "metadata.annotations['x']"),
            field_variable("IPS", "status.podIPs"),
            resource_variable("CPU", "limits.cpu", "0"),
            resource_variable("MILLI", "limits.cpu", "1m"),
            resource_variable("KI", "requests.memory", "1Ki"),
            resource_variable("LIMIT", "limits.memory", "1Mi"),
            variable("GREETING", "$(NAME) at $(IPS)"),
        ];
        let expected = pairs(&[
            ("NAME", "web-n1"),
            ("LABEL", "c"),
            ("NONE", ""),
            ("IPS", "10.0.0.2,fd00::2"),
            ("CPU", "2"),
            ("MILLI", "1500"),
            ("KI", "2"),
            ("LIMIT", "1024"),
            ("GREETING", "web-n1 at 10.0.0.2,fd00::2"),
        ]);
        assert_eq!(resolved(env), expected);
    }

    #[test]
    fn variables_that_repeat_each_other_are_refused_before_they_fill_the_memory() {
        let doubling = |n: usize| match n {
            0 => variable("V0", "0123456789abcdef"),
            n => variable(&format!("V{n}"), &format!("$(V{0})$(V{0})", n - 1)),
        };
        let error = resolve_all((0..64).map(doubling).collect()).unwrap_err();
        assert_eq!(error, EnvError::LongVariable { name: "V13".to_owned() });
        let many = (0..40).map(|n| match n {
            0 => variable("V0", &"x".repeat(100_000)),
            n => variable(&format!("V{n}"), "$(V0)"),
        });
        assert_eq!(resolve_all(many.collect()).unwrap_err(), EnvError::TooMuch { what: "the variables" });
        let env = pairs(&[("A", &"x".repeat(1000))]);
        let word = "$(A)".repeat(200_000);
        assert_eq!(expand_all(&["x".to_owned(), word], &env), Err(EnvError::LongWord { at: 1 }));
        let words = vec!["$(A)".repeat(100); 30];
        let error = expand_all(&words, &env).unwrap_err();
        assert!(
            error.to_string().starts_with("the words of command or args have more than 2097152"),
            "{error}"
        );
    }

    #[test]
    fn a_source_that_is_not_known_is_an_error_that_names_the_variable() {
        let container =
            api::Container { env: Some(vec![field_variable("X", "spec.color")]), ..Default::default() };
        let error = resolve(&api::Pod::default(), &container, &EnvFacts::default()).unwrap_err();
        assert_eq!(error.to_string(), "variable X: no field spec.color to refer to");
    }
}
