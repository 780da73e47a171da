//! Hands what libFuzzer makes up to `targets::trust`.
//!
//! Invariant: nothing is decided here. Not here: what must hold.
#![no_main]

#[allow(dead_code)] // Each program runs one of the targets.
#[path = "../src/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::trust(bytes));
