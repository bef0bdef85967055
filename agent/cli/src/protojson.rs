//! CRI messages as JSON and back, by protobuf's own JSON mapping.
//!
//! In: typed messages, or JSON from a user's file. Out: JSON with camelCase names, enums by name and 64-bit
//! numbers as strings (what crictl prints), or a typed message. Reading takes camelCase and original names and
//! enums by name or number; an unknown field is an error that says where it stands.

use std::sync::LazyLock;

use pintle_cri_api::FILE_DESCRIPTOR_SET;
use prost::Message;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions,
};
use serde_json::Value;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the build script wrote a complete descriptor set")
});

/// Why a value cannot be mapped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MapError {
    #[error("no message {0} in the protocol")]
    NoSuchMessage(String),
    #[error("at {at}: {reason}")]
    Field { at: String, reason: String },
    #[error("{0}")]
    Whole(String),
    #[error("message does not decode")]
    Decode(#[source] prost::DecodeError),
}

/// `message` of type `name` (`runtime.v1.…`) as JSON, defaults included.
pub(crate) fn to_value(name: &str, message: &impl Message) -> Result<Value, MapError> {
    let bytes = message.encode_to_vec();
    let dynamic = DynamicMessage::decode(descriptor(name)?, bytes.as_slice()).map_err(MapError::Decode)?;
    let options = SerializeOptions::new().skip_default_fields(false);
    dynamic
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|error| MapError::Whole(error.to_string()))
}

/// JSON as a message of type `name`.
pub(crate) fn from_value<M: Message + Default>(name: &str, value: Value) -> Result<M, MapError> {
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(value, &mut track);
    let dynamic = DynamicMessage::deserialize_with_options(descriptor(name)?, tracked, &options);
    match dynamic {
        Ok(dynamic) => M::decode(dynamic.encode_to_vec().as_slice()).map_err(MapError::Decode),
        Err(error) => {
            let at = track.path().to_string();
            let reason = error.to_string();
            if at == "." { Err(MapError::Whole(reason)) } else { Err(MapError::Field { at, reason }) }
        }
    }
}

fn descriptor(name: &str) -> Result<MessageDescriptor, MapError> {
    POOL.get_message_by_name(name).ok_or_else(|| MapError::NoSuchMessage(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use pintle_cri_api::v1;
    use serde_json::json;

    use super::*;

    const CONTAINER: &str = "runtime.v1.ContainerConfig";

    #[test]
    fn output_is_camel_case_with_enum_names_and_string_numbers() {
        let pod = v1::PodSandbox {
            id: "a".into(),
            state: v1::PodSandboxState::SandboxNotready.into(),
            created_at: 7,
            ..v1::PodSandbox::default()
        };
        let value = to_value("runtime.v1.PodSandbox", &pod).unwrap();
        assert_eq!(value["state"], "SANDBOX_NOTREADY");
        assert_eq!(value["createdAt"], "7");
        assert_eq!(value["runtimeHandler"], "");
        assert_eq!(value["labels"], json!({}));
    }

    #[test]
    fn input_takes_both_spellings_and_enums_by_name_or_number() {
        for config in [
            json!({"log_path": "a", "linux": {"security_context": {"namespace_options": {"network": 2}}}}),
            json!({"logPath": "a", "linux": {"securityContext": {"namespaceOptions": {"network": "NODE"}}}}),
        ] {
            let config: v1::ContainerConfig = from_value(CONTAINER, config).unwrap();
            let context = config.linux.unwrap().security_context.unwrap();
            assert_eq!(config.log_path, "a");
            assert_eq!(context.namespace_options.unwrap().network, v1::NamespaceMode::Node as i32);
        }
    }

    #[test]
    fn an_unknown_field_is_reported_with_its_path() {
        let config = json!({"mounts": [{"container_path": "/a"}, {"contaner_path": "/b"}]});
        let error = from_value::<v1::ContainerConfig>(CONTAINER, config).unwrap_err().to_string();
        assert!(error.contains("mounts[1]") && error.contains("contaner_path"), "{error}");
    }

    #[test]
    fn a_value_of_the_wrong_type_is_reported_with_its_path() {
        let config = json!({"linux": {"resources": {"cpu_shares": "many"}}});
        let error = from_value::<v1::ContainerConfig>(CONTAINER, config).unwrap_err().to_string();
        assert!(error.contains("linux.resources.cpu_shares"), "{error}");
    }
}
