//! Calls about the engine itself: Version, Status, RuntimeConfig, UpdateRuntimeConfig.

use pintle_cri_api::v1 as cri;
use serde_json::json;

use crate::{
    Engine, Error, Result,
    engine::{handlers::Handler, host},
};

/// The engine's name.
pub const RUNTIME_NAME: &str = "pintle";
/// The version of CRI that is spoken.
pub const API_VERSION: &str = "v1";
/// The version of the kubelet's runtime API, as every runtime says it.
const KUBELET_API_VERSION: &str = "0.1.0";

pub(super) fn version() -> cri::VersionResponse {
    cri::VersionResponse {
        version: KUBELET_API_VERSION.to_owned(),
        runtime_name: RUNTIME_NAME.to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_api_version: API_VERSION.to_owned(),
    }
}

pub(super) fn status(engine: &Engine, verbose: bool) -> cri::StatusResponse {
    let mut info = std::collections::BTreeMap::new();
    if verbose {
        info.insert("config".to_owned(), verbose_info(engine).to_string());
    }
    cri::StatusResponse {
        status: Some(cri::RuntimeStatus {
            conditions: vec![runtime_condition(engine), network_condition(engine)],
        }),
        info,
        runtime_handlers: runtime_handlers(engine),
        features: Some(cri::RuntimeFeatures { supplemental_groups_policy: true, ..Default::default() }),
    }
}

/// The native engine, then those that were configured. What one of them can do is known once it has been asked.
fn runtime_handlers(engine: &Engine) -> Vec<cri::RuntimeHandler> {
    let features = |recursive_read_only_mounts| cri::RuntimeHandlerFeatures {
        recursive_read_only_mounts,
        ..Default::default()
    };
    let of_native =
        cri::RuntimeHandlerFeatures { user_namespaces: engine.has_user_namespaces(), ..features(true) };
    let native = cri::RuntimeHandler { name: String::new(), features: Some(of_native) };
    let external = engine.handlers.iter().map(|handler| cri::RuntimeHandler {
        name: handler.config.name.clone(),
        features: handler.facts().map(|facts| features(facts.recursive_read_only)),
    });
    std::iter::once(native).chain(external).collect()
}

fn handlers_info(engine: &Engine) -> Vec<serde_json::Value> {
    let one = |handler: &Handler| {
        json!({
            "name": handler.config.name,
            "path": handler.config.path,
            "args": handler.config.args,
            "createArgs": handler.config.create_args,
            "trouble": handler.trouble(),
        })
    };
    engine.handlers.iter().map(one).collect()
}

pub(super) fn runtime_config() -> cri::RuntimeConfigResponse {
    cri::RuntimeConfigResponse {
        linux: Some(cri::LinuxRuntimeConfiguration { cgroup_driver: cri::CgroupDriver::Cgroupfs.into() }),
    }
}

/// A control plane may hand the node its pod range; here it is set when the engine opens, so only "the same" or
/// "nothing" can be agreed to.
pub(super) fn update_runtime_config(
    engine: &Engine,
    request: cri::UpdateRuntimeConfigRequest,
) -> Result<cri::UpdateRuntimeConfigResponse> {
    let wanted = request.runtime_config.and_then(|config| config.network_config).unwrap_or_default().pod_cidr;
    if wanted.is_empty() || engine.config.pod_cidr.as_deref() == Some(wanted.as_str()) {
        return Ok(cri::UpdateRuntimeConfigResponse {});
    }
    let text = format!("pod range {wanted} cannot be set on a running engine; start it with --pod-cidr");
    Err(Error::Unimplemented(text))
}

fn runtime_condition(engine: &Engine) -> cri::RuntimeCondition {
    let shim = &engine.config.shim;
    let missing = shim.is_absolute() && !shim.exists();
    let message = if missing { format!("{} is missing", shim.display()) } else { String::new() };
    condition("RuntimeReady", !missing, "SupervisorMissing", message)
}

fn network_condition(engine: &Engine) -> cri::RuntimeCondition {
    match engine.network.status() {
        pintle_cni::Status::Ready => condition("NetworkReady", true, "", String::new()),
        pintle_cni::Status::Degraded { reason } => cri::RuntimeCondition {
            reason: "Degraded".to_owned(),
            ..condition("NetworkReady", true, "", reason)
        },
        pintle_cni::Status::NotReady { reason } => {
            condition("NetworkReady", false, "NetworkPluginNotReady", reason)
        }
    }
}

fn condition(kind: &str, ready: bool, reason: &str, message: String) -> cri::RuntimeCondition {
    let reason = if ready { String::new() } else { reason.to_owned() };
    cri::RuntimeCondition { r#type: kind.to_owned(), status: ready, reason, message }
}

fn verbose_info(engine: &Engine) -> serde_json::Value {
    let layout = engine.layout();
    json!({
        "root": layout.root,
        "state": layout.state,
        "supervisor": engine.config.shim,
        "cgroupRoot": layout.cgroup_root,
        "cgroupVersion": if engine.host.cgroup_v2 { 2 } else { 1 },
        "bridge": layout.bridge,
        "nftTable": layout.nft_table,
        "kernel": host::kernel_release(),
        "runtimeHandlers": handlers_info(engine),
        "capabilities": engine.host.capabilities,
        "lowestOomScoreAdj": engine.host.oom_floor,
        "sandboxes": engine.all_sandboxes().len(),
        "containers": engine.all_containers().len(),
        "heapInUse": crate::sys::memory::heap_in_use(),
    })
}
