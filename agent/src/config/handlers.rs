//! Runtime handlers in the configuration.
//!
//! In: the list in the file, the flags. Out: the handlers, checked; whether their programs are there is not looked at.

use std::path::PathBuf;

use pintle_runtime::RuntimeHandler;
use serde::Deserialize;

/// A handler as the file has it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct HandlerFile {
    name: String,
    path: PathBuf,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    create_args: Vec<String>,
}

/// Those of the file, and those of the command line, which win over the file's of the same name.
pub(super) fn merge(file: Vec<HandlerFile>, flags: &[String]) -> Result<Vec<RuntimeHandler>, String> {
    let written =
        |HandlerFile { name, path, args, create_args }| RuntimeHandler { name, path, args, create_args };
    let mut handlers: Vec<_> = file.into_iter().map(written).collect();
    pintle_runtime::check_runtime_handlers(&handlers)?;
    let mut given = Vec::new();
    for flag in flags {
        let (name, path) =
            flag.split_once('=').ok_or_else(|| format!("--runtime-handler {flag:?} is not NAME=PATH"))?;
        given.push(RuntimeHandler::new(name, path));
    }
    handlers.retain(|handler| given.iter().all(|other| other.name != handler.name));
    handlers.extend(given);
    pintle_runtime::check_runtime_handlers(&handlers)?;
    Ok(handlers)
}
