//! A pod's manifest, put together by what a test wants to be special about the pod.
//!
//! In: names, fields and their values as YAML. Out, by `Display`: the manifest's text. It knows nothing of what Pintle
//! accepts: fields that do not exist can be written too.

use std::collections::BTreeMap;
use std::fmt;

use crate::node::IMAGE;

/// Values in flow style, by field.
type Fields = BTreeMap<String, String>;

/// A pod, of the test image unless told otherwise, which ends within a second of being asked to.
#[derive(Debug, Clone)]
pub struct Manifest {
    name: String,
    image: String,
    spec: Fields,
    containers: Vec<(String, Fields)>,
}

impl Manifest {
    /// A pod without containers so far.
    pub fn new(name: &str) -> Self {
        let (name, image) = (name.to_owned(), IMAGE.to_owned());
        Self { name, image, spec: Fields::new(), containers: Vec::new() }
            .spec("terminationGracePeriodSeconds", "1")
    }

    /// A pod with one container, `app`, which sleeps.
    pub fn sleeper(name: &str) -> Self {
        Self::new(name).container("app")
    }

    /// All its containers are of another image.
    #[must_use]
    pub fn of(mut self, image: &str) -> Self {
        image.clone_into(&mut self.image);
        self
    }

    /// Sets a field of the pod's `spec`.
    #[must_use]
    pub fn spec(mut self, field: &str, value: &str) -> Self {
        self.spec.insert(field.to_owned(), value.to_owned());
        self
    }

    /// Adds a container, which sleeps. What follows is about this one.
    #[must_use]
    pub fn container(mut self, name: &str) -> Self {
        self.containers.push((name.to_owned(), Fields::new()));
        self.with("command", "[sleep, infinity]")
    }

    /// Sets a field of the container.
    #[must_use]
    pub fn with(mut self, field: &str, value: &str) -> Self {
        let (_, fields) = self.containers.last_mut().expect("a container comes first");
        fields.insert(field.to_owned(), value.to_owned());
        self
    }

    /// The container runs a script.
    #[must_use]
    pub fn shell(self, script: &str) -> Self {
        self.with("command", &serde_json::json!(["sh", "-c", script]).to_string())
    }

    /// Mounts a volume, the pod's only one, in the container: its source is a field with its value.
    #[must_use]
    pub fn volume(self, name: &str, source: &str, path: &str) -> Self {
        self.with("volumeMounts", &format!("[{{name: {name}, mountPath: {path}}}]"))
            .spec("volumes", &format!("[{{name: {name}, {source}}}]"))
    }
}

impl fmt::Display for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "apiVersion: v1\nkind: Pod\nmetadata: {{name: {}}}\nspec:", self.name)?;
        for (field, value) in &self.spec {
            writeln!(f, "  {field}: {value}")?;
        }
        writeln!(f, "  containers:")?;
        for (name, fields) in &self.containers {
            writeln!(f, "  - name: {name}\n    image: {}", self.image)?;
            for (field, value) in fields {
                writeln!(f, "    {field}: {value}")?;
            }
        }
        Ok(())
    }
}
