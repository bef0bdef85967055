//! Compiles `src/pause.rs` alone, for the target the crate is built for, into a static ELF image that the library
//! embeds. In: cargo's `RUSTC`, `TARGET`, `OUT_DIR` and, if set, the target's linker. Out: `$OUT_DIR/pause`.

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

const CODE: [&str; 5] = ["opt-level=z", "panic=abort", "relocation-model=static", "strip=symbols", "lto=fat"];
const LINK: [&str; 7] = [
    "-nostartfiles",
    "-nostdlib",
    "-static",
    "-no-pie",
    "-Wl,--build-id=none",
    "-Wl,-z,noseparate-code",
    "-Wl,-z,noexecstack",
];

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=src/pause.rs");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    match compile() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            println!("cargo::error=the pause process cannot be built: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn compile() -> Result<(), String> {
    let variable = |name: &str| env::var(name).map_err(|error| format!("{name}: {error}"));
    let output = PathBuf::from(variable("OUT_DIR")?).join("pause");
    let mut rustc = Command::new(variable("RUSTC")?);
    rustc.args(["--edition=2024", "--crate-name=pause", "--crate-type=bin", "src/pause.rs", "--target"]);
    rustc.arg(variable("TARGET")?).arg("-o").arg(&output);
    for option in CODE {
        rustc.args(["-C", option]);
    }
    for option in LINK {
        rustc.arg("-C").arg(format!("link-arg={option}"));
    }
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.arg("-C").arg(format!("linker={linker}"));
    }
    let status = rustc.status().map_err(|error| format!("running {rustc:?}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{rustc:?}: {status}")) }
}
