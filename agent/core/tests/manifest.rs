//! Good manifests: what becomes of them, who they are, and what the reader withstands.

use k8s_openapi::api::core::v1 as api;
use pintle_core::manifest::{self, ManifestErrors, NodeInfo};
use pintle_core::model::DesiredPod;
use pintle_core::time::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

const FULL: &str = include_str!("manifest/full.yaml");
const MINIMAL: &str =
    "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - {name: app, image: web}\n";

fn node() -> NodeInfo {
    NodeInfo { name: "n1".to_owned() }
}

fn parse(text: &str) -> Result<Vec<DesiredPod>, ManifestErrors> {
    manifest::parse("web.yaml", text.as_bytes(), &node(), Timestamp::from_nanos(1_000_000_000))
}

fn pods(text: &str) -> Vec<DesiredPod> {
    parse(text).map_err(|errors| format!("{errors}\nin:\n{text}")).expect("a good manifest")
}

fn pod(text: &str) -> DesiredPod {
    let mut pods = pods(text);
    assert_eq!(pods.len(), 1);
    pods.remove(0)
}

fn spec(pod: &DesiredPod) -> &api::PodSpec {
    pod.pod.spec.as_ref().expect("a specification")
}

#[test]
fn a_minimal_pod_gets_every_default_of_the_api_server() {
    let pod = pod(MINIMAL);
    let actual = serde_json::to_value(&pod.pod).expect("JSON");
    let expected = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "web-n1",
            "namespace": "default",
            "uid": pod.uid.as_str(),
            "annotations": {
                "kubernetes.io/config.source": "file",
                "kubernetes.io/config.hash": pod.hash,
                "kubernetes.io/config.seen": "1970-01-01T00:00:01Z",
            },
        },
        "spec": {
            "containers": [{
                "name": "app",
                "image": "web",
                "imagePullPolicy": "Always",
                "resources": {},
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
            }],
            "dnsPolicy": "ClusterFirst",
            "enableServiceLinks": true,
            "nodeName": "n1",
            "preemptionPolicy": "PreemptLowerPriority",
            "priority": 0,
            "restartPolicy": "Always",
            "schedulerName": "default-scheduler",
            "securityContext": {},
            "terminationGracePeriodSeconds": 30,
        },
    });
    assert_eq!(actual, expected);
}

#[test]
fn a_pod_with_every_supported_field_keeps_every_one() {
    let pod = pod(FULL);
    let spec = spec(&pod);
    assert_eq!(spec.containers.len(), 2);
    let app = &spec.containers[0];
    assert_eq!(app.command.as_deref(), Some(&["/bin/sh".to_owned(), "-c".to_owned()][..]));
    let requests = app.resources.as_ref().and_then(|r| r.requests.as_ref()).expect("requests");
    assert_eq!(requests["cpu"].0, "250m");
    assert_eq!(requests["memory"].0, "64Mi", "filled in from the limit");
    let ports = app.ports.as_ref().expect("ports");
    assert_eq!((ports[0].protocol.as_deref(), ports[1].protocol.as_deref()), (Some("TCP"), Some("UDP")));
    let volumes = spec.volumes.as_ref().expect("volumes");
    assert!(volumes[0].empty_dir.is_some(), "a volume without a source is an empty directory");
    assert_eq!(volumes[3].host_path.as_ref().and_then(|path| path.type_.as_deref()), Some(""));
    assert_eq!(spec.priority, Some(2_000_001_000));
    assert_eq!(spec.security_context.as_ref().and_then(|context| context.fs_group), Some(2000));
}

#[test]
fn on_the_hosts_network_a_host_port_is_the_containers() {
    let text = MINIMAL.replace("spec:\n", "spec:\n  hostNetwork: true\n").replace(
        "image: web}",
        "image: web, ports: [{containerPort: 80}, {containerPort: 81, hostPort: 81}]}",
    );
    let pod = pod(&text);
    let ports = spec(&pod).containers[0].ports.as_ref().expect("ports");
    assert_eq!((ports[0].host_port, ports[1].host_port), (Some(80), Some(81)));
}

#[test]
fn what_kubectl_writes_with_dry_run_is_accepted() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata:\n  creationTimestamp: null\n  labels:\n    run: web\n  name: web\nspec:\n  containers:\n  - image: web\n    name: web\n    resources: {}\n  dnsPolicy: ClusterFirst\n  restartPolicy: Always\nstatus: {}\n";
    assert_eq!(pod(text).name(), "web-n1");
}

#[test]
fn json_is_read_like_yaml_with_tabs_escapes_and_slashes() {
    let text = "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Pod\",\n\t\"metadata\": {\"name\": \"web\", \"annotations\":\t{\"a\": \"\\ud83d\\ude00\\/\\u00e9\\n\", \"yes\": \"no\"}},\n\t\"spec\": {\"containers\": [\n\t\t{\"name\": \"app\", \"image\": \"web\"}\n\t]}\n}\n";
    let pod = pod(text);
    let annotations = pod.pod.metadata.annotations.expect("annotations");
    assert_eq!(annotations["a"], "\u{1f600}/é\n");
    assert_eq!(annotations["yes"], "no");
}

#[test]
fn yaml_and_json_of_the_same_pod_are_the_same_pod() {
    let json = r#"{"spec":{"containers":[{"image":"web","name":"app"}]},"kind":"Pod","metadata":{"name":"web"},"apiVersion":"v1"}"#;
    assert_eq!(pod(json), pod(MINIMAL));
}

#[test]
fn a_byte_order_mark_and_carriage_returns_do_not_matter() {
    let text = format!("\u{feff}{}", MINIMAL.replace('\n', "\r\n"));
    assert_eq!(pod(&text).uid, pod(MINIMAL).uid);
}

#[test]
fn several_documents_are_several_pods_and_empty_ones_are_none() {
    let second = MINIMAL.replace("name: web}", "name: second, namespace: other}");
    let text = format!("---\n# nothing here\n---\n{MINIMAL}---\n---\n{second}...\n---\n");
    let pods = pods(&text);
    let names: Vec<_> = pods.iter().map(|pod| (pod.namespace(), pod.name(), pod.source.as_str())).collect();
    assert_eq!(names, [("default", "web-n1", "web.yaml"), ("other", "second-n1", "web.yaml (pod 2)")]);
}

#[test]
fn a_file_without_content_has_no_pods() {
    for text in ["", "\n\n", "# only a comment\n", "---\n", "---\n---\n", "null\n"] {
        assert_eq!(pods(text), [], "{text:?}");
    }
}

#[test]
fn lists_are_opened() {
    let indented = MINIMAL.trim_end().replace('\n', "\n  ");
    let list =
        format!("apiVersion: v1\nkind: List\nmetadata: {{resourceVersion: \"\"}}\nitems:\n- {indented}\n");
    assert_eq!(pod(&list), pod(MINIMAL));
    let pods_list = "apiVersion: v1\nkind: PodList\nitems:\n- metadata: {name: a}\n  spec: {containers: [{name: app, image: web}]}\n- metadata: {name: b}\n  spec: {containers: [{name: app, image: web}]}\n";
    assert_eq!(pods(pods_list).len(), 2);
    assert_eq!(pods("apiVersion: v1\nkind: List\nitems: []\n"), []);
}

#[test]
fn anchors_aliases_and_merges_are_followed() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - &base\n    name: app\n    image: &image web\n    env: [{name: A, value: *image}]\n  - <<: *base\n    name: second\n";
    let pod = pod(text);
    let second = &spec(&pod).containers[1];
    assert_eq!((second.name.as_str(), second.image.as_deref()), ("second", Some("web")));
    assert_eq!(second.env, spec(&pod).containers[0].env);
    let plain = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - {name: app, image: web, env: [{name: A, value: web}]}\n  - {name: second, image: web, env: [{name: A, value: web}]}\n";
    assert_eq!(pod.uid, crate::pod(plain).uid);
}

#[test]
fn numbers_are_quantities_and_quoted_words_are_strings() {
    let text = MINIMAL.replace(
        "image: web}",
        "image: web, env: [{name: A, value: \"yes\"}, {name: B, value: 'null'}, {name: C, value: 2026-01-01}, {name: D, value: !!str 5}], resources: {limits: {cpu: 1.5, memory: 1e6}}}",
    );
    let pod = pod(&text);
    let app = &spec(&pod).containers[0];
    let values: Vec<_> = app.env.iter().flatten().map(|env| env.value.as_deref().unwrap_or("-")).collect();
    assert_eq!(values, ["yes", "null", "2026-01-01", "5"]);
    let limits = app.resources.as_ref().and_then(|r| r.limits.as_ref()).expect("limits");
    assert_eq!((limits["cpu"].0.as_str(), limits["memory"].0.as_str()), ("1.5", "1000000"));
}

#[test]
fn the_uid_is_a_uuid_that_follows_content_and_node_and_nothing_else() {
    let first = pod(MINIMAL);
    let parts: Vec<usize> = first.uid.as_str().split('-').map(str::len).collect();
    assert_eq!(parts, [8, 4, 4, 4, 12]);
    assert_eq!(
        first.uid.as_str(),
        "f70566ce-4f2d-876c-b264-b6fafbbd9c7a",
        "the uid of a manifest never changes"
    );
    let commented = MINIMAL.replace("spec:", "# a comment\nstatus: {}\n\nspec:  # another");
    assert_eq!(pod(&commented).uid, first.uid);
    assert_eq!(pod(&commented).hash, first.hash);
    let edited = pod(&MINIMAL.replace("image: web", "image: web:2"));
    assert_ne!(edited.uid, first.uid);
    assert_ne!(edited.hash, first.hash);
    let other = NodeInfo { name: "n2".to_owned() };
    let elsewhere = manifest::parse("b", MINIMAL.as_bytes(), &other, Timestamp::default()).expect("good");
    assert_ne!(elsewhere[0].uid, first.uid);
    assert_eq!(elsewhere[0].hash, first.hash);
    let later = manifest::parse("c", MINIMAL.as_bytes(), &node(), Timestamp::from_nanos(5)).expect("good");
    assert_eq!((&later[0].uid, &later[0].hash), (&first.uid, &first.hash));
}

#[test]
fn a_uid_that_is_written_is_kept() {
    let text = MINIMAL.replace("name: web}", "name: web, uid: 6f1c2a9e-0b6f-4d3c-9a57-1d2e3f405162}");
    assert_eq!(pod(&text).uid.as_str(), "6f1c2a9e-0b6f-4d3c-9a57-1d2e3f405162");
}

#[test]
fn an_unknown_field_is_found_wherever_it_is() {
    let mut full: Value = serde_json::to_value(&pod(FULL).pod).expect("JSON");
    full["metadata"]["name"] = json!("web");
    full["metadata"]["annotations"] = json!({"note": "x"});
    // It may only be empty, and says so itself.
    full["spec"]["nodeSelector"] = Value::Null;
    let mut places = Vec::new();
    collect_objects(&full, String::new(), &mut places);
    assert!(places.len() > 40, "{}", places.len());
    for place in places {
        let mut changed = full.clone();
        changed.pointer_mut(&place).expect("there")["zzzzzz"] = json!(1);
        let errors = parse(&changed.to_string()).expect_err(&place);
        let fields: Vec<_> = errors.errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(errors.errors.len(), 1, "{place}: {errors}");
        assert!(fields[0].contains("zzzzzz"), "{place}: {fields:?}");
    }
}

fn collect_objects(value: &Value, pointer: String, places: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, below) in map {
                collect_objects(below, format!("{pointer}/{key}"), places);
            }
            places.push(pointer);
        }
        Value::Array(list) => {
            for (at, below) in list.iter().enumerate() {
                collect_objects(below, format!("{pointer}/{at}"), places);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn what_was_read_and_filled_in_reads_back_as_the_same_pod() {
    let first = pod(FULL);
    let mut written = serde_json::to_value(&first.pod).expect("JSON");
    written["metadata"]["name"] = json!("web");
    let second = pod(&written.to_string());
    assert_eq!(first.pod.spec, second.pod.spec);
}

#[test]
fn bombs_of_every_kind_are_refused_quickly() {
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        let below = format!("*a{}", n - 1);
        laughs.push_str(&format!("a{n}: &a{n} [{}]\n", vec![below; 10].join(", ")));
    }
    let big = "x".repeat(60_000);
    let big_laughs = format!("a: &a {big}\nb: [{}]\n", vec!["*a"; 5000].join(", "));
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let block = (0..200).map(|n| format!("{}a:\n", " ".repeat(n))).collect::<String>();
    let mut stairs = "a0: &a0 [x]\n".to_owned();
    for n in 1..100 {
        stairs.push_str(&format!("a{n}: &a{n} [*a{}]\n", n - 1));
    }
    for (name, text, reason) in [
        ("aliases", laughs, "unfolds to more than 65536 values"),
        ("long aliases", big_laughs, "unfolds to more than 65536 values"),
        ("brackets", deep, "not valid YAML"),
        ("indentation", block, "not valid YAML"),
        ("stairs of aliases", stairs, "64 levels deep"),
        ("documents", "---\na: b\n".repeat(300), "more than 256 documents"),
        ("bytes", format!("# {}", "x".repeat(1 << 20)), "1048576"),
        ("values", format!("[{}]", "x,".repeat(70_000)), "unfolds to more than 65536 values"),
    ] {
        let errors = parse(&text).expect_err(name);
        assert!(errors.to_string().contains(reason), "{name}: {errors}");
    }
}

#[test]
fn a_manifest_full_of_errors_is_judged_quickly() {
    let unknown: String = (0..30_000).map(|n| format!("conntainer{n}: 1\n")).collect();
    let named = format!("{MINIMAL}{unknown}");
    let containers = "  - {}\n".repeat(30_000);
    let crowd =
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec:\n  containers:\n{containers}");
    let volumes: String = (0..15_000).map(|n| format!("  - {{name: v{n}}}\n")).collect();
    let store = format!("{MINIMAL}  volumes:\n{volumes}");
    let variables: String = (0..15_000).map(|_| "    - {name: \"=\", value: x}\n").collect();
    let env = format!(
        "{}    env:\n{variables}",
        MINIMAL.replace("{name: app, image: web}", "name: app\n    image: web")
    );
    for text in [named, crowd, store, env] {
        assert!(!parse(&text).expect_err("bad").errors.is_empty());
    }
}

#[test]
fn bytes_that_are_no_text_are_refused_by_line() {
    let errors = manifest::parse("web.yaml", b"a: b\n\xff", &node(), Timestamp::default()).expect_err("bad");
    assert_eq!(errors.to_string(), "web.yaml:2:1: the text is not UTF-8");
    let errors = parse("a: \"x\\0y\"").expect_err("bad");
    assert_eq!(errors.to_string(), "web.yaml:1:4: the text contains a NUL character");
}

#[test]
fn of_very_many_errors_the_first_twenty_are_told() {
    let containers: String = (0..30).map(|n| format!("  - {{name: C{n}, image: web}}\n")).collect();
    let text =
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec:\n  containers:\n{containers}");
    let errors = parse(&text).expect_err("bad");
    assert_eq!((errors.errors.len(), errors.omitted), (20, 10));
    assert!(errors.to_string().ends_with("… and 10 more"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_reader_panic(text in "[-a: \\n{}\\[\\],\"'&*!|>#%?\\t0-9]{0,80}") {
        prop_assert!(parse(&text).map_or_else(|errors| !errors.errors.is_empty(), |pods| pods.is_empty()));
    }

    #[test]
    fn a_damaged_manifest_is_a_pod_or_an_error_with_a_line(
        at in 0..FULL.len(),
        cut in 0_usize..40,
        put in "[-a: \\n{}\\[\\],\"'&*!|>#]{0,6}",
    ) {
        let end = (at + cut).min(FULL.len());
        prop_assume!(FULL.is_char_boundary(at) && FULL.is_char_boundary(end));
        let text = format!("{}{put}{}", &FULL[..at], &FULL[end..]);
        if let Err(errors) = parse(&text) {
            prop_assert!(!errors.errors.is_empty());
            for error in &errors.errors {
                prop_assert!(error.position.line <= text.lines().count() + 1, "{}", error);
            }
        }
    }

    #[test]
    fn white_space_and_comments_never_change_the_uid(lines in prop::collection::vec(any::<bool>(), 120)) {
        let mut text = String::new();
        for (line, odd) in FULL.lines().zip(lines.iter().chain(std::iter::repeat(&false))) {
            text.push_str(line);
            text.push_str(if *odd && !line.contains('|') && !line.starts_with("      line") { "  # note\n\n" } else { "\n" });
        }
        prop_assert_eq!(pod(&text).uid, pod(FULL).uid);
    }
}
