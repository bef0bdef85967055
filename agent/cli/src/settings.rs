//! Which sockets to talk to and how long to wait: flags, then variables, then crictl's configuration file, then defaults.
//!
//! In: [`GlobalArgs`], `/etc/crictl.yaml` or the file that `--config` names. Out: [`Settings`]. A file that was not named and
//! is not there is none. Keys that are crictl's own affair are passed over, others are refused.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use crate::{duration, error::CliError};

/// Pintle's own socket.
const DEFAULT_ENDPOINT: &str = "unix:///run/pintle/pintle.sock";
const DEFAULT_FILE: &str = "/etc/crictl.yaml";
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Flags before the verb.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct GlobalArgs {
    /// Socket of the container runtime [default: unix:///run/pintle/pintle.sock]
    #[arg(short = 'r', long, value_name = "ENDPOINT", env = "CONTAINER_RUNTIME_ENDPOINT")]
    pub runtime_endpoint: Option<String>,
    /// Socket of the image service, when it is another one
    #[arg(short = 'i', long, value_name = "ENDPOINT", env = "IMAGE_SERVICE_ENDPOINT")]
    pub image_endpoint: Option<String>,
    /// Limit for each call, e.g. 30s or 2m [default: 10s for calls that only read, none for others]
    #[arg(short = 't', long, value_name = "DURATION", value_parser = duration::parse)]
    pub timeout: Option<Duration>,
    /// Tell on stderr which calls are made and how long they take
    #[arg(short = 'D', long)]
    pub debug: bool,
    /// Configuration file in crictl's format [default: /etc/crictl.yaml, if it is there]
    #[arg(short = 'c', long = "config", id = "client_config", value_name = "FILE", env = "CRI_CONFIG_FILE")]
    pub config: Option<PathBuf>,
}

/// What a run goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Socket of the container runtime.
    pub runtime_endpoint: String,
    /// Socket of the image service, when it is another one.
    pub image_endpoint: Option<String>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) debug: bool,
}

/// The file, with the keys of crictl 1.33.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct ConfigFile {
    runtime_endpoint: String,
    image_endpoint: String,
    /// Seconds; 0 is the default.
    timeout: i64,
    debug: bool,
    #[serde(rename = "pull-image-on-create")]
    _pull_image_on_create: bool,
    #[serde(rename = "disable-pull-on-run")]
    _disable_pull_on_run: bool,
}

impl Settings {
    /// Puts together what was said.
    pub fn of(args: GlobalArgs) -> Result<Self, CliError> {
        let file = load(args.config.as_deref(), Path::new(DEFAULT_FILE))?;
        Ok(Self::merged(args, file))
    }

    fn merged(args: GlobalArgs, file: ConfigFile) -> Self {
        let said = |text: String| Some(text).filter(|text| !text.is_empty());
        let seconds = u64::try_from(file.timeout).ok().filter(|seconds| *seconds > 0);
        let runtime = args.runtime_endpoint.and_then(said).or(said(file.runtime_endpoint));
        Self {
            runtime_endpoint: runtime.unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned()),
            image_endpoint: args.image_endpoint.and_then(said).or(said(file.image_endpoint)),
            timeout: args.timeout.or(seconds.map(Duration::from_secs)),
            debug: args.debug || file.debug,
        }
    }
}

fn load(named: Option<&Path>, usual: &Path) -> Result<ConfigFile, CliError> {
    let path = named.unwrap_or(usual);
    let failed = |source| CliError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_none() => {
            return Ok(ConfigFile::default());
        }
        other => other.map_err(failed)?,
    };
    let mut text = String::new();
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    let wrong = |reason: String| CliError::Config { path: path.to_owned(), reason };
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(wrong("larger than 64 KiB".to_owned()));
    }
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(ConfigFile::default());
    }
    serde_saphyr::from_str(&text).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "runtime-endpoint: unix:///file.sock\nimage-endpoint: \"\"\ntimeout: 7\ndebug: true\n\
        pull-image-on-create: false\ndisable-pull-on-run: false\n";

    fn settled(args: GlobalArgs, text: &str) -> Result<Settings, CliError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("crictl.yaml");
        std::fs::write(&path, text).unwrap();
        Settings::of(GlobalArgs { config: Some(path), ..args })
    }

    #[test]
    fn what_is_said_on_the_command_line_goes_before_the_file_and_that_before_the_defaults() {
        let by_file = settled(GlobalArgs::default(), FILE).unwrap();
        let seconds = Some(Duration::from_secs(7));
        let (runtime_endpoint, image_endpoint) = ("unix:///file.sock".to_owned(), None);
        assert_eq!(by_file, Settings { runtime_endpoint, image_endpoint, timeout: seconds, debug: true });
        let args = GlobalArgs {
            runtime_endpoint: Some("unix:///flag.sock".to_owned()),
            timeout: Some(Duration::from_secs(1)),
            ..Default::default()
        };
        let by_flag = settled(args, FILE).unwrap();
        assert_eq!(by_flag.runtime_endpoint, "unix:///flag.sock");
        assert_eq!(by_flag.timeout, Some(Duration::from_secs(1)));
        let by_default = settled(GlobalArgs::default(), "# nothing\n").unwrap();
        assert_eq!((by_default.runtime_endpoint.as_str(), by_default.debug), (DEFAULT_ENDPOINT, false));
        assert_eq!(by_default.timeout, None);
    }

    #[test]
    fn a_file_that_was_named_has_to_be_there_and_make_sense() {
        let named = GlobalArgs { config: Some("/no/such/file".into()), ..Default::default() };
        assert!(matches!(Settings::of(named), Err(CliError::Read { .. })));
        assert!(load(None, Path::new("/no/such/file")).is_ok());
        let error = settled(GlobalArgs::default(), "runtime-endpont: x\n").unwrap_err();
        assert!(error.to_string().contains("runtime-endpont"), "{error}");
    }
}
