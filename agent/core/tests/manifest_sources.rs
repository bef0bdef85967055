//! Files come, change, break and go in any order: what is wanted must depend on what they say and on who was first.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pintle_core::manifest::NodeInfo;
use pintle_core::pod_sources::{Change, Content, PodSources, Wanted};
use pintle_core::time::Timestamp;
use proptest::prelude::*;

fn document(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: app, image: \"{image}\"}}]}}\n"
    )
}

fn read(file: &str, text: &str, seconds: i64) -> Content {
    let node = NodeInfo { name: "n1".to_owned() };
    Content::read(Path::new(file), text.as_bytes(), &node, Timestamp::from_nanos(seconds * 1_000_000_000))
}

struct Directory {
    sources: PodSources,
    clock: i64,
}

impl Directory {
    fn new() -> Self {
        Self { sources: PodSources::new(), clock: 0 }
    }

    fn write(&mut self, file: &str, text: &str) -> Wanted {
        self.clock += 1;
        self.sources.apply([Change::Seen(PathBuf::from(file), read(file, text, self.clock))]);
        self.sources.wanted()
    }

    fn remove(&mut self, file: &str) -> Wanted {
        self.sources.apply([Change::Removed(PathBuf::from(file))]);
        self.sources.wanted()
    }
}

/// `name=image` of every wanted pod, in order.
fn images(wanted: &Wanted) -> Vec<String> {
    let mut list: Vec<String> = wanted
        .pods
        .values()
        .map(|pod| {
            let spec = pod.pod.spec.as_ref().expect("a specification");
            format!("{}={}", pod.name(), spec.containers[0].image.as_deref().unwrap_or("-"))
        })
        .collect();
    list.sort();
    list
}

fn errors(wanted: &Wanted) -> Vec<String> {
    wanted.errors.iter().map(ToString::to_string).collect()
}

#[test]
fn a_file_that_breaks_keeps_its_last_good_pod_and_says_where_it_is_broken() {
    let mut directory = Directory::new();
    directory.write("a.yaml", &document("web", "web:1"));
    let wanted = directory.write("a.yaml", &document("web", "web:2").replace("spec:", "spek:"));
    assert_eq!(images(&wanted), ["web-n1=web:1"]);
    assert_eq!(
        errors(&wanted),
        [
            "a.yaml:4:1: spek: unknown field of a Pod; did you mean `spec`?; default/web-n1 keeps running as the file said before"
        ]
    );
    let wanted = directory.write("a.yaml", &document("web", "web:2"));
    assert_eq!((images(&wanted), errors(&wanted)), (vec!["web-n1=web:2".to_owned()], vec![]));
}

#[test]
fn a_file_that_was_never_good_has_no_pods_and_an_error() {
    let mut directory = Directory::new();
    let wanted = directory.write("a.yaml", "kind: Pod\n");
    assert_eq!(
        (images(&wanted), errors(&wanted)),
        (vec![], vec!["a.yaml:1:1: apiVersion: is required".to_owned()])
    );
}

#[test]
fn a_file_that_is_truncated_keeps_its_pods_and_says_so() {
    let mut directory = Directory::new();
    assert_eq!(directory.write("a.yaml", " \n"), Wanted::default(), "nothing to keep, nothing to say");
    directory.write("a.yaml", &document("web", "web:1"));
    let wanted = directory.write("a.yaml", "");
    assert_eq!(images(&wanted), ["web-n1=web:1"]);
    assert_eq!(
        errors(&wanted),
        [
            "a.yaml: the file is empty; delete it to remove its pods; default/web-n1 keeps running as the file said before"
        ]
    );
}

#[test]
fn a_file_that_cannot_be_read_keeps_its_pods() {
    let mut directory = Directory::new();
    directory.write("a.yaml", &document("web", "web:1"));
    directory
        .sources
        .apply([Change::Seen("a.yaml".into(), Content::Unreadable("permission denied".to_owned()))]);
    let wanted = directory.sources.wanted();
    assert_eq!(images(&wanted), ["web-n1=web:1"]);
    assert!(errors(&wanted)[0].starts_with("a.yaml: the file cannot be read: permission denied;"));
}

#[test]
fn a_file_of_comments_alone_removes_its_pods() {
    let mut directory = Directory::new();
    directory.write("a.yaml", &document("web", "web:1"));
    assert_eq!(directory.write("a.yaml", "# not today\n"), Wanted::default());
}

#[test]
fn a_file_that_is_deleted_removes_its_pods_even_when_it_was_broken() {
    let mut directory = Directory::new();
    directory.write("a.yaml", &document("web", "web:1"));
    directory.write("a.yaml", "{");
    assert_eq!(directory.remove("a.yaml"), Wanted::default());
}

#[test]
fn of_two_files_that_claim_one_pod_the_first_runs_and_the_second_takes_over() {
    let mut directory = Directory::new();
    directory.write("b.yaml", &document("web", "b"));
    let wanted = directory.write("a.yaml", &document("web", "a"));
    assert_eq!(images(&wanted), ["web-n1=b"]);
    assert_eq!(
        errors(&wanted),
        ["a.yaml: metadata.name: pod default/web-n1 is already claimed by b.yaml; this one is not run"]
    );
    // An edit by the holder does not lose it the pod, nor does breaking it.
    assert_eq!(images(&directory.write("b.yaml", &document("web", "b2"))), ["web-n1=b2"]);
    assert_eq!(images(&directory.write("b.yaml", "{")), ["web-n1=b2"]);
    let wanted = directory.remove("b.yaml");
    assert_eq!((images(&wanted), errors(&wanted)), (vec!["web-n1=a".to_owned()], vec![]));
}

#[test]
fn a_claim_that_is_given_up_and_made_again_is_a_new_claim() {
    let mut directory = Directory::new();
    directory.write("a.yaml", &document("web", "a"));
    directory.write("b.yaml", &document("web", "b"));
    directory.write("a.yaml", &document("other", "a"));
    let wanted = directory.write("a.yaml", &document("web", "a"));
    assert_eq!(images(&wanted), ["web-n1=b"]);
}

#[test]
fn claims_that_come_together_are_decided_by_path() {
    let mut sources = PodSources::new();
    let content = |file: &str| (PathBuf::from(file), read(file, &document("web", file), 1));
    sources.apply_directory([content("b.yaml"), content("a.yaml")].into());
    assert_eq!(images(&sources.wanted()), ["web-n1=a.yaml"]);
    sources.apply_directory([content("b.yaml")].into());
    assert_eq!(images(&sources.wanted()), ["web-n1=b.yaml"]);
}

#[test]
fn two_documents_of_a_file_that_claim_one_pod_are_told_apart_by_order() {
    let mut directory = Directory::new();
    let text = format!("{}---\n{}", document("web", "one"), document("web", "two"));
    let wanted = directory.write("a.yaml", &text);
    assert_eq!(images(&wanted), ["web-n1=one"]);
    assert_eq!(
        errors(&wanted),
        ["a.yaml: metadata.name: pod default/web-n1 is claimed twice in this file; only the first is run"]
    );
}

#[test]
fn two_pods_with_one_written_uid_are_not_run_both() {
    let mut directory = Directory::new();
    let with_uid = |name: &str| document(name, "x").replace("}\nspec", ", uid: u-1}\nspec");
    directory.write("a.yaml", &with_uid("one"));
    let wanted = directory.write("b.yaml", &with_uid("two"));
    assert_eq!(images(&wanted), ["one-n1=x"]);
    assert_eq!(
        errors(&wanted),
        [
            "b.yaml: metadata.uid: pod default/two-n1 has the uid of pod default/one-n1 in a.yaml; this one is not run"
        ]
    );
}

#[test]
fn reading_an_unchanged_file_again_changes_nothing_at_all() {
    let mut directory = Directory::new();
    let first = directory.write("a.yaml", &document("web", "web:1"));
    let second = directory.write("a.yaml", &format!("# touched\n{}", document("web", "web:1")));
    assert_eq!(first, second);
    let pairs = first.pods.values().zip(second.pods.values());
    assert!(pairs.into_iter().all(|(a, b)| Arc::ptr_eq(a, b)));
}

#[test]
fn a_file_that_is_renamed_keeps_its_pods_uid() {
    let mut directory = Directory::new();
    let before = directory.write("a.yaml", &document("web", "web:1"));
    directory.write("b.yaml", &document("web", "web:1"));
    let after = directory.remove("a.yaml");
    assert!(before.pods.keys().eq(after.pods.keys()));
}

#[test]
fn a_broken_file_is_not_said_to_keep_a_pod_that_another_file_holds() {
    let mut directory = Directory::new();
    directory.write("a.yaml", &document("web", "a"));
    directory.write("b.yaml", &document("web", "b"));
    let wanted = directory.write("b.yaml", "kind: Pod\n");
    assert_eq!(
        errors(&wanted),
        [
            "b.yaml: metadata.name: pod default/web-n1 is already claimed by a.yaml; this one is not run",
            "b.yaml:1:1: apiVersion: is required",
        ]
    );
}

/// What a file holds in the model below.
#[derive(Debug, Clone, PartialEq)]
enum Text {
    Good(BTreeSet<usize>),
    Broken,
    Empty,
    Gone,
}

fn text() -> impl Strategy<Value = Text> {
    prop_oneof![
        5 => prop::collection::btree_set(0_usize..4, 0..3).prop_map(Text::Good),
        1 => Just(Text::Broken),
        1 => Just(Text::Empty),
        2 => Just(Text::Gone),
    ]
}

const FILES: [&str; 4] = ["a.yaml", "b.yaml", "c.json", "d.yml"];

fn change(file: usize, text: &Text, seconds: i64) -> Change {
    let name = FILES[file];
    let content = match text {
        Text::Gone => return Change::Removed(PathBuf::from(name)),
        Text::Broken => "kind: [".to_owned(),
        Text::Empty => "\n".to_owned(),
        Text::Good(pods) if pods.is_empty() => "# none\n".to_owned(),
        Text::Good(pods) => {
            pods.iter().map(|pod| document(&format!("p{pod}"), name)).collect::<Vec<_>>().join("---\n")
        }
    };
    Change::Seen(PathBuf::from(name), read(name, &content, seconds))
}

/// Who should hold each pod: written anew, from the rule alone.
#[derive(Default)]
struct Model {
    claims: BTreeMap<usize, BTreeMap<usize, usize>>,
}

impl Model {
    fn apply(&mut self, file: usize, text: &Text, batch: usize) {
        match text {
            Text::Gone => {
                self.claims.remove(&file);
            }
            Text::Broken | Text::Empty => {}
            Text::Good(pods) => {
                let old = self.claims.remove(&file).unwrap_or_default();
                let new = pods.iter().map(|pod| (*pod, old.get(pod).copied().unwrap_or(batch))).collect();
                self.claims.insert(file, new);
            }
        }
    }

    fn holders(&self) -> Vec<String> {
        let mut best: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
        for (file, pods) in &self.claims {
            for (pod, since) in pods {
                let claim = (*since, *file);
                let holder = best.entry(*pod).or_insert(claim);
                *holder = claim.min(*holder);
            }
        }
        best.iter().map(|(pod, (_, file))| format!("p{pod}-n1={}", FILES[*file])).collect()
    }
}

proptest! {
    #[test]
    fn whatever_happens_to_the_files_the_rule_decides_who_holds_a_pod(
        steps in prop::collection::vec((0..FILES.len(), text()), 1..30)
    ) {
        let mut sources = PodSources::new();
        let mut model = Model::default();
        for (batch, (file, text)) in steps.iter().enumerate() {
            sources.apply([change(*file, text, i64::try_from(batch).unwrap_or(0))]);
            model.apply(*file, text, batch);
            let wanted = sources.wanted();
            prop_assert_eq!(images(&wanted), model.holders());
        }
    }

    #[test]
    fn after_any_history_a_directory_of_good_files_runs_every_pod_it_names_once(
        history in prop::collection::vec((0..FILES.len(), text()), 0..20),
        last in prop::collection::vec(prop::collection::btree_set(0_usize..4, 0..3), FILES.len()),
    ) {
        let mut sources = PodSources::new();
        for (file, text) in &history {
            sources.apply([change(*file, text, 0)]);
        }
        for (file, pods) in last.iter().enumerate() {
            sources.apply([change(file, &Text::Good(pods.clone()), 1)]);
        }
        let wanted = sources.wanted();
        let names: BTreeSet<String> = wanted.pods.values().map(|pod| pod.name().to_owned()).collect();
        let named: BTreeSet<String> = last.iter().flatten().map(|pod| format!("p{pod}-n1")).collect();
        prop_assert_eq!(names.len(), wanted.pods.len());
        let claims = last.iter().map(BTreeSet::len).sum::<usize>();
        prop_assert_eq!(wanted.errors.len(), claims - named.len());
        prop_assert_eq!(names, named);
    }

    #[test]
    fn the_order_of_events_within_a_batch_does_not_matter(
        texts in prop::collection::vec(text(), FILES.len()),
        order in Just((0..FILES.len()).collect::<Vec<_>>()).prop_shuffle(),
        before in prop::collection::vec((0..FILES.len(), text()), 0..8),
    ) {
        let mut first = PodSources::new();
        for (file, text) in &before {
            first.apply([change(*file, text, 0)]);
        }
        let mut second = first.clone();
        first.apply(texts.iter().enumerate().map(|(file, text)| change(file, text, 1)));
        second.apply(order.iter().map(|file| change(*file, &texts[*file], 1)));
        prop_assert_eq!(first.wanted(), second.wanted());
    }
}
