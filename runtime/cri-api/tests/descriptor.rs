//! The protocol as compiled: packages, services, calls and the numbers of the newest fields.

use prost::Message;
use prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};

const RUNTIME_CALLS: &str = "Version RunPodSandbox StopPodSandbox RemovePodSandbox PodSandboxStatus ListPodSandbox \
    StreamPodSandboxes CreateContainer StartContainer StopContainer RemoveContainer ListContainers StreamContainers \
    ContainerStatus UpdateContainerResources ReopenContainerLog ExecSync Exec Attach PortForward ContainerStats \
    ListContainerStats StreamContainerStats PodSandboxStats ListPodSandboxStats StreamPodSandboxStats \
    UpdateRuntimeConfig Status CheckpointContainer GetContainerEvents ListMetricDescriptors ListPodSandboxMetrics \
    StreamPodSandboxMetrics RuntimeConfig UpdatePodSandboxResources";
const IMAGE_CALLS: &str = "ListImages StreamImages ImageStatus PullImage RemoveImage ImageFsInfo";

fn file(package: &str) -> FileDescriptorProto {
    let set = FileDescriptorSet::decode(pintle_cri_api::FILE_DESCRIPTOR_SET).expect("a descriptor set");
    set.file.into_iter().find(|file| file.package() == package).expect("the package")
}

fn calls(file: &FileDescriptorProto, service: &str) -> String {
    let service = file.service.iter().find(|s| s.name() == service).expect("the service");
    service.method.iter().map(|m| m.name()).collect::<Vec<_>>().join(" ")
}

fn message<'a>(file: &'a FileDescriptorProto, name: &str) -> &'a DescriptorProto {
    file.message_type.iter().find(|m| m.name() == name).expect("the message")
}

fn number(file: &FileDescriptorProto, of: &str, field: &str) -> i32 {
    message(file, of).field.iter().find(|f| f.name() == field).expect("the field").number()
}

#[test]
fn the_protocol_has_the_two_services_with_every_call() {
    let cri = file("runtime.v1");
    assert_eq!(cri.service.len(), 2);
    assert_eq!(calls(&cri, "RuntimeService"), RUNTIME_CALLS);
    assert_eq!(calls(&cri, "ImageService"), IMAGE_CALLS);
}

#[test]
fn only_events_and_stream_calls_stream() {
    for service in file("runtime.v1").service {
        for call in service.method {
            let streams = call.name().starts_with("Stream") || call.name() == "GetContainerEvents";
            assert_eq!(call.server_streaming(), streams, "{}", call.name());
            assert!(!call.client_streaming(), "{}", call.name());
        }
    }
}

#[test]
fn the_newest_fields_have_their_numbers() {
    let cri = file("runtime.v1");
    for (of, field, expected) in [
        ("Mount", "image", 9),
        ("Mount", "image_sub_path", 10),
        ("Mount", "mount_options", 11),
        ("ImageSpec", "user_specified_image", 18),
        ("ImageSpec", "image_ref", 20),
        ("ContainerConfig", "stop_signal", 18),
        ("ContainerStatus", "stop_signal", 19),
        ("LinuxSandboxSecurityContext", "supplemental_groups_policy", 11),
        ("LinuxContainerSecurityContext", "supplemental_groups_policy", 17),
        ("CpuUsage", "psi", 4),
        ("MemoryUsage", "psi", 8),
        ("ContainerStats", "io", 6),
        ("UpdatePodSandboxResourcesRequest", "resources", 3),
        ("ExecRequest", "audit_request_id", 7),
    ] {
        assert_eq!(number(&cri, of, field), expected, "{of}.{field}");
    }
}

#[test]
fn signals_are_numbered_by_the_protocol_not_the_kernel() {
    use pintle_cri_api::v1::Signal;
    assert_eq!(Signal::Sigkill as i32, 13);
    assert_eq!(Signal::Sigterm as i32, 23);
    assert_eq!(Signal::Sigrtmaxminus14 as i32, 51);
    assert_eq!(Signal::Sigrtmax as i32, 65);
}

#[test]
fn the_extension_has_its_two_services() {
    let ext = file("pintle.v1");
    assert_eq!(calls(&ext, "Images"), "Import Pull Export Verify");
    assert_eq!(calls(&ext, "Agent"), "Explain Pods");
    for (of, field, expected) in [
        ("Chunk", "options", 1),
        ("Chunk", "data", 2),
        ("ImportEvent", "failed", 3),
        ("PullEvent", "image_ref", 2),
        ("Progress", "total_bytes", 4),
        ("PodsResponse", "json", 1),
    ] {
        assert_eq!(number(&ext, of, field), expected, "{of}.{field}");
    }
}
