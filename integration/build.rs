//! Compiles `attacker/main.rs`, which the escape tests put into images, into a static program that the library embeds: it
//! has to run in a root with nothing else in it. In: cargo's `RUSTC`, `TARGET`, `OUT_DIR` and, if set, the target's
//! linker. Out: `$OUT_DIR/attacker`.

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

const CODE: [&str; 5] =
    ["opt-level=s", "panic=abort", "target-feature=+crt-static", "relocation-model=static", "strip=symbols"];

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=attacker");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    match compile() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            println!("cargo::error=the attacker cannot be built: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn compile() -> Result<(), String> {
    let variable = |name: &str| env::var(name).map_err(|error| format!("{name}: {error}"));
    let output = PathBuf::from(variable("OUT_DIR")?).join("attacker");
    let mut rustc = Command::new(variable("RUSTC")?);
    rustc.args([
        "--edition=2024",
        "--crate-name=attacker",
        "--crate-type=bin",
        "attacker/main.rs",
        "--target",
    ]);
    rustc.arg(variable("TARGET")?).arg("-o").arg(&output);
    for option in CODE {
        rustc.args(["-C", option]);
    }
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.arg("-C").arg(format!("linker={linker}"));
    }
    let status = rustc.status().map_err(|error| format!("running {rustc:?}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{rustc:?}: {status}")) }
}
