//! Sensors on an I²C bus, one file a chip, on embedded-hal's traits.
//!
//! Invariant: a chip that is absent, silent or another one is a fault at this position; the next position tries again from the
//! start. Not here: the bus itself (linux-embedded-hal's, or a mock's).

pub mod bme280;
