//! Runtime handlers: names under which pods ask for an OCI runtime that is a program of its own.
//!
//! In: what the operator configured. Out: for a pod's handler the program to hand to its supervisor and what it can do,
//! asked of the program itself once, in the background; or why it cannot be had. "" is the native engine, which is none
//! of these. A handler whose program is missing is looked for again with every pod that asks for it.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use pintle_shim_protocol::OciRuntime;
use serde::Deserialize;
use tokio::{io::AsyncReadExt as _, process::Command, sync::OnceCell, time::timeout};

use super::error::{Error, Result};

/// The most handlers; each program is asked what it can do when the engine opens.
pub const MAX_HANDLERS: usize = 16;
/// The most options of one handler's program, and their bytes together.
const MAX_OPTIONS: usize = 64;
const MAX_OPTION_BYTES: usize = 16 * 1024;
/// Kubernetes' limit on `RuntimeClass.handler`, a DNS label.
const MAX_NAME: usize = 63;
/// How long a program may take to say what it can do, and how much it may say.
const ASK_LIMIT: Duration = Duration::from_secs(5);
const MAX_ANSWER: u64 = 256 * 1024;
/// All of the environment of a program that is asked.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What the supervisor decides by itself.
const OUR_OPTIONS: [&str; 9] = [
    "--root",
    "--log",
    "--log-format",
    "--systemd-cgroup",
    "--bundle",
    "-b",
    "--pid-file",
    "--console-socket",
    "--detach",
];

/// A handler as the operator names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeHandler {
    /// What pods ask for.
    pub name: String,
    /// The program, with runc's command line.
    pub path: PathBuf,
    /// Options before the verb of each call.
    pub args: Vec<String>,
    /// Options of `create`.
    pub create_args: Vec<String>,
}

impl RuntimeHandler {
    /// A handler without options.
    #[must_use]
    pub fn new(name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self { name: name.into(), path: path.into(), args: Vec::new(), create_args: Vec::new() }
    }
}

/// Checks what was configured.
///
/// # Errors
/// With the handler, the field and what is wrong with it. Whether the program is there is not looked at.
pub fn check(handlers: &[RuntimeHandler]) -> std::result::Result<(), String> {
    if handlers.len() > MAX_HANDLERS {
        return Err(format!("{} handlers, and there may be {MAX_HANDLERS}", handlers.len()));
    }
    for (at, handler) in handlers.iter().enumerate() {
        let wrong = |field: &str, reason: String| Err(format!("[{at}].{field}: {reason}"));
        let name = &handler.name;
        if !is_label(name) {
            let reason = format!("{name:?} is not a DNS label (a-z, 0-9 and - inside, 1 to {MAX_NAME} long)");
            return wrong("name", reason);
        }
        if handlers[..at].iter().any(|other| other.name == *name) {
            return wrong("name", format!("{name:?} is there twice"));
        }
        let plain = handler.path.to_str().is_some_and(|path| !path.contains(char::is_control));
        if !handler.path.is_absolute() || !plain {
            return wrong("path", format!("{} is not an absolute path", handler.path.display()));
        }
        check_options(&handler.args).or_else(|reason| wrong("args", reason))?;
        check_options(&handler.create_args).or_else(|reason| wrong("createArgs", reason))?;
    }
    Ok(())
}

fn is_label(name: &str) -> bool {
    let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=MAX_NAME).contains(&name.len())
        && name.chars().all(inside)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn check_options(options: &[String]) -> std::result::Result<(), String> {
    if options.len() > MAX_OPTIONS || options.iter().map(String::len).sum::<usize>() > MAX_OPTION_BYTES {
        return Err(format!("more than {MAX_OPTIONS} options or {MAX_OPTION_BYTES} bytes"));
    }
    if options.iter().any(|option| option.is_empty() || option.contains('\0')) {
        return Err("an option is empty or holds a zero byte".to_owned());
    }
    let name = |option: &str| option.split('=').next().unwrap_or_default().to_owned();
    match options.iter().find(|option| OUR_OPTIONS.contains(&name(option).as_str())) {
        Some(option) => Err(format!("{option:?} is decided by the supervisor")),
        None => Ok(()),
    }
}

/// What a runtime can do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Facts {
    /// Mounts that are read-only with everything below them.
    pub recursive_read_only: bool,
    /// Mounts with mapped ids.
    pub id_mapped_mounts: bool,
    /// `exec --cgroup`.
    pub exec_cgroup: bool,
}

/// A handler's program, and what it can do.
#[derive(Debug, Clone)]
pub struct External {
    /// The handler's name.
    pub handler: String,
    /// For the supervisor.
    pub runtime: OciRuntime,
    /// What it says of itself.
    pub facts: Facts,
}

/// One configured handler.
#[derive(Debug)]
pub struct Handler {
    /// As configured.
    pub config: RuntimeHandler,
    facts: OnceCell<Facts>,
}

/// All configured handlers.
#[derive(Debug)]
pub struct Handlers {
    all: Vec<Handler>,
}

impl Handlers {
    /// The handlers of a configuration.
    ///
    /// # Errors
    /// As [`check`].
    pub fn new(configured: &[RuntimeHandler]) -> Result<Self> {
        check(configured).map_err(|reason| Error::InvalidArgument(format!("runtime handlers{reason}")))?;
        let all = configured.iter().map(|config| Handler { config: config.clone(), facts: OnceCell::new() });
        Ok(Self { all: all.collect() })
    }

    /// Every handler, in the operator's order.
    pub fn iter(&self) -> impl Iterator<Item = &Handler> {
        self.all.iter()
    }

    /// Asks every program what it can do, in the background.
    pub fn spawn_asking(self: &Arc<Self>) {
        for at in 0..self.all.len() {
            let handlers = Arc::clone(self);
            tokio::spawn(async move {
                let handler = &handlers.all[at];
                if let Err(error) = handler.external().await {
                    tracing::warn!(error = error.chain(), "a runtime handler is not available");
                }
            });
        }
    }

    /// The program for a pod's handler; none for the native engine.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when there is no such handler, [`Error::FailedPrecondition`] when its program cannot be
    /// run.
    pub async fn external(&self, name: &str) -> Result<Option<External>> {
        if name.is_empty() {
            return Ok(None);
        }
        let found = self.all.iter().find(|handler| handler.config.name == name);
        let none = || Error::InvalidArgument(format!("there is no runtime handler {name:?}"));
        found.ok_or_else(none)?.external().await.map(Some)
    }
}

impl Handler {
    /// What is known of the program by now.
    pub fn facts(&self) -> Option<Facts> {
        self.facts.get().copied()
    }

    /// Why its program cannot be run, if so.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let path = &self.config.path;
        executable(path).err().map(|error| format!("{}: {error}", path.display()))
    }

    async fn external(&self) -> Result<External> {
        let RuntimeHandler { name, path, args, create_args } = &self.config;
        if let Some(trouble) = self.trouble() {
            let text = format!("runtime handler {name:?} is not available: {trouble}");
            return Err(Error::FailedPrecondition(text));
        }
        let facts = *self.facts.get_or_init(|| ask(path, args)).await;
        let runtime = OciRuntime {
            path: path.to_string_lossy().into_owned(),
            args: args.clone(),
            create_args: create_args.clone(),
            exec_cgroup: facts.exec_cgroup,
        };
        Ok(External { handler: name.clone(), runtime, facts })
    }
}

fn executable(path: &Path) -> io::Result<()> {
    let found = fs::metadata(path)?;
    if !found.is_file() {
        return Err(io::Error::other("is not a file"));
    }
    match found.permissions().mode() & 0o111 {
        0 => Err(io::ErrorKind::PermissionDenied.into()),
        _ => Ok(()),
    }
}

/// What the program says it can do. One that cannot be asked can do the least.
async fn ask(path: &Path, args: &[String]) -> Facts {
    let (features, help) =
        tokio::join!(answer(path, args, &["features"]), answer(path, args, &["exec", "--help"]));
    let told = |verb: &str, error: io::Error| {
        tracing::info!(runtime = %path.display(), %error, "the runtime does not answer {verb:?}");
        Vec::new()
    };
    facts(
        &features.unwrap_or_else(|error| told("features", error)),
        &help.unwrap_or_else(|error| told("exec --help", error)),
    )
}

fn facts(features: &[u8], help: &[u8]) -> Facts {
    let Features { mount_options, linux } = serde_json::from_slice(features).unwrap_or_default();
    Facts {
        recursive_read_only: mount_options.iter().any(|option| option == "rro"),
        id_mapped_mounts: linux.mount_extensions.idmap.enabled.unwrap_or(false),
        exec_cgroup: String::from_utf8_lossy(help).contains("--cgroup"),
    }
}

/// What OCI calls the features structure.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Features {
    mount_options: Vec<String>,
    linux: LinuxFeatures,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LinuxFeatures {
    mount_extensions: MountExtensions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MountExtensions {
    idmap: IdMap,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct IdMap {
    enabled: Option<bool>,
}

/// What a call of the program writes, as far as it is taken. It and what it started are gone afterwards.
async fn answer(path: &Path, args: &[String], verb: &[&str]) -> io::Result<Vec<u8>> {
    let mut child = Command::new(path)
        .args(args)
        .args(verb)
        .env_clear()
        .env("PATH", PATH)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let group = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
    let mut text = Vec::new();
    let taken = match child.stdout.take() {
        Some(stdout) => timeout(ASK_LIMIT, stdout.take(MAX_ANSWER).read_to_end(&mut text)).await,
        None => Ok(Ok(0)),
    };
    let ended = timeout(if taken.is_ok() { ASK_LIMIT } else { Duration::ZERO }, child.wait()).await;
    if ended.is_err()
        && let Some(group) = group
    {
        // It is not reaped yet, so that the number is still its group's.
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap_or_default();
        child.wait().await?;
    }
    taken.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    match ended {
        Ok(status) if status.as_ref().is_ok_and(std::process::ExitStatus::success) => Ok(text),
        Ok(status) => Err(io::Error::other(status?.to_string())),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut RuntimeHandler)) -> String {
        let mut handler = RuntimeHandler::new("runc", "/usr/sbin/runc");
        change(&mut handler);
        check(&[RuntimeHandler::new("other", "/x"), handler]).unwrap_err()
    }

    fn script(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("runtime");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn a_handler_that_cannot_be_is_refused_by_its_place_and_field() {
        assert_eq!(check(&[RuntimeHandler::new("runc", "/usr/sbin/runc")]), Ok(()));
        for name in ["", "Runc", "-a", "a-", "a_b", "a.b", &"a".repeat(64)] {
            assert!(
                refused(|handler| name.clone_into(&mut handler.name)).starts_with("[1].name: "),
                "{name}"
            );
        }
        assert!(
            refused(|handler| "other".clone_into(&mut handler.name))
                .contains("[1].name: \"other\" is there twice")
        );
        assert!(
            refused(|handler| handler.path = "runc".into()).starts_with("[1].path: runc is not an absolute")
        );
        for option in ["--root", "--root=/x", "--log", "--systemd-cgroup"] {
            assert!(refused(|handler| handler.args = vec![option.to_owned()]).contains("[1].args: "));
        }
        assert!(refused(|handler| handler.create_args = vec![String::new()]).starts_with("[1].createArgs: "));
        assert!(refused(|handler| handler.args = vec!["x".to_owned(); 65]).contains("more than 64"));
        let many: Vec<_> = (0..17).map(|n| RuntimeHandler::new(format!("h{n}"), "/x")).collect();
        assert!(check(&many).unwrap_err().contains("17 handlers"));
    }

    #[test]
    fn what_a_runtime_says_of_itself_is_taken_as_far_as_it_makes_sense() {
        let features = br#"{"ociVersionMin":"1.0.0","mountOptions":["ro","rro"],
            "linux":{"mountExtensions":{"idmap":{"enabled":true}},"namespaces":["user"]}}"#;
        let all = Facts { recursive_read_only: true, id_mapped_mounts: true, exec_cgroup: true };
        assert_eq!(facts(features, b"   --cgroup value   run in a sub-cgroup"), all);
        assert_eq!(facts(br#"{"mountOptions":["ro"]}"#, b"exec"), Facts::default());
        assert_eq!(facts(b"unknown command: features", b"\xff\xfe"), Facts::default());
    }

    #[tokio::test]
    async fn a_program_that_hangs_or_never_ends_talking_is_asked_in_vain_and_ended() {
        let dir = tempfile::tempdir().unwrap();
        let endless = script(dir.path(), "cat /dev/zero");
        assert!(answer(&endless, &[], &["features"]).await.is_err());
        let begun = std::time::Instant::now();
        let hangs = script(dir.path(), &format!("echo $$ > {}/pid; sleep 1000 & wait", dir.path().display()));
        let error = answer(&hangs, &[], &["features"]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() < 4 * ASK_LIMIT);
        let group = fs::read_to_string(dir.path().join("pid")).unwrap();
        let group = rustix::process::Pid::from_raw(group.trim().parse().unwrap()).unwrap();
        let left = || rustix::process::test_kill_process_group(group).is_ok();
        for _ in 0..500 {
            if left() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        assert!(!left(), "its processes are left");
    }

    #[tokio::test]
    async fn a_handler_is_unknown_or_not_available_until_its_program_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runtime");
        let handlers = Handlers::new(&[RuntimeHandler::new("later", &path)]).unwrap();
        assert!(handlers.external("").await.unwrap().is_none());
        let unknown = handlers.external("kata").await.unwrap_err();
        assert!(matches!(unknown, Error::InvalidArgument(_)), "{unknown}");
        let missing = handlers.external("later").await.unwrap_err();
        assert!(matches!(missing, Error::FailedPrecondition(_)), "{missing}");
        assert!(
            missing.to_string().contains("\"later\" is not available")
                && missing.to_string().contains("No such file")
        );
        script(dir.path(), "[ $1 = features ] && echo '{\"mountOptions\": [\"rro\"]}'; exit 0");
        let found = handlers.external("later").await.unwrap().unwrap();
        assert!(found.facts.recursive_read_only && !found.runtime.exec_cgroup);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(handlers.external("later").await.unwrap_err().to_string().contains("ermission denied"));
    }
}
