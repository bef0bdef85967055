//! Compiles the protocol files to Rust, without needing `protoc`, and writes their descriptors beside the code.

use std::{env, error::Error, fs, path::PathBuf};

/// Messages that carry passwords; their `Debug` is written by hand.
const SECRETS: [&str; 2] = [".runtime.v1.AuthConfig", ".pintle.v1.RegistryAuth"];

/// Images go through here: their bytes stay where they arrived.
const BULK: &str = ".pintle.v1.Chunk";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).open_files(["runtime/v1/api.proto", "pintle/v1/pintle.proto"])?;
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out_dir.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .btree_map(".")
        .bytes(BULK)
        .skip_debug(SECRETS)
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
