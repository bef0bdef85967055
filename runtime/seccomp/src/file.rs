//! Profile files.
//!
//! In: the text of a profile in OCI's JSON, or in Docker's, which adds `name`, `archMap`, `comment`, `includes` and
//! `excludes`; and the container it is for. Out: an OCI `LinuxSeccomp`. A field that neither format has is an error: a
//! slip in its name would otherwise open what was to be closed. It opens no file.

use oci_spec::runtime::{
    Arch as OciArch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSeccompOperator,
    LinuxSyscall,
};
use serde::Deserialize;

use crate::arch::Arch;
use crate::{MAX_PARTS, SeccompError, argument};

/// The most bytes of a profile file. Docker's own has 18,000.
pub const MAX_FILE: usize = 1024 * 1024;

/// What a profile's conditions are about.
#[derive(Debug, Clone, Copy)]
pub struct Conditions<'a> {
    /// The capabilities in the container's bounding set, as `CAP_…`.
    pub capabilities: &'a [String],
    /// The kernel's version: `(6, 18)`.
    pub kernel: (u32, u32),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<OciArch>>,
    arch_map: Option<Vec<Family>>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<String>,
    listener_metadata: Option<String>,
    syscalls: Option<Vec<Entry>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Family {
    architecture: OciArch,
    sub_architectures: Option<Vec<OciArch>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    name: Option<String>,
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    args: Option<Vec<Argument>>,
    #[serde(rename = "comment")]
    _comment: Option<String>,
    includes: Option<When>,
    excludes: Option<When>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Argument {
    index: usize,
    value: u64,
    value_two: Option<u64>,
    op: LinuxSeccompOperator,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct When {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// Reads a profile.
///
/// # Errors
/// When it is too long, no JSON, or not of the shape.
pub fn parse(text: &[u8], conditions: Conditions<'_>) -> Result<LinuxSeccomp, SeccompError> {
    if text.len() > MAX_FILE {
        let reason = format!("has more than {MAX_FILE} bytes");
        return Err(SeccompError::Parse { reason });
    }
    let profile: Profile =
        serde_json::from_slice(text).map_err(|error| SeccompError::Parse { reason: error.to_string() })?;
    let (path, metadata) = (profile.listener_path, profile.listener_metadata);
    if [path, metadata].into_iter().flatten().any(|text| !text.is_empty()) {
        let reason = "is not supported: there is no listener to hand calls to";
        return Err(SeccompError::field("listenerPath", reason));
    }
    let mut typed = LinuxSeccomp::default();
    typed.set_default_action(profile.default_action);
    typed.set_default_errno_ret(profile.default_errno_ret);
    typed.set_flags(profile.flags);
    typed.set_architectures(architectures(profile.architectures, profile.arch_map)?);
    let mut calls = Vec::new();
    for (at, entry) in profile.syscalls.unwrap_or_default().into_iter().enumerate() {
        calls.extend(call(entry, &format!("syscalls[{at}]"), conditions)?);
    }
    typed.set_syscalls(Some(calls));
    Ok(typed)
}

fn architectures(
    listed: Option<Vec<OciArch>>,
    map: Option<Vec<Family>>,
) -> Result<Option<Vec<OciArch>>, SeccompError> {
    let given = |list: &Option<Vec<OciArch>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let Some(map) = map.filter(|map| !map.is_empty()) else { return Ok(listed) };
    if given(&listed) {
        return Err(SeccompError::field("archMap", "is given together with architectures"));
    }
    let native = map.into_iter().find(|family| family.architecture == Arch::NATIVE.oci());
    Ok(native.map(|family| {
        let mut all = family.sub_architectures.unwrap_or_default();
        all.push(family.architecture);
        all
    }))
}

/// None: it is not for this container.
fn call(entry: Entry, field: &str, conditions: Conditions<'_>) -> Result<Option<LinuxSyscall>, SeccompError> {
    let names = match (entry.name, entry.names) {
        (Some(name), None) => vec![name],
        (None, Some(names)) if names.len() <= MAX_PARTS => names,
        (None, Some(_)) => return Err(SeccompError::field(format!("{field}.names"), "holds too many")),
        (None, None) => return Err(SeccompError::field(format!("{field}.names"), "is missing")),
        (Some(_), Some(_)) => {
            return Err(SeccompError::field(format!("{field}.name"), "is given together with names"));
        }
    };
    let includes = entry.includes.unwrap_or_default().facts(&format!("{field}.includes"), conditions)?;
    let excludes = entry.excludes.unwrap_or_default().facts(&format!("{field}.excludes"), conditions)?;
    if includes.iter().any(|holds| !holds) || excludes.iter().any(|holds| *holds) {
        return Ok(None);
    }
    let arguments = entry.args.unwrap_or_default();
    let arguments =
        arguments.into_iter().map(|given| argument(given.index, (given.value, given.value_two), given.op));
    let mut typed = LinuxSyscall::default();
    typed.set_args(Some(arguments.collect::<Result<_, _>>()?));
    typed.set_names(names);
    typed.set_action(entry.action);
    typed.set_errno_ret(entry.errno_ret);
    Ok(Some(typed))
}

impl When {
    /// Whether each of the things it names holds. All of `includes` have to, none of `excludes` may; of architectures it
    /// is one of the list.
    fn facts(&self, field: &str, conditions: Conditions<'_>) -> Result<Vec<bool>, SeccompError> {
        let mut facts = Vec::new();
        for capability in self.caps.iter().flatten() {
            facts.push(conditions.capabilities.contains(capability));
        }
        if let Some(arches) = self.arches.as_ref().filter(|arches| !arches.is_empty()) {
            facts.push(arches.iter().any(|arch| arch == Arch::NATIVE.go()));
        }
        if let Some(text) = &self.min_kernel {
            let Some(least) = version(text) else {
                let reason = format!("{text:?} is no kernel version such as \"4.8\"");
                return Err(SeccompError::field(format!("{field}.minKernel"), reason));
            };
            facts.push(conditions.kernel >= least);
        }
        Ok(facts)
    }
}

/// The first two numbers of a kernel's version.
#[must_use]
pub fn version(text: &str) -> Option<(u32, u32)> {
    let (first, rest) = text.split_once('.')?;
    let second = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((first.parse().ok()?, second.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, capabilities: &[&str]) -> Result<LinuxSeccomp, SeccompError> {
        let capabilities = capabilities.iter().map(ToString::to_string).collect::<Vec<_>>();
        parse(text.as_bytes(), Conditions { capabilities: &capabilities, kernel: (6, 1) })
    }

    fn names(profile: &LinuxSeccomp) -> Vec<String> {
        profile.syscalls().iter().flatten().flat_map(|call| call.names().clone()).collect()
    }

    #[test]
    fn a_profile_of_ocis_shape_is_read_as_it_is() {
        let text = r#"{
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": ["SCMP_ARCH_X86_64"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 1, "value": 2, "valueTwo": 3, "op": "SCMP_CMP_MASKED_EQ"}]}]
        }"#;
        let ours = read(text, &[]).unwrap();
        let typed: LinuxSeccomp = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_value(&ours).unwrap(), serde_json::to_value(&typed).unwrap());
    }

    #[test]
    fn dockers_conditions_choose_the_entries() {
        let text = r#"{"defaultAction": "SCMP_ACT_ERRNO", "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}],
          "syscalls": [
            {"name": "a", "action": "SCMP_ACT_ALLOW", "comment": "old spelling"},
            {"names": ["b"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["c"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["d"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["e"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.0"}},
            {"names": ["f"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "arm64"]}},
            {"names": ["g"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["amd64", "arm64"]}}]}"#;
        assert_eq!(names(&read(text, &[]).unwrap()), ["a", "c", "d", "f"]);
        let profile = read(text, &["CAP_SYS_ADMIN"]).unwrap();
        assert_eq!(names(&profile), ["a", "b", "d", "f"]);
        assert_eq!(profile.architectures().as_ref().unwrap().len(), 2);
    }

    #[test]
    fn what_cannot_be_is_an_error_that_names_the_field() {
        let entry = |entry: &str| format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{entry}]}}"#);
        let cases = [
            ("nonsense".to_owned(), "expected"),
            ("[]".to_owned(), "profile"),
            (r#"{"syscalls": []}"#.to_owned(), "defaultAction"),
            (r#"{"defaultAction": "SCMP_ACT_MAYBE"}"#.to_owned(), "SCMP_ACT_MAYBE"),
            (r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscals": []}"#.to_owned(), "syscals"),
            (r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/s"}"#.to_owned(), "listenerPath"),
            (entry(r#"{"action": "SCMP_ACT_ERRNO"}"#), "syscalls[0].names"),
            (entry(r#"{"name": "a", "names": ["b"], "action": "SCMP_ACT_ERRNO"}"#), "syscalls[0].name"),
            (
                entry(r#"{"name": "a", "action": "SCMP_ACT_ERRNO", "includes": {"minKernel": "x"}}"#),
                "syscalls[0].includes.minKernel",
            ),
        ];
        for (text, expected) in cases {
            let error = read(&text, &[]).map(drop).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(read(&" ".repeat(MAX_FILE + 1), &[]).is_err());
    }
}
