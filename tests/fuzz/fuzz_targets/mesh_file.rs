//! The mesh file: arbitrary text is faults, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = adit::config::parse("mesh.yaml", text);
});
