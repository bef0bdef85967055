//! One thing that is there and should not be, or is not there and should be, with its explanation.
//!
//! In: what [`super::compare`] knows. Out: a value to print, to recognise in a second look, and to repair. Pure.

use std::{
    net::IpAddr,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use serde::{Serialize, Serializer};

/// Too much or too little.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Class {
    /// It is there, and nothing that is recorded needs it.
    Surplus,
    /// A record says that it is there, and it is not.
    Lack,
}

/// What kind of thing. The order is that of repair: what uses something goes before what is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// A process.
    Process,
    /// A cgroup, in whatever hierarchies, with what runs in it.
    Cgroup,
    /// A mount.
    Mount,
    /// A network interface.
    Interface,
    /// An address given out.
    Lease,
    /// The pods' bridge.
    Bridge,
    /// The packet filter's table, or something in it.
    Nftables,
    /// A container's root file system.
    Snapshot,
    /// An unpacked layer.
    Layer,
    /// A blob in the image store.
    Blob,
    /// An image.
    Image,
    /// A record of the engine.
    Record,
    /// A file.
    File,
    /// A directory.
    Directory,
}

/// How it can be put right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// Not by the doctor; why, and what the operator can do.
    None(String),
    /// Take away what is mounted there.
    Unmount(PathBuf),
    /// Kill what runs in the group and below, and remove it in every hierarchy.
    RemoveGroup(String),
    /// Kill a process, if it still is the one that started then (in clock ticks since boot).
    Kill {
        /// Its number.
        pid: i32,
        /// When it started.
        started: u64,
    },
    /// Delete a pod's interface.
    DeleteLink(String),
    /// Give an address back.
    ReleaseLease {
        /// Whose it was.
        sandbox: String,
        /// The address.
        ip: IpAddr,
    },
    /// Make the packet filter's table what it should be.
    ReplaceTable,
    /// Remove a container's root file system.
    RemoveSnapshot(String),
    /// Remove something of the image store.
    Discard(PathBuf),
    /// Remove a file.
    RemoveFile(PathBuf),
    /// Remove a directory of the engine's with what is in it.
    RemoveDirectory(PathBuf),
    /// What the agent's part of the doctor does about a path of its own.
    Agent(PathBuf),
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "state", content = "reason")]
pub enum Outcome {
    /// Nothing was done.
    Found,
    /// It is put right.
    Repaired,
    /// It is as it was, and why.
    NotRepaired(String),
}

/// A finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// Too much or too little.
    pub class: Class,
    /// What kind of thing.
    pub kind: Kind,
    /// Its name; with class and kind it makes the finding the same in a second look.
    pub name: String,
    /// What it is.
    pub what: String,
    /// Why it is known to be this instance's.
    pub ours: String,
    /// Which step ought to have removed or made it.
    pub step: String,
    /// Since when it is there, where that is known.
    #[serde(rename = "ageSeconds", serialize_with = "age")]
    pub since: Option<SystemTime>,
    /// The sandbox or container that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// How it can be put right.
    #[serde(skip)]
    pub remedy: Remedy,
    /// What became of it.
    pub outcome: Outcome,
}

impl Finding {
    /// A surplus of which no more is known yet.
    #[must_use]
    pub fn surplus(kind: Kind, name: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(Class::Surplus, (kind, name.into()), what.into())
    }

    /// A lack: nothing is put right by the doctor unless a remedy is added.
    #[must_use]
    pub fn lack(kind: Kind, name: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(Class::Lack, (kind, name.into()), what.into())
    }

    fn new(class: Class, (kind, name): (Kind, String), what: String) -> Self {
        let (ours, step, remedy) = (String::new(), String::new(), Remedy::None(String::new()));
        Self {
            class,
            kind,
            name,
            what,
            ours,
            step,
            since: None,
            owner: None,
            remedy,
            outcome: Outcome::Found,
        }
    }

    /// Why it is known to be this instance's.
    #[must_use]
    pub fn ours(mut self, why: impl Into<String>) -> Self {
        self.ours = why.into();
        self
    }

    /// Which step ought to have removed or made it.
    #[must_use]
    pub fn step(mut self, step: impl Into<String>) -> Self {
        self.step = step.into();
        self
    }

    /// Since when it is there.
    #[must_use]
    pub fn since(mut self, since: Option<SystemTime>) -> Self {
        self.since = since;
        self
    }

    /// The sandbox or container that it is about.
    #[must_use]
    pub fn owner(mut self, id: impl Into<String>) -> Self {
        self.owner = Some(id.into());
        self
    }

    /// How it can be put right.
    #[must_use]
    pub fn remedy(mut self, remedy: Remedy) -> Self {
        self.remedy = remedy;
        self
    }

    /// Whether it is the finding of another look.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.class == other.class && self.kind == other.kind && self.name == other.name
    }

    /// How long it has been there.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.since.and_then(|since| SystemTime::now().duration_since(since).ok())
    }
}

fn age<S: Serializer>(since: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    let age = since.and_then(|since| SystemTime::now().duration_since(since).ok());
    age.map(|age| age.as_secs()).serialize(serializer)
}
