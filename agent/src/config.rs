//! The configuration file and how the command line's flags override it.
//!
//! In: the text of `/etc/pintle/config.yaml` (`KubeletConfiguration`'s names where a field means the same) and the
//! flags. Out: [`Settings`], checked and with every default filled in. It makes no directory and opens no socket.

mod handlers;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use pintle_runtime::{ImageSettings, RuntimeHandler};
use serde::{Deserialize, Deserializer};

/// Where the configuration is when nobody says otherwise; it need not exist there.
pub(crate) const DEFAULT_CONFIG: &str = "/etc/pintle/config.yaml";
const DEFAULT_MANIFESTS: &str = "/etc/pintle/manifests";
pub(crate) const DEFAULT_ROOT: &str = "/var/lib/pintle";
pub(crate) const DEFAULT_STATE: &str = "/run/pintle";
const DEFAULT_LOGS: &str = "/var/log/pods";
const DEFAULT_SOCKET: &str = "pintle.sock";
const LIBEXEC: [&str; 2] = ["/usr/libexec/pintle/pintle-shim", "/usr/local/libexec/pintle/pintle-shim"];
/// The most bytes a configuration file may have.
const MAX_CONFIG: u64 = 1024 * 1024;

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("read configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not a configuration.
    #[error("{}:{line}: {reason}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The field and what is wrong with it.
        reason: String,
    },
    /// A value does not make sense.
    #[error("{origin}: {field}: {reason}")]
    Invalid {
        /// The file, or `command line`.
        origin: String,
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// No supervisor binary was found.
    #[error("pintle-shim is not beside this binary nor in /usr/libexec/pintle: set shimPath or PINTLE_SHIM")]
    NoShim,
}

/// The configuration file as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct ConfigFile {
    node_name: Option<String>,
    #[serde(alias = "manifestDir")]
    static_pod_path: Option<PathBuf>,
    root_dir: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    listen: Option<String>,
    pod_logs_dir: Option<PathBuf>,
    shim_path: Option<PathBuf>,
    log_level: Option<String>,
    file_check_frequency: Option<Span>,
    audit_relist_period: Option<Span>,
    max_pods: Option<u32>,
    restart_back_off: BackOffFile,
    image_pull_back_off: BackOffFile,
    #[serde(rename = "podCIDR", alias = "podCidr")]
    pod_cidr: Option<String>,
    registry_config_dir: Option<PathBuf>,
    registry_auth_file: Option<PathBuf>,
    image_credential_provider_config: Option<PathBuf>,
    image_credential_provider_bin_dir: Option<PathBuf>,
    image_signature_policy: Option<PathBuf>,
    image_signature_verifier: Option<PathBuf>,
    image_pull_progress_deadline: Option<Span>,
    pinned_images: Vec<String>,
    streaming_listen: Option<SocketAddr>,
    #[serde(rename = "clusterDNS")]
    cluster_dns: Vec<String>,
    cluster_domain: Option<String>,
    cgroup_root: Option<String>,
    system_reserved: Reserved,
    seccomp_default: Option<bool>,
    runtime_handlers: Vec<handlers::HandlerFile>,
    container_log_max_size: Option<Quantity>,
    container_log_max_files: Option<u32>,
    container_log_monitor_interval: Option<Span>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct BackOffFile {
    initial: Option<Span>,
    max: Option<Span>,
    reset: Option<Span>,
}

/// What is kept back from pods.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Reserved {
    /// CPU time.
    pub(crate) cpu: Option<Quantity>,
    /// Memory.
    pub(crate) memory: Option<Quantity>,
}

/// The flags that override the file; absent ones leave it as it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flags {
    /// `--manifests`.
    pub(crate) manifests: Option<PathBuf>,
    /// `--root`.
    pub(crate) root: Option<PathBuf>,
    /// `--state`.
    pub(crate) state: Option<PathBuf>,
    /// `--listen`.
    pub(crate) listen: Option<String>,
    /// `--node-name`.
    pub(crate) node_name: Option<String>,
    /// `--pod-cidr`.
    pub(crate) pod_cidr: Option<String>,
    /// `--registry-config`.
    pub(crate) registry_config: Option<PathBuf>,
    /// The flags about images.
    pub(crate) images: ImageFlags,
    /// `--streaming-listen`.
    pub(crate) streaming: Option<SocketAddr>,
    /// `--log-level`.
    pub(crate) log_level: Option<String>,
    /// `--runtime-handler`, each `NAME=PATH`.
    pub(crate) runtime_handlers: Vec<String>,
}

/// How images are come by, besides where registries are.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub(crate) struct ImageFlags {
    /// Credentials for registries: a file such as docker's config.json
    #[arg(long = "registry-auth-file", value_name = "FILE")]
    pub(crate) auth_file: Option<PathBuf>,
    /// The kubelet's CredentialProviderConfig
    #[arg(long = "image-credential-provider-config", value_name = "FILE")]
    pub(crate) provider_config: Option<PathBuf>,
    /// The directory of the programs it names
    #[arg(long = "image-credential-provider-bin-dir", value_name = "DIR")]
    pub(crate) provider_programs: Option<PathBuf>,
    /// Which images may be pulled, as in containers-policy.json
    #[arg(long = "image-signature-policy", value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    /// The program that verifies the signatures it asks for
    #[arg(long = "image-signature-verifier", value_name = "PROGRAM")]
    pub(crate) verifier: Option<PathBuf>,
}

/// Everything a daemon is told, checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    /// The node's name.
    pub(crate) node_name: String,
    /// Where manifests are.
    pub(crate) manifests: PathBuf,
    /// The persistent directory.
    pub(crate) root: PathBuf,
    /// The directory that does not outlive a boot.
    pub(crate) state: PathBuf,
    /// The socket's path.
    pub(crate) socket: PathBuf,
    /// Where pods' logs are.
    pub(crate) pod_logs: PathBuf,
    /// The supervisor's binary, if it was said where it is.
    pub(crate) shim: Option<PathBuf>,
    /// One of the five levels.
    pub(crate) log_level: String,
    /// How often all manifests are read.
    pub(crate) file_check: Duration,
    /// How often the runtime is relisted.
    pub(crate) audit_relist: Duration,
    /// The most pods.
    pub(crate) max_pods: u32,
    /// Between restarts of a container.
    pub(crate) restart: BackOff,
    /// Between pulls of an image.
    pub(crate) pull: BackOff,
    /// The pods' addresses, if they are not to be chosen.
    pub(crate) pod_cidr: Option<String>,
    /// Registries' configuration.
    pub(crate) registry_config: Option<PathBuf>,
    /// How images are come by.
    pub(crate) images: ImageSettings,
    /// Where streaming clients connect.
    pub(crate) streaming: SocketAddr,
    /// Name servers for `ClusterFirst`.
    pub(crate) cluster_dns: Vec<String>,
    /// The cluster's domain.
    pub(crate) cluster_domain: String,
    /// The cgroup above `kubepods`.
    pub(crate) cgroup_root: String,
    /// Kept back from pods.
    pub(crate) reserved: Reserved,
    /// Whether containers that ask for no seccomp profile get the default one.
    pub(crate) seccomp_default: bool,
    /// External OCI runtimes.
    pub(crate) runtime_handlers: Vec<RuntimeHandler>,
    /// Rotation of containers' logs.
    pub(crate) logs: LogLimits,
}

/// A doubling back-off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BackOff {
    /// The first wait.
    pub(crate) initial: Duration,
    /// The longest wait.
    pub(crate) max: Duration,
    /// How long all must be well for the count to start anew.
    pub(crate) reset: Duration,
}

/// When containers' logs are rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogLimits {
    /// Bytes a log may have.
    pub(crate) max_size: u64,
    /// Files kept of one log, the current one included.
    pub(crate) max_files: u32,
    /// How often it is looked.
    pub(crate) interval: Duration,
}

/// Reads the configuration file. `None` means the default one, which may be absent.
pub(crate) fn load(path: Option<&Path>) -> Result<ConfigFile, ConfigError> {
    let file = path.unwrap_or(Path::new(DEFAULT_CONFIG));
    match read_bounded(file) {
        Ok(text) => parse(file, &text),
        Err(e) if path.is_none() && e.kind() == std::io::ErrorKind::NotFound => Ok(ConfigFile::default()),
        Err(source) => Err(ConfigError::Read { path: file.to_owned(), source }),
    }
}

/// Reads a configuration from its text; `path` is for the errors.
fn parse(path: &Path, text: &str) -> Result<ConfigFile, ConfigError> {
    // A file with nothing but comments is an empty configuration.
    if text.lines().all(|line| line.trim_start().starts_with('#') || line.trim().is_empty()) {
        return Ok(ConfigFile::default());
    }
    serde_saphyr::from_str(text).map_err(|e| {
        let bare = e.without_snippet();
        let line = bare.location().map_or(0, |at| at.line());
        ConfigError::Parse { path: path.to_owned(), line, reason: with_field(text, line, &bare.to_string()) }
    })
}

/// What is wrong, after the field that stands in that line; the parser says where itself, which is told already.
fn with_field(text: &str, line: u64, reason: &str) -> String {
    let reason = one_line(reason);
    let reason = reason.split(" at line ").next().unwrap_or(&reason);
    let index = usize::try_from(line).unwrap_or(0).checked_sub(1);
    let key = index.and_then(|index| text.lines().nth(index)?.split_once(':')).map(|(key, _)| key.trim());
    match key.filter(|key| !key.is_empty() && key.chars().all(char::is_alphanumeric) && !reason.contains(key))
    {
        Some(key) => format!("{key}: {reason}"),
        None => reason.to_owned(),
    }
}

fn check_log_level(level: &str) -> Result<(), String> {
    match level {
        "error" | "warn" | "info" | "debug" | "trace" => Ok(()),
        other => Err(format!("{other:?} is none of error, warn, info, debug, trace")),
    }
}

/// Merges file and flags and fills in the defaults.
pub(crate) fn settle(file: ConfigFile, flags: Flags, origin: &str) -> Result<Settings, ConfigError> {
    let root = flags.root.or(file.root_dir).unwrap_or_else(|| DEFAULT_ROOT.into());
    let state = flags.state.or(file.state_dir).unwrap_or_else(|| DEFAULT_STATE.into());
    let invalid = |field, reason: &str| ConfigError::Invalid {
        origin: origin.to_owned(),
        field,
        reason: reason.to_owned(),
    };
    let root = absolute(&root).map_err(|r| invalid("rootDir", &r))?;
    let state = absolute(&state).map_err(|r| invalid("stateDir", &r))?;
    let manifests = flags.manifests.or(file.static_pod_path).unwrap_or_else(|| DEFAULT_MANIFESTS.into());
    let socket = match flags.listen.or(file.listen) {
        Some(listen) => socket_path(&listen).map_err(|r| invalid("listen", &r))?,
        None => state.join(DEFAULT_SOCKET),
    };
    let default_logs =
        if root == Path::new(DEFAULT_ROOT) { PathBuf::from(DEFAULT_LOGS) } else { root.join("log/pods") };
    let node_name = flags.node_name.or(file.node_name).unwrap_or_else(host_name);
    check_node_name(&node_name).map_err(|r| invalid("nodeName", &r))?;
    let log_level = flags.log_level.or(file.log_level).unwrap_or_else(|| "info".into());
    check_log_level(&log_level).map_err(|r| invalid("logLevel", &r))?;
    Ok(Settings {
        node_name,
        manifests: absolute(&manifests).map_err(|r| invalid("staticPodPath", &r))?,
        pod_logs: file.pod_logs_dir.unwrap_or(default_logs),
        shim: file.shim_path,
        log_level,
        file_check: positive(file.file_check_frequency, 20).map_err(|r| invalid("fileCheckFrequency", &r))?,
        audit_relist: positive(file.audit_relist_period, 60).map_err(|r| invalid("auditRelistPeriod", &r))?,
        max_pods: file.max_pods.unwrap_or(110),
        restart: back_off(&file.restart_back_off).map_err(|r| invalid("restartBackOff", &r))?,
        pull: back_off(&file.image_pull_back_off).map_err(|r| invalid("imagePullBackOff", &r))?,
        pod_cidr: flags.pod_cidr.or(file.pod_cidr),
        registry_config: flags.registry_config.or(file.registry_config_dir),
        images: ImageSettings {
            auth_file: flags.images.auth_file.or(file.registry_auth_file),
            credential_providers: flags.images.provider_config.or(file.image_credential_provider_config),
            credential_provider_programs: flags
                .images
                .provider_programs
                .or(file.image_credential_provider_bin_dir),
            policy: flags.images.policy.or(file.image_signature_policy),
            verifier: flags.images.verifier.or(file.image_signature_verifier),
            pinned: file.pinned_images,
            progress_deadline: Some(
                positive(file.image_pull_progress_deadline, 60)
                    .map_err(|r| invalid("imagePullProgressDeadline", &r))?,
            ),
        },
        streaming: flags.streaming.or(file.streaming_listen).unwrap_or(pintle_runtime::DEFAULT_STREAMING),
        cluster_dns: file.cluster_dns,
        cluster_domain: file.cluster_domain.unwrap_or_else(|| "cluster.local".into()),
        cgroup_root: cgroup_root(file.cgroup_root, &state).map_err(|r| invalid("cgroupRoot", &r))?,
        reserved: file.system_reserved,
        seccomp_default: file.seccomp_default.unwrap_or(true),
        runtime_handlers: handlers::merge(file.runtime_handlers, &flags.runtime_handlers)
            .map_err(|r| invalid("runtimeHandlers", &r))?,
        logs: LogLimits {
            max_size: bytes(file.container_log_max_size.as_ref())
                .map_err(|r| invalid("containerLogMaxSize", &r))?
                .unwrap_or(10 * 1024 * 1024),
            max_files: file.container_log_max_files.unwrap_or(5).max(2),
            interval: positive(file.container_log_monitor_interval, 10)
                .map_err(|r| invalid("containerLogMonitorInterval", &r))?,
        },
        root,
        state,
        socket,
    })
}

/// The supervisor's binary: as configured, `PINTLE_SHIM`, beside this binary, or where `make install` puts it.
pub(crate) fn find_shim(configured: Option<&Path>) -> Result<PathBuf, ConfigError> {
    let named = configured.map(Path::to_owned).or_else(|| std::env::var_os("PINTLE_SHIM").map(PathBuf::from));
    if let Some(path) = named {
        return Ok(path);
    }
    let beside = std::env::current_exe().ok().map(|exe| exe.with_file_name("pintle-shim"));
    beside
        .into_iter()
        .chain(LIBEXEC.map(PathBuf::from))
        .find(|path| path.is_file())
        .ok_or(ConfigError::NoShim)
}

/// What distinguishes this instance's names on the host from another's: nothing for the default state directory.
pub(crate) fn instance_tag(state: &Path) -> String {
    use std::fmt::Write as _;
    use std::os::unix::ffi::OsStrExt as _;
    if state == Path::new(DEFAULT_STATE) {
        return String::new();
    }
    let digest = <sha2::Sha256 as sha2::Digest>::digest(state.as_os_str().as_bytes());
    digest.iter().take(4).fold(String::new(), |mut tag, byte| {
        write!(tag, "{byte:02x}").expect("writing to a String cannot fail");
        tag
    })
}

fn cgroup_root(configured: Option<String>, state: &Path) -> Result<String, String> {
    let tag = instance_tag(state);
    let default = || if tag.is_empty() { "/".to_owned() } else { format!("/pintle-{tag}") };
    let root = configured.unwrap_or_else(default);
    let sound = root.starts_with('/') && !root.split('/').any(|part| part == ".." || part == ".");
    if sound { Ok(root) } else { Err(format!("{root:?} is not an absolute cgroup path")) }
}

fn read_bounded(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_CONFIG + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_CONFIG {
        return Err(std::io::Error::other(format!("more than {MAX_CONFIG} bytes")));
    }
    Ok(text)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn absolute(path: &Path) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn socket_path(listen: &str) -> Result<PathBuf, String> {
    let path = pintle_cri_api::socket_path(listen).map_err(|e| e.to_string())?;
    if path.is_absolute() { Ok(path) } else { Err(format!("{listen:?} is not an absolute path")) }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().to_lowercase()
}

fn check_node_name(name: &str) -> Result<(), String> {
    let sound = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if !name.is_empty() && name.len() <= 253 && name.chars().all(sound) {
        return Ok(());
    }
    Err(format!("{name:?} is not a lower-case DNS name"))
}

fn positive(span: Option<Span>, default_seconds: u64) -> Result<Duration, String> {
    match span {
        None => Ok(Duration::from_secs(default_seconds)),
        Some(Span(span)) if span.is_zero() => Err("must be more than 0s".into()),
        Some(Span(span)) => Ok(span),
    }
}

fn back_off(file: &BackOffFile) -> Result<BackOff, String> {
    let (initial, max) = (positive(file.initial, 10)?, positive(file.max, 300)?);
    if initial > max {
        return Err(format!("initial {initial:?} is longer than max {max:?}"));
    }
    Ok(BackOff { initial, max, reset: positive(file.reset, 600)? })
}

fn bytes(quantity: Option<&Quantity>) -> Result<Option<u64>, String> {
    let Some(Quantity(text)) = quantity else { return Ok(None) };
    let size = pintle_core::quantity::Quantity::parse(text).map_err(|e| e.to_string())?.value();
    u64::try_from(size)
        .ok()
        .filter(|size| *size > 0)
        .map(Some)
        .ok_or_else(|| format!("{text:?} is not a size"))
}

/// A duration as Kubernetes writes it (`metav1.Duration`): `1m30s`.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Span(Duration);

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        parse_span(&text)
            .map(Span)
            .ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not a duration such as 1m30s")))
    }
}

fn parse_span(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u32 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_len = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..unit_len] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => return None,
        };
        total = total.checked_add(unit.checked_mul(number)?)?;
        rest = &rest[unit_len..];
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(text: &str, flags: Flags) -> Result<Settings, ConfigError> {
        settle(parse(Path::new("/etc/pintle/config.yaml"), text)?, flags, "/etc/pintle/config.yaml")
    }

    #[test]
    fn the_documented_default_file_says_what_the_defaults_are() {
        let documented = settled(include_str!("../config.yaml"), Flags::default()).expect("the file parses");
        let built_in = settled("", Flags::default()).expect("defaults");
        assert_eq!(documented, built_in);
    }

    #[test]
    fn an_unknown_field_is_refused_with_file_line_and_name() {
        let error = settled("maxPods: 10\nmaxPodz: 20\n", Flags::default()).expect_err("refused").to_string();
        assert!(error.starts_with("/etc/pintle/config.yaml:2: "), "{error}");
        assert!(error.contains("maxPodz"), "{error}");
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_refused_with_its_line() {
        let error = settled("nodeName: a\nfileCheckFrequency: soon\n", Flags::default())
            .expect_err("refused")
            .to_string();
        assert!(error.starts_with("/etc/pintle/config.yaml:2: "), "{error}");
        assert!(error.contains("\"soon\" is not a duration"), "{error}");
    }

    #[test]
    fn a_number_that_is_none_and_a_level_that_is_none_are_refused_by_their_field() {
        let told = |text| settled(text, Flags::default()).expect_err("refused").to_string();
        let error = told("nodeName: a\nmaxPods: many\n");
        assert!(error.starts_with("/etc/pintle/config.yaml:2: maxPods: "), "{error}");
        assert!(!error.contains("at line"), "the place is told once: {error}");
        assert!(told("logLevel: loud\n").contains("logLevel: \"loud\" is none of error, warn"));
    }

    #[test]
    fn flags_override_the_file() {
        let flags = Flags {
            root: Some("/srv/p".into()),
            state: Some("/run/p2".into()),
            listen: Some("unix:///run/p2.sock".into()),
            node_name: Some("n2".into()),
            ..Flags::default()
        };
        let s = settled("nodeName: n1\nrootDir: /var/x\nmaxPods: 3\n", flags).expect("settles");
        assert_eq!((s.node_name.as_str(), s.max_pods), ("n2", 3));
        assert_eq!(s.pod_logs, Path::new("/srv/p/log/pods"));
        assert_eq!(s.socket, Path::new("/run/p2.sock"));
        assert!(s.cgroup_root.starts_with("/pintle-") && s.cgroup_root.len() == 16, "{}", s.cgroup_root);
    }

    #[test]
    fn the_default_instance_has_no_tag_and_logs_where_kubernetes_does() {
        let s = settled("", Flags::default()).expect("settles");
        assert_eq!((s.cgroup_root.as_str(), s.pod_logs.as_path()), ("/", Path::new("/var/log/pods")));
        assert_eq!(instance_tag(&s.state), "");
    }

    #[test]
    fn nonsense_is_refused_by_field() {
        for (text, field) in [
            ("fileCheckFrequency: 0s", "fileCheckFrequency"),
            ("restartBackOff: {initial: 10m}", "restartBackOff"),
            ("listen: tcp://0.0.0.0:1", "listen"),
            ("nodeName: Not_A_Name", "nodeName"),
            ("cgroupRoot: ../up", "cgroupRoot"),
            ("containerLogMaxSize: 10Q", "containerLogMaxSize"),
        ] {
            let error = settled(text, Flags::default()).expect_err(text).to_string();
            assert!(error.contains(&format!(": {field}: ")), "{error}");
        }
    }

    #[test]
    fn runtime_handlers_are_read_checked_and_overridden_by_name() {
        let file = "runtimeHandlers:\n- name: runc\n  path: /usr/sbin/runc\n- name: gvisor\n  path: /opt/runsc\n  \
                    args: [--platform=systrap]\n  createArgs: [--no-pivot]\n";
        let flags = Flags { runtime_handlers: vec!["runc=/opt/runc".to_owned()], ..Flags::default() };
        let handlers = settled(file, flags).expect("settles").runtime_handlers;
        let gvisor = RuntimeHandler {
            args: vec!["--platform=systrap".to_owned()],
            create_args: vec!["--no-pivot".to_owned()],
            ..RuntimeHandler::new("gvisor", "/opt/runsc")
        };
        assert_eq!(handlers, [gvisor, RuntimeHandler::new("runc", "/opt/runc")]);
        for (text, flag, reason) in [
            ("runtimeHandlers:\n- {name: Runc, path: /r}\n", None, ": runtimeHandlers: [0].name: \"Runc\""),
            (
                "runtimeHandlers:\n- {name: runc, path: runc}\n",
                None,
                "[0].path: runc is not an absolute path",
            ),
            ("runtimeHandlers:\n- {name: runc}\n", None, "path"),
            ("runtimeHandlers:\n- {name: runc, path: /r, binary: x}\n", None, "binary"),
            ("runtimeHandlers:\n- {name: a, path: /r}\n- {name: a, path: /s}\n", None, "twice"),
            ("", Some("runc"), "--runtime-handler \"runc\" is not NAME=PATH"),
            ("", Some("=/r"), "[0].name"),
        ] {
            let flags =
                Flags { runtime_handlers: flag.map(str::to_owned).into_iter().collect(), ..Flags::default() };
            let error = settled(text, flags).expect_err(text).to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn durations_are_read_as_kubernetes_writes_them() {
        for (text, millis) in
            [("20s", 20_000), ("1m30s", 90_000), ("1h", 3_600_000), ("500ms", 500), ("0", 0)]
        {
            assert_eq!(parse_span(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "10", "10 s", "-1s", "1.5s", "99999999999s"] {
            assert_eq!(parse_span(text), None, "{text}");
        }
    }
}
