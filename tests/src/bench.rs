//! `cargo bench-wayside`: what Wayside costs, each figure beside what others pay in the same run.
//!
//! Invariant: a figure is measured in the run that prints it, or is not printed; a missed budget is printed like a met one. A suite that lacks
//! what it needs is an error, never an empty success. Not here: whether anything is right, which the tests say.

pub mod recorded;
pub mod spool;
pub mod wire;

use serde::Serialize;

/// One line of the output.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    pub suite: &'static str,
    pub name: String,
    pub value: f64,
    pub unit: &'static str,
    /// What it is compared with: another way to do it, or "budget".
    pub peer: &'static str,
    /// Value by that of the peer: below one is better than it, where less is better.
    pub ratio: f64,
    /// How many items were measured.
    pub n: u64,
}

pub struct Suite {
    pub name: &'static str,
    pub about: &'static str,
    /// Hands each figure over as soon as it has it.
    pub run: fn(&mut dyn FnMut(Figure)) -> anyhow::Result<()>,
}

pub const SUITES: &[Suite] = &[
    Suite { name: "wire", about: "bytes and time per reading on the wire, against JSON, protobuf and CBOR", run: wire::run },
    Suite { name: "spool", about: "bytes and time of the device's spool, against a row per reading", run: spool::run },
];

/// The suites of these names; all where there are none.
pub fn named(names: &[String]) -> Result<Vec<&'static Suite>, String> {
    if names.is_empty() {
        return Ok(SUITES.iter().collect());
    }
    let known = || SUITES.iter().map(|suite| suite.name).collect::<Vec<_>>().join(", ");
    names
        .iter()
        .map(|name| SUITES.iter().find(|suite| suite.name == name).ok_or_else(|| format!("no suite {name:?}; there are: {}", known())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_that_does_not_exist_is_named_with_those_that_do() {
        assert_eq!(named(&["wire".into()]).unwrap().len(), 1);
        assert_eq!(named(&[]).unwrap().len(), SUITES.len());
        assert!(named(&["wires".into()]).err().unwrap().contains("there are: wire"));
    }
}
