//! The path of a field inside an object, as Kubernetes writes it: `spec.containers[0].env[2].value`.
//!
//! In: steps from the root. Out: the text for people, and the pattern without indices that the table of supported
//! fields is keyed by.

use std::fmt;

/// One step down into an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// A field that the API defines.
    Field(String),
    /// A key that the user chose, as in labels.
    Key(String),
    /// A place in a list.
    Index(usize),
}

/// Where a value is inside an object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct FieldPath(Vec<Step>);

impl FieldPath {
    /// The object itself.
    pub(crate) fn root() -> Self {
        Self::default()
    }

    /// A field below.
    pub(crate) fn field(&self, name: &str) -> Self {
        self.with(Step::Field(name.to_owned()))
    }

    /// Several fields below, separated by dots.
    pub(crate) fn fields(&self, names: &str) -> Self {
        names.split('.').fold(self.clone(), |path, name| path.field(name))
    }

    /// A user's key below.
    pub(crate) fn key(&self, key: &str) -> Self {
        self.with(Step::Key(key.to_owned()))
    }

    /// A list's element below.
    pub(crate) fn index(&self, index: usize) -> Self {
        self.with(Step::Index(index))
    }

    /// What it is a part of; the root's is the root.
    pub(crate) fn parent(&self) -> Self {
        Self(self.0.split_last().map_or(Vec::new(), |(_, above)| above.to_vec()))
    }

    /// The steps from the root.
    pub(crate) fn steps(&self) -> &[Step] {
        &self.0
    }

    /// Whether `self` is `other` or lies below it.
    pub(crate) fn is_within(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }

    /// `spec.containers[].env[].value`, with `{}` for a user's key.
    pub(crate) fn pattern(&self) -> String {
        let mut text = String::new();
        for step in &self.0 {
            match step {
                Step::Field(name) if text.is_empty() => text.push_str(name),
                Step::Field(name) => {
                    text.push('.');
                    text.push_str(name);
                }
                Step::Key(_) => text.push_str("{}"),
                Step::Index(_) => text.push_str("[]"),
            }
        }
        text
    }

    fn with(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::Field(name) if at == 0 => f.write_str(name)?,
                Step::Field(name) => write!(f, ".{name}")?,
                Step::Key(key) => write!(f, "[{key}]")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::FieldPath;

    #[test]
    fn a_path_reads_as_kubernetes_writes_it() {
        let path = FieldPath::root().fields("spec.containers").index(3).field("env").index(0);
        assert_eq!(path.to_string(), "spec.containers[3].env[0]");
        assert_eq!(path.pattern(), "spec.containers[].env[]");
        let path = FieldPath::root().fields("metadata.labels").key("a.b/c");
        assert_eq!(path.to_string(), "metadata.labels[a.b/c]");
        assert_eq!(path.pattern(), "metadata.labels{}");
    }
}
