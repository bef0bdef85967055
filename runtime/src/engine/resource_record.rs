//! A container's limits as they are kept in its record.
//!
//! In and out: CRI's resources. What is not given is not written, so that a record without limits is as short as before there
//! were any in it.

use std::collections::BTreeMap;

use pintle_cri_api::v1::{HugepageLimit, LinuxContainerResources};
use serde::{Deserialize, Serialize};

/// CRI's `LinuxContainerResources`, 0 and empty meaning "not given".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ResourcesRecord {
    /// Microseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub cpu_period: i64,
    /// Microseconds in a period; -1: no limit.
    #[serde(skip_serializing_if = "is_zero")]
    pub cpu_quota: i64,
    /// Relative to other groups, 1024 for one processor.
    #[serde(skip_serializing_if = "is_zero")]
    pub cpu_shares: i64,
    /// Bytes.
    #[serde(skip_serializing_if = "is_zero")]
    pub memory_limit: i64,
    /// Bytes of memory and swap together.
    #[serde(skip_serializing_if = "is_zero")]
    pub memory_swap_limit: i64,
    /// Who is killed first for want of memory.
    #[serde(skip_serializing_if = "is_zero")]
    pub oom_score_adj: i64,
    /// Processors, as `0-3,8`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cpuset_cpus: String,
    /// Memory nodes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cpuset_mems: String,
    /// Bytes of huge pages by their size, as `2MB`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub hugepage_limits: BTreeMap<String, u64>,
    /// Files of cgroup v2 and their values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unified: BTreeMap<String, String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(value: &i64) -> bool {
    *value == 0
}

impl From<&LinuxContainerResources> for ResourcesRecord {
    fn from(wanted: &LinuxContainerResources) -> Self {
        let pages = wanted.hugepage_limits.iter().map(|limit| (limit.page_size.clone(), limit.limit));
        Self {
            cpu_period: wanted.cpu_period,
            cpu_quota: wanted.cpu_quota,
            cpu_shares: wanted.cpu_shares,
            memory_limit: wanted.memory_limit_in_bytes,
            memory_swap_limit: wanted.memory_swap_limit_in_bytes,
            oom_score_adj: wanted.oom_score_adj,
            cpuset_cpus: wanted.cpuset_cpus.clone(),
            cpuset_mems: wanted.cpuset_mems.clone(),
            hugepage_limits: pages.collect(),
            unified: wanted.unified.clone(),
        }
    }
}

impl From<&ResourcesRecord> for LinuxContainerResources {
    fn from(record: &ResourcesRecord) -> Self {
        let pages = record.hugepage_limits.iter();
        Self {
            cpu_period: record.cpu_period,
            cpu_quota: record.cpu_quota,
            cpu_shares: record.cpu_shares,
            memory_limit_in_bytes: record.memory_limit,
            memory_swap_limit_in_bytes: record.memory_swap_limit,
            oom_score_adj: record.oom_score_adj,
            cpuset_cpus: record.cpuset_cpus.clone(),
            cpuset_mems: record.cpuset_mems.clone(),
            hugepage_limits: pages
                .map(|(page_size, limit)| HugepageLimit { page_size: page_size.clone(), limit: *limit })
                .collect(),
            unified: record.unified.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_survive_the_record_and_what_is_not_given_is_not_in_it() {
        let wanted = LinuxContainerResources {
            cpu_period: 1,
            cpu_quota: -1,
            cpu_shares: 3,
            memory_limit_in_bytes: 4,
            memory_swap_limit_in_bytes: 5,
            oom_score_adj: -6,
            cpuset_cpus: "0-1".to_owned(),
            cpuset_mems: "0".to_owned(),
            hugepage_limits: vec![HugepageLimit { page_size: "2MB".to_owned(), limit: 0 }],
            unified: [("memory.high".to_owned(), "7".to_owned())].into(),
        };
        let text = serde_json::to_string(&ResourcesRecord::from(&wanted)).unwrap();
        let back: ResourcesRecord = serde_json::from_str(&text).unwrap();
        assert_eq!(LinuxContainerResources::from(&back), wanted);
        assert_eq!(serde_json::to_string(&ResourcesRecord::default()).unwrap(), "{}");
    }
}
