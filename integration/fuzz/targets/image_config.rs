//! Fuzzes the documents of an image: manifest, index, configuration.
//!
//! In: JSON. Checked: no panic; what is accepted is within its bounds, reads back as it was written, and has a chain id
//! for each layer.
#![no_main]
#![allow(dead_code, reason = "the modules are those of the image store")]

#[path = "../../../runtime/image/src/content.rs"]
mod content;
#[path = "../../../runtime/image/src/digest.rs"]
mod digest;
#[path = "../../../runtime/image/src/error.rs"]
mod error;
#[path = "../../../runtime/image/src/limits.rs"]
mod limits;
#[path = "../../../runtime/image/src/manifest.rs"]
mod manifest;
#[path = "../../../runtime/image/src/resolve.rs"]
mod resolve;
#[path = "../../../runtime/image/src/tree.rs"]
mod tree;

use error::Error;
use libfuzzer_sys::fuzz_target;
use manifest::{Document, Manifest};

fuzz_target!(|data: &[u8]| {
    match Document::parse(data) {
        Ok(Document::Manifest(manifest)) => check_manifest(&manifest),
        Ok(Document::Index(entries)) => {
            assert!(entries.len() <= limits::INDEX_ENTRIES);
            if let Ok(chosen) = manifest::select_platform(&entries) {
                assert!(entries.contains(chosen));
            }
        }
        Err(error) => check_error(&error),
    }
    for layers in 0..3 {
        match manifest::parse_config(data, layers) {
            Ok(checked) => {
                assert_eq!(checked.diff_ids.len(), layers);
                assert_eq!(manifest::chain_ids(&checked.diff_ids).len(), layers);
                let written = serde_json::to_vec(&checked.config).expect("a configuration is JSON");
                let again = manifest::parse_config(&written, layers).expect("it reads back");
                assert_eq!(again.config, checked.config);
            }
            Err(error) => check_error(&error),
        }
    }
});

fn check_manifest(manifest: &Manifest) {
    assert!(manifest.layers.len() <= limits::LAYERS && manifest.config.size <= limits::CONFIG_BYTES);
    let written = serde_json::to_vec(manifest).expect("a manifest is JSON");
    let Ok(Document::Manifest(again)) = Document::parse(&written) else { panic!("it does not read back") };
    assert_eq!(again.layers, manifest.layers);
    assert_eq!(again.config, manifest.config);
}

fn check_error(error: &Error) {
    let text = error.to_string();
    assert!(text.len() < 8192, "a message of {} bytes", text.len());
    assert!(!error.is_retryable(), "{text} would be tried again");
}
