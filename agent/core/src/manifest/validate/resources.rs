//! Rules for a container's requests and limits.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

use super::super::path::FieldPath;
use super::{Checker, names};
use crate::quantity::Quantity;
use crate::resources::{CPU, MEMORY};

type List = BTreeMap<String, ApiQuantity>;

pub(super) fn check(checker: &mut Checker<'_>, resources: &api::ResourceRequirements, path: &FieldPath) {
    let limits = check_list(checker, resources.limits.as_ref(), &path.field("limits"));
    let requests = check_list(checker, resources.requests.as_ref(), &path.field("requests"));
    for (name, request) in &requests {
        if let Some(limit) = limits.get(name)
            && request > limit
        {
            let written = |list: Option<&List>| {
                list.and_then(|list| list.get(*name)).map(|quantity| quantity.0.clone()).unwrap_or_default()
            };
            let (request, limit) = (written(resources.requests.as_ref()), written(resources.limits.as_ref()));
            let reason = format!("{request} is more than the limit, {limit}");
            checker.fail(&path.field("requests").key(name), reason);
        }
    }
}

fn check_list<'l>(
    checker: &mut Checker<'_>,
    list: Option<&'l List>,
    path: &FieldPath,
) -> BTreeMap<&'l str, Quantity> {
    let mut good = BTreeMap::new();
    for (name, text) in list.into_iter().flatten() {
        let path = path.key(name);
        if !checker.is_written(&path) {
            // A request that was filled in from the limit, of which everything is said there.
            continue;
        }
        if name != CPU && name != MEMORY {
            refuse_name(checker, name, &path);
            continue;
        }
        match Quantity::parse(&text.0) {
            Err(error) => checker.fail(&path, error.to_string()),
            Ok(quantity) if quantity.is_negative() => checker.fail(&path, "must not be negative"),
            Ok(quantity) if name == MEMORY && !quantity.is_whole() => {
                let number = text.0.trim_end_matches('m');
                let reason = format!("`{}` is a fraction of a byte", text.0);
                checker.fail_with_help(&path, reason, format!("did you mean `{number}M` or `{number}Mi`?"));
            }
            Ok(quantity) => {
                good.insert(name.as_str(), quantity);
            }
        }
    }
    good
}

fn refuse_name(checker: &mut Checker<'_>, name: &str, path: &FieldPath) {
    let known = name == "ephemeral-storage" || name.starts_with("hugepages-") || name.contains('/');
    if known && names::qualified_name(name).is_ok() {
        checker.fail_with_help(path, "this resource is not supported yet", "supported: cpu, memory");
    } else {
        let near = super::super::strict::nearest(name, &[CPU, MEMORY, "ephemeral-storage"]);
        let help = near.map_or("supported: cpu, memory".to_owned(), |near| format!("did you mean `{near}`?"));
        checker.fail_with_help(path, "unknown resource", help);
    }
}
