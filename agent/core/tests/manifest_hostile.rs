//! Manifests made to hurt: each is refused with file, line, field and reason, and costs its neighbours and its own last
//! good version nothing. What is merely wrong stands in `manifest/errors.txt`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use pintle_core::manifest::{MAX_BYTES, MAX_DOCUMENTS, NodeInfo};
use pintle_core::pod_sources::{Content, PodSources, Wanted};
use pintle_core::time::Timestamp;

const GOOD: &str =
    "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - {name: app, image: web:1}\n";
const OTHER: &str =
    "apiVersion: v1\nkind: Pod\nmetadata: {name: db}\nspec:\n  containers:\n  - {name: app, image: db:1}\n";

/// What the file is, and what its first error begins with and contains.
type Row = (&'static str, Vec<u8>, &'static str, &'static str);

/// A good pod whose container is written so, from line 7 on.
fn container(text: &str) -> Vec<u8> {
    let head = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - name: app\n    image: web:1\n";
    format!("{head}{text}\n").into_bytes()
}

/// A good pod with more in its specification, from line 5 on.
fn spec(text: &str) -> Vec<u8> {
    let rest = "  containers:\n  - {name: app, image: web:1}\n";
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec:\n{text}\n{rest}").into_bytes()
}

/// A good pod with other metadata, in line 3.
fn metadata(text: &str) -> Vec<u8> {
    GOOD.replace("{name: web}", text).into_bytes()
}

fn list(count: usize, element: impl Fn(usize) -> String) -> String {
    (0..count).map(element).collect::<Vec<_>>().join(", ")
}

/// What a reader of YAML or JSON might fall over.
#[expect(clippy::too_many_lines, reason = "a table")]
fn texts() -> Vec<Row> {
    let bytes = |text: &str| text.as_bytes().to_vec();
    let json = |open: &str, close: &str, depth| {
        format!("{}1{}", open.repeat(depth), close.repeat(depth)).into_bytes()
    };
    let with = |place: usize, byte: u8| {
        let mut text = bytes(GOOD);
        text.insert(place, byte);
        text
    };
    vec![
        ("JSON lists too deep", json("[", "]", 5000), "/m/web.yaml:1:", "not valid YAML"),
        ("JSON objects too deep", json("{\"a\":", "}", 5000), "/m/web.yaml:1:", "not valid YAML"),
        (
            "a JSON key twice",
            bytes("{\"kind\": \"Pod\",\n\"kind\": \"Pod\"}"),
            "/m/web.yaml:2:1: kind:",
            "already set in line 1",
        ),
        (
            "a key twice by escapes",
            bytes("{\"kind\": \"Pod\",\n\"k\\u0069nd\": \"Pod\"}"),
            "/m/web.yaml:2:1: kind:",
            "already set",
        ),
        (
            "JSON that ends early",
            bytes("{\"apiVersion\": \"v1\",\n \"kind\": "),
            "/m/web.yaml:",
            "not valid YAML",
        ),
        ("JSON after JSON", bytes("{\"a\": 1} {\"b\": 2}"), "/m/web.yaml:1:", "not valid YAML"),
        ("a NUL in the text", with(20, 0), "/m/web.yaml:2:6:", "unexpected character"),
        (
            "a NUL by an escape",
            container("    env:\n    - {name: A, value: \"x\\0y\"}"),
            "/m/web.yaml:9:",
            "NUL",
        ),
        ("a NUL in a key", container("    \"a\\0b\": c"), "/m/web.yaml:8:", "NUL"),
        ("half a character", with(20, 0xc3), "/m/web.yaml:2:1:", "not UTF-8"),
        (
            "UTF-16",
            GOOD.encode_utf16().flat_map(u16::to_le_bytes).collect(),
            "/m/web.yaml:1:2:",
            "unexpected character",
        ),
        ("a control character", with(20, 0x1b), "/m/web.yaml:2:1:", "unexpected character"),
        ("a BOM in the middle", bytes("apiVersion: v1\n\u{feff}kind: Pod\n"), "/m/web.yaml:", ""),
        ("an alias that doubles", bytes(&doubling()), "/m/web.yaml:", "unfolds to more than 65536 values"),
        ("a merge that doubles", bytes(&merging()), "/m/web.yaml:", "unfolds to more than 65536 values"),
        ("a merge of a text", bytes("a: &a x\n<<: *a\n"), "/m/web.yaml:2:5:", "takes an object"),
        ("an alias to what is not there", bytes("apiVersion: *v\n"), "/m/web.yaml:1:13:", "unknown anchor"),
        ("a value that contains itself", bytes("a: &a\n  b: *a\n"), "/m/web.yaml:2:6:", "inside the value"),
        (
            "a binary",
            [b"\x7fELF\x02\x01\x01\0\0".to_vec(), vec![0xff; 600]].concat(),
            "/m/web.yaml:1:1:",
            "not UTF-8",
        ),
        ("a tag of another language", bytes("!!python/object:os.system [x]\n"), "/m/web.yaml:1:", ""),
        (
            "too many documents",
            "---\na: b\n".repeat(10_000).into_bytes(),
            "/m/web.yaml:513:",
            "more than 256 documents",
        ),
        (
            "too many pods",
            format!("{GOOD}---\n").repeat(MAX_DOCUMENTS + 1).into_bytes(),
            "/m/web.yaml:",
            "more than 256",
        ),
        ("too large", vec![b'#'; MAX_BYTES + 1], "/m/web.yaml:1:1:", "1048577 bytes"),
        (
            "a huge text",
            container(&format!("    workingDir: /{}", "x".repeat(5000))),
            "/m/web.yaml:8:5: spec.containers[0].workingDir:",
            "up to 4095",
        ),
        (
            "a list with a bad item",
            bytes(
                "kind: List\napiVersion: v1\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: web}}\n- 7\n",
            ),
            "/m/web.yaml:",
            "is required",
        ),
    ]
}

/// Each line repeats the one before ten times.
fn doubling() -> String {
    let line = |n: usize| match n {
        0 => "a0: &a0 [x]\n".to_owned(),
        n => format!("a{n}: &a{n} [{}]\n", list(10, |_| format!("*a{}", n - 1))),
    };
    (0..9).map(line).collect()
}

fn merging() -> String {
    let line = |n: usize| match n {
        0 => "a0: &a0 {x: 1}\n".to_owned(),
        n => format!("a{n}: &a{n} {{<<: [{}], k{n}: *a{}}}\n", list(9, |_| format!("*a{}", n - 1)), n - 1),
    };
    (0..9).map(line).collect()
}

/// Names, places and amounts that would do harm further down.
#[expect(clippy::too_many_lines, reason = "a table")]
fn fields() -> Vec<Row> {
    let label = "a".repeat(64);
    let memory = |amount: &str| container(&format!("    resources: {{limits: {{memory: {amount}}}}}"));
    let mount = |place: &str| {
        let text =
            String::from_utf8(container(&format!("    volumeMounts: [{{name: v, {place}}}]"))).expect("text");
        format!("{text}  volumes: [{{name: v}}]\n").into_bytes()
    };
    let port = |port: &str| container(&format!("    ports: [{{containerPort: {port}}}]"));
    vec![
        (
            "a pod's name of 64 times four",
            metadata(&format!("{{name: {}}}", label.repeat(4))),
            "/m/web.yaml:3:12: metadata.name:",
            "not a DNS name",
        ),
        (
            "a name that is a path",
            metadata("{name: ../../etc/cron.d/x}"),
            "/m/web.yaml:3:12: metadata.name:",
            "not a DNS name",
        ),
        (
            "a namespace of 64",
            metadata(&format!("{{name: web, namespace: {label}}}")),
            "/m/web.yaml:3:23: metadata.namespace:",
            "not a DNS label",
        ),
        (
            "a uid with a slash",
            metadata("{name: web, uid: a/b}"),
            "/m/web.yaml:3:23: metadata.uid:",
            "not a uid",
        ),
        (
            "a label with a line end",
            metadata("{name: web, labels: {a: \"b\\nc\"}}"),
            "/m/web.yaml:3:",
            "not a label's value",
        ),
        (
            "too many labels",
            metadata(&format!("{{name: web, labels: {{{}}}}}", list(1025, |n| format!("l{n}: x")))),
            "/m/web.yaml:3:23: metadata.labels:",
            "has 1025 entries; up to 1024",
        ),
        (
            "too large annotations",
            metadata(&format!("{{name: web, annotations: {{a: {}}}}}", "x".repeat(300_000))),
            "/m/web.yaml:3:23: metadata.annotations:",
            "up to 262144",
        ),
        (
            "a container's name of 64",
            container(&format!("    name: {label}")),
            "/m/web.yaml:8:5: name:",
            "already set",
        ),
        (
            "a volume's name that is a path",
            spec("  volumes: [{name: ../x}]"),
            "/m/web.yaml:5:14: spec.volumes[0].name:",
            "not a DNS label",
        ),
        (
            "a volume twice",
            spec("  volumes: [{name: x}, {name: x}]"),
            "/m/web.yaml:5:25: spec.volumes[1].name:",
            "already taken",
        ),
        (
            "a host path that climbs",
            spec("  volumes: [{name: x, hostPath: {path: /a/../../etc}}]"),
            "/m/web.yaml:5:34: spec.volumes[0].hostPath.path:",
            "must not contain `..`",
        ),
        (
            "a place that climbs",
            mount("mountPath: /a/../.."),
            "/m/web.yaml:8:30: spec.containers[0].volumeMounts[0].mountPath:",
            "must not contain `..`",
        ),
        (
            "a place without end",
            mount(&format!("mountPath: /{}", "x".repeat(5000))),
            "/m/web.yaml:8:30: spec.containers[0].volumeMounts[0].mountPath:",
            "up to 4095",
        ),
        (
            "an absolute sub path",
            mount("mountPath: /a, subPath: /etc"),
            "/m/web.yaml:8:45: spec.containers[0].volumeMounts[0].subPath:",
            "not supported yet",
        ),
        (
            "a volume that is not there",
            container("    volumeMounts: [{name: w, mountPath: /w}]"),
            "/m/web.yaml:8:21: spec.containers[0].volumeMounts[0].name:",
            "there is no volume `w`",
        ),
        (
            "a variable with an equals sign",
            container("    env: [{name: A=B, value: x}]"),
            "/m/web.yaml:8:12: spec.containers[0].env[0].name:",
            "not the name of an environment variable",
        ),
        (
            "a variable that execve refuses",
            container(&format!("    env: [{{name: A, value: {}}}]", "x".repeat(140_000))),
            "/m/web.yaml:8:11: spec.containers[0].env[0]:",
            "up to 131071",
        ),
        (
            "an argument that execve refuses",
            container(&format!("    args: [a, {}]", "x".repeat(140_000))),
            "/m/web.yaml:8:15: spec.containers[0].args[1]:",
            "up to 131071",
        ),
        (
            "too many variables",
            container(&format!("    env: [{}]", list(4097, |n| format!("{{name: a{n}}}")))),
            "/m/web.yaml:8:5: spec.containers[0].env:",
            "has 4097 entries; up to 4096",
        ),
        (
            "too many arguments",
            container(&format!("    args: [{}]", list(4097, |_| "a".to_owned()))),
            "/m/web.yaml:8:5: spec.containers[0].args:",
            "up to 4096",
        ),
        (
            "too many ports",
            port(&format!(
                "1}}, {}, {{containerPort: 2",
                list(1024, |n| format!("{{containerPort: {}}}", n + 1))
            )),
            "/m/web.yaml:8:5: spec.containers[0].ports:",
            "up to 1024",
        ),
        (
            "too many containers",
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec: {{containers: [{}]}}",
                list(257, |n| format!("{{name: c{n}, image: x}}"))
            )
            .into_bytes(),
            "/m/web.yaml:4:8: spec.containers:",
            "up to 256",
        ),
        (
            "too many volumes",
            spec(&format!("  volumes: [{}]", list(1025, |n| format!("{{name: v{n}}}")))),
            "/m/web.yaml:5:3: spec.volumes:",
            "up to 1024",
        ),
        (
            "an image's name without end",
            container("")
                .iter()
                .copied()
                .chain(format!("  - {{name: b, image: {}}}\n", "x".repeat(2000)).into_bytes())
                .collect(),
            "/m/web.yaml:9:",
            "up to 1024",
        ),
        (
            "port 0",
            port("0"),
            "/m/web.yaml:8:14: spec.containers[0].ports[0].containerPort:",
            "from 1 to 65535",
        ),
        (
            "port 65536",
            port("65536"),
            "/m/web.yaml:8:14: spec.containers[0].ports[0].containerPort:",
            "from 1 to 65535",
        ),
        (
            "port -1",
            port("-1"),
            "/m/web.yaml:8:14: spec.containers[0].ports[0].containerPort:",
            "from 1 to 65535",
        ),
        (
            "port 1e99",
            port("1e99"),
            "/m/web.yaml:8:29: spec.containers[0].ports[0].containerPort:",
            "must be a whole number",
        ),
        (
            "memory below zero",
            memory("-1"),
            "/m/web.yaml:8:26: spec.containers[0].resources.limits[memory]:",
            "must not be negative",
        ),
        (
            "memory beyond all",
            memory("9999999999Ei"),
            "/m/web.yaml:8:26: spec.containers[0].resources.limits[memory]:",
            "larger than a quantity can be",
        ),
        (
            "memory that is no number",
            memory(".nan"),
            "/m/web.yaml:8:26: spec.containers[0].resources.limits[memory]:",
            "not a quantity",
        ),
        (
            "memory without end",
            memory(&"9".repeat(100_000)),
            "/m/web.yaml:8:26: spec.containers[0].resources.limits[memory]:",
            "",
        ),
        (
            "memory that is a list",
            memory("[1]"),
            "/m/web.yaml:8:34: spec.containers[0].resources.limits[memory]:",
            "must be a string or a number",
        ),
        (
            "a grace period beyond all",
            spec("  terminationGracePeriodSeconds: 9223372036854775808"),
            "/m/web.yaml:5:",
            "whole number",
        ),
        (
            "a grace period as a duration",
            spec("  terminationGracePeriodSeconds: 30s"),
            "/m/web.yaml:5:34: spec.terminationGracePeriodSeconds:",
            "must be a whole number",
        ),
        (
            "a user below zero",
            container("    securityContext: {runAsUser: -1}"),
            "/m/web.yaml:8:23: spec.containers[0].securityContext.runAsUser:",
            "from 0 to",
        ),
        (
            "groups without end",
            spec(&format!("  securityContext: {{supplementalGroups: [{}]}}", list(1025, |n| n.to_string()))),
            "/m/web.yaml:5:21: spec.securityContext.supplementalGroups:",
            "up to 1024",
        ),
        ("lists where objects belong", spec("  securityContext: []"), "/m/web.yaml:5:", "must be an object"),
        (
            "no kind of a pod",
            GOOD.replace("Pod", "pod").into_bytes(),
            "/m/web.yaml:2:7: kind:",
            "not supported yet",
        ),
        (
            "another group",
            GOOD.replace("v1", "apps/v1").into_bytes(),
            "/m/web.yaml:1:13: apiVersion:",
            "has the apiVersion `v1`",
        ),
    ]
}

fn read(text: &[u8]) -> Content {
    let node = NodeInfo { name: "n1".to_owned() };
    Content::read(&PathBuf::from("/m/web.yaml"), text, &node, Timestamp::default())
}

/// A directory with the file as it was when it was good, and another one.
fn directory() -> PodSources {
    let mut sources = PodSources::new();
    apply(&mut sources, read(GOOD.as_bytes()));
    sources
}

fn apply(sources: &mut PodSources, web: Content) {
    let node = NodeInfo { name: "n1".to_owned() };
    let db = Content::read(&PathBuf::from("/m/db.yaml"), OTHER.as_bytes(), &node, Timestamp::default());
    sources.apply_directory(BTreeMap::from([("/m/web.yaml".into(), web), ("/m/db.yaml".into(), db)]));
}

/// Nothing that ran is disturbed by `content`, and the errors say so.
fn check_undisturbed(name: &str, content: Content) -> Wanted {
    let mut sources = directory();
    let before = sources.wanted();
    apply(&mut sources, content);
    let after = sources.wanted();
    assert_eq!(after.pods, before.pods, "{name}: what ran is disturbed");
    assert_eq!(after.pods.len(), 2);
    assert!(!after.errors.is_empty(), "{name}: nothing is said");
    for error in &after.errors {
        assert_eq!(
            (error.file.to_str(), error.kept.as_slice()),
            (Some("/m/web.yaml"), &["default/web-n1".to_owned()][..])
        );
        assert!(
            error.to_string().ends_with("; default/web-n1 keeps running as the file said before"),
            "{error}"
        );
        assert!(error.to_string().len() < 2048, "{name}: {} bytes of message", error.to_string().len());
    }
    after
}

#[test]
fn hostile_manifests_are_refused_with_file_line_field_and_reason_and_disturb_nothing() {
    let rows: Vec<Row> = texts().into_iter().chain(fields()).collect();
    assert!(rows.len() >= 60, "only {} rows", rows.len());
    let mut wrong = String::new();
    for (name, text, start, reason) in rows {
        let Content::Broken(errors) = read(&text) else {
            wrong.push_str(&format!("{name}: not refused\n"));
            continue;
        };
        let first = errors.errors[0].to_string();
        if !first.starts_with(start) || !first.contains(reason) {
            wrong.push_str(&format!("{name}: {}\n", first.chars().take(300).collect::<String>()));
        }
        check_undisturbed(name, Content::Broken(errors));
    }
    assert!(wrong.is_empty(), "these are not what was expected:\n{wrong}");
}

#[test]
fn a_manifest_that_is_cut_anywhere_never_takes_what_runs_down() {
    let full = include_str!("manifest/full.yaml");
    // Every seventh place: all kinds of them, in a seventh of the time.
    for end in (0..full.len()).step_by(7) {
        let mut sources = directory();
        apply(&mut sources, read(&full.as_bytes()[..end]));
        let wanted = sources.wanted();
        // A cut in a value, or behind a container, is a good manifest of another pod: only a rename keeps it from sight.
        let taken = wanted.errors.is_empty();
        let kept = wanted.pods.values().any(|pod| pod.hash == good_hash());
        assert!(taken || kept, "cut at byte {end}");
    }
}

fn good_hash() -> String {
    let Content::Pods(pods) = read(GOOD.as_bytes()) else { unreachable!("it is good") };
    pods[0].hash.clone()
}

#[test]
fn tabs_line_ends_and_a_byte_order_mark_do_not_change_what_a_manifest_says() {
    let crlf = GOOD.replace('\n', "\r\n");
    let marked = format!("\u{feff}{GOOD}");
    let json = "{\t\"apiVersion\":\t\"v1\",\r\n\"kind\": \"Pod\", \"metadata\": {\"name\": \"web\"},\n\t\"spec\": {\"containers\": [{\"name\": \"app\", \"image\": \"web:1\"}]}}";
    for text in [crlf.as_str(), &marked, json] {
        let Content::Pods(pods) = read(text.as_bytes()) else { panic!("refused: {text}") };
        assert_eq!(pods[0].hash, good_hash(), "{text}");
    }
    for nothing in ["", " \n\t\r\n"] {
        assert_eq!(read(nothing.as_bytes()), Content::Empty);
        check_undisturbed("nothing", Content::Empty);
    }
}
