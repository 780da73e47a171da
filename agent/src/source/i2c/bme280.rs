//! The Bosch BME280: temperature, pressure and humidity, measured once per position in forced mode.
//!
//! Invariant: no reading is made from a chip whose id and calibration were not read since the last fault: it may have been
//! replaced. References are to the datasheet BST-BME280-DS002, revision 1.6. Not here: the modes that measure by themselves.

use std::{path::PathBuf, time::Duration};

use embedded_hal::{delay::DelayNs, i2c::I2c};
use linux_embedded_hal::{Delay, I2cdev};
use wayside_common::{
    reading::Column,
    schedule::{Position, Schedule},
    time::Wall,
};

use crate::source::{Item, Pace, Shape, Source, SourceError};

/// With SDO to ground; 0x77 with SDO to the supply (§6.2).
pub const ADDRESS: u8 = 0x76;
pub const PERIOD: Duration = Duration::from_secs(1);

const CHIP_ID: u8 = 0x60;

/// Registers (§5.3, table 18).
mod register {
    pub const CALIBRATION_1: u8 = 0x88;
    pub const ID: u8 = 0xd0;
    pub const CALIBRATION_2: u8 = 0xe1;
    pub const CTRL_HUM: u8 = 0xf2;
    pub const STATUS: u8 = 0xf3;
    pub const CTRL_MEAS: u8 = 0xf4;
    pub const MEASUREMENT: u8 = 0xf7;
}

/// One sample each of temperature and pressure, then back to sleep (§5.4.5: osrs_t = 001, osrs_p = 001, mode = 01).
const FORCED_ONCE: u8 = (0b001 << 5) | (0b001 << 2) | 0b01;
/// §9.1: with one sample each a measurement takes at most 9.3 ms.
const MEASURE_MS: u32 = 10;
const POLL_MS: u32 = 2;
const POLLS: u32 = 10;

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The bus, as "/dev/i2c-1".
    pub path: PathBuf,
    pub address: u8,
    pub period: Duration,
}

/// Opens no device: a bus that is absent now may be there later.
pub fn open(config: &Config, anchor: Wall) -> impl Source + use<> {
    let path = config.path.clone();
    let bus = move || I2cdev::new(&path).map_err(|error| format!("{}: {error}", path.display()));
    Bme280Source::new(bus, Delay, config, anchor)
}

/// The chip behind `Source`, on whatever bus `open_bus` gives.
struct Bme280Source<O, I, D> {
    open_bus: O,
    delay: D,
    address: u8,
    schedule: Schedule,
    chip: Option<Bme280<I>>,
}

impl<O: FnMut() -> Result<I, String>, I: I2c, D: DelayNs> Bme280Source<O, I, D> {
    fn new(open_bus: O, delay: D, config: &Config, anchor: Wall) -> Self {
        let schedule = Schedule { anchor, period: config.period, count: None };
        Self { open_bus, delay, address: config.address, schedule, chip: None }
    }

    fn measure(&mut self) -> Result<Measurement, String> {
        let mut chip = match self.chip.take() {
            Some(chip) => chip,
            None => Bme280::start((self.open_bus)()?, self.address)?,
        };
        let measurement = chip.measure(&mut self.delay)?;
        // Put back only now: a chip with a fault is started again.
        self.chip = Some(chip);
        Ok(measurement)
    }
}

impl<O, I, D> Source for Bme280Source<O, I, D>
where
    O: FnMut() -> Result<I, String> + Send,
    I: I2c + Send,
    D: DelayNs + Send,
{
    fn shape(&self) -> Shape {
        Shape::Columns(columns().to_vec())
    }

    fn pace(&self) -> Pace {
        Pace::Timed(self.schedule)
    }

    fn read(&mut self, _: Position) -> Result<Item, SourceError> {
        let measurement = self.measure().map_err(|what| SourceError::Fault(format!("BME280 at {:#04x}: {what}", self.address)))?;
        let values = [measurement.celsius, measurement.pascal, measurement.humidity];
        let raw = columns().iter().zip(values).map(|(column, value)| column.quantise(value?)).collect();
        Ok(Item::Reading(raw))
    }
}

fn columns() -> [Column; 3] {
    let column = |name: &str, unit: &str, lsb| Column { name: name.into(), unit: unit.into(), offset: 0.0, lsb };
    [column("temperature", "degC", 0.01), column("pressure", "Pa", 0.25), column("humidity", "%RH", 0.01)]
}

/// `None`: the chip left this quantity out.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Measurement {
    celsius: Option<f64>,
    pascal: Option<f64>,
    humidity: Option<f64>,
}

/// A chip whose identity and calibration are known.
struct Bme280<I> {
    i2c: I,
    address: u8,
    calibration: Calibration,
}

impl<I: I2c> Bme280<I> {
    fn start(mut i2c: I, address: u8) -> Result<Self, String> {
        let mut id = [0];
        i2c.write_read(address, &[register::ID], &mut id).map_err(|e| fault("reading the chip id", &e))?;
        if id[0] != CHIP_ID {
            return Err(format!("chip id is {:#04x}, and a BME280 has {CHIP_ID:#04x}", id[0]));
        }
        let (mut first, mut second) = ([0; 26], [0; 7]);
        i2c.write_read(address, &[register::CALIBRATION_1], &mut first).map_err(|e| fault("reading the calibration", &e))?;
        i2c.write_read(address, &[register::CALIBRATION_2], &mut second).map_err(|e| fault("reading the calibration", &e))?;
        Ok(Self { i2c, address, calibration: Calibration::from_registers(&first, &second) })
    }

    fn measure(&mut self, delay: &mut impl DelayNs) -> Result<Measurement, String> {
        let Self { i2c, address, calibration } = self;
        // §5.4.3: a change of ctrl_hum takes effect only after a write to ctrl_meas.
        i2c.write(*address, &[register::CTRL_HUM, 0b001]).map_err(|e| fault("setting the humidity samples", &e))?;
        i2c.write(*address, &[register::CTRL_MEAS, FORCED_ONCE]).map_err(|e| fault("starting a measurement", &e))?;
        delay.delay_ms(MEASURE_MS);
        for poll in 0.. {
            let mut status = [0];
            i2c.write_read(*address, &[register::STATUS], &mut status).map_err(|e| fault("reading the status", &e))?;
            // §5.4.4: bit 3 is 1 while a conversion runs.
            if status[0] & 0b1000 == 0 {
                break;
            }
            if poll == POLLS {
                return Err("the measurement does not end".into());
            }
            delay.delay_ms(POLL_MS);
        }
        // §4: one burst, so that all values are of the same measurement.
        let mut bytes = [0; 8];
        i2c.write_read(*address, &[register::MEASUREMENT], &mut bytes).map_err(|e| fault("reading the measurement", &e))?;
        Ok(calibration.measurement(&bytes))
    }
}

fn fault(doing: &str, error: &impl std::fmt::Debug) -> String {
    format!("{doing}: {error:?}")
}

/// Trimming parameters (§4.2.2, table 16).
#[derive(Clone, Debug, PartialEq)]
struct Calibration {
    t1: u16,
    t: [i16; 2],
    p1: u16,
    p: [i16; 8],
    h1: u8,
    h2: i16,
    h3: u8,
    h4: i16,
    h5: i16,
    h6: i8,
}

impl Calibration {
    fn from_registers(first: &[u8; 26], second: &[u8; 7]) -> Self {
        let word = |at: usize| u16::from_le_bytes([first[at], first[at + 1]]);
        Self {
            t1: word(0),
            t: [word(2) as i16, word(4) as i16],
            p1: word(6),
            p: std::array::from_fn(|i| word(8 + 2 * i) as i16),
            h1: first[25],
            h2: i16::from_le_bytes([second[0], second[1]]),
            h3: second[2],
            // Two signed numbers of twelve bits share the byte 0xe5.
            h4: (i16::from(second[3] as i8) << 4) | i16::from(second[4] & 0x0f),
            h5: (i16::from(second[5] as i8) << 4) | i16::from(second[4] >> 4),
            h6: second[6] as i8,
        }
    }

    fn measurement(&self, bytes: &[u8; 8]) -> Measurement {
        let twenty = |at: usize| (i32::from(bytes[at]) << 12) | (i32::from(bytes[at + 1]) << 4) | (i32::from(bytes[at + 2]) >> 4);
        let (raw_p, raw_t) = (twenty(0), twenty(3));
        let raw_h = i32::from(u16::from_be_bytes([bytes[6], bytes[7]]));
        // §5.4.7 to §5.4.9: these are the values of a measurement that was left out.
        if raw_t == 0x80000 {
            return Measurement { celsius: None, pascal: None, humidity: None };
        }
        let fine = self.fine(raw_t);
        Measurement {
            celsius: Some(f64::from((fine.wrapping_mul(5).wrapping_add(128)) >> 8) / 100.0),
            pascal: (raw_p != 0x80000).then(|| self.pressure(raw_p, fine)).flatten().map(|q24_8| q24_8 as f64 / 256.0),
            humidity: (raw_h != 0x8000).then(|| f64::from(self.humidity(raw_h, fine)) / 1024.0),
        }
    }

    /// §4.2.3, `BME280_compensate_T_int32`: `t_fine`, which the other two need. All arithmetic wraps, because a broken chip may
    /// send any calibration.
    fn fine(&self, raw: i32) -> i32 {
        let (t1, [t2, t3]) = (i32::from(self.t1), self.t.map(i32::from));
        let first = ((raw >> 3) - (t1 << 1)).wrapping_mul(t2) >> 11;
        let offset = (raw >> 4) - t1;
        let second = (offset.wrapping_mul(offset) >> 12).wrapping_mul(t3) >> 14;
        first.wrapping_add(second)
    }

    /// §4.2.3, `BME280_compensate_P_int64`: pascal with eight fractional bits; `None` where the formula would divide by zero.
    fn pressure(&self, raw: i32, fine: i32) -> Option<i64> {
        let [p2, p3, p4, p5, p6, p7, p8, p9] = self.p.map(i64::from);
        let var1 = i64::from(fine) - 128_000;
        let mut var2 = var1.wrapping_mul(var1).wrapping_mul(p6);
        var2 = var2.wrapping_add(var1.wrapping_mul(p5) << 17);
        var2 = var2.wrapping_add(p4 << 35);
        let var1 = (var1.wrapping_mul(var1).wrapping_mul(p3) >> 8).wrapping_add(var1.wrapping_mul(p2) << 12);
        let var1 = (1i64 << 47).wrapping_add(var1).wrapping_mul(i64::from(self.p1)) >> 33;
        if var1 == 0 {
            return None;
        }
        let pressure = i64::from(1_048_576 - raw);
        let pressure = (pressure << 31).wrapping_sub(var2).wrapping_mul(3125).wrapping_div(var1);
        let var1 = p9.wrapping_mul(pressure >> 13).wrapping_mul(pressure >> 13) >> 25;
        let var2 = p8.wrapping_mul(pressure) >> 19;
        Some((pressure.wrapping_add(var1).wrapping_add(var2) >> 8).wrapping_add(p7 << 4))
    }

    /// §4.2.3, `bme280_compensate_H_int32`: percent with ten fractional bits.
    fn humidity(&self, raw: i32, fine: i32) -> u32 {
        let [h1, h3] = [self.h1, self.h3].map(i32::from);
        let [h2, h4, h5] = [self.h2, self.h4, self.h5].map(i32::from);
        let h6 = i32::from(self.h6);
        let v = fine.wrapping_sub(76_800);
        let left = (raw << 14).wrapping_sub(h4 << 20).wrapping_sub(h5.wrapping_mul(v)).wrapping_add(16_384) >> 15;
        let inner = (v.wrapping_mul(h6) >> 10).wrapping_mul((v.wrapping_mul(h3) >> 11).wrapping_add(32_768)) >> 10;
        let right = inner.wrapping_add(2_097_152).wrapping_mul(h2).wrapping_add(8_192) >> 14;
        let v = left.wrapping_mul(right);
        let v = v.wrapping_sub(((v >> 15).wrapping_mul(v >> 15) >> 7).wrapping_mul(h1) >> 4);
        (v.clamp(0, 419_430_400) >> 12) as u32
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use embedded_hal::i2c::{ErrorKind, NoAcknowledgeSource};
    use embedded_hal_mock::eh1::{
        delay::NoopDelay,
        i2c::{Mock, Transaction},
    };

    use super::*;

    /// The trimming values of the example in the BMP280's datasheet (BST-BMP280-DS001, §3.12), whose formulas for
    /// temperature and pressure are the same; those of humidity are a real chip's.
    fn calibration() -> Calibration {
        Calibration {
            t1: 27_504,
            t: [26_435, -1_000],
            p1: 36_477,
            p: [-10_685, 3_024, 2_855, 140, -7, 15_500, -14_600, 6_000],
            h1: 75,
            h2: 370,
            h3: 0,
            h4: 301,
            h5: 50,
            h6: 30,
        }
    }

    fn registers() -> (Vec<u8>, Vec<u8>) {
        let c = calibration();
        let words = [c.t1, c.t[0] as u16, c.t[1] as u16, c.p1].into_iter().chain(c.p.map(|p| p as u16));
        let mut first: Vec<u8> = words.flat_map(u16::to_le_bytes).collect();
        first.extend([0, c.h1]);
        let shared = (c.h4 & 0x0f) as u8 | ((c.h5 & 0x0f) as u8) << 4;
        let second = vec![c.h2 as u8, (c.h2 >> 8) as u8, c.h3, (c.h4 >> 4) as u8, shared, (c.h5 >> 4) as u8, c.h6 as u8];
        (first, second)
    }

    fn measurement_bytes(raw_p: u32, raw_t: u32, raw_h: u16) -> Vec<u8> {
        let twenty = |raw: u32| [(raw >> 12) as u8, (raw >> 4) as u8, (raw << 4) as u8];
        [twenty(raw_p).as_slice(), &twenty(raw_t), &raw_h.to_be_bytes()].concat()
    }

    fn start() -> Vec<Transaction> {
        let (first, second) = registers();
        vec![
            Transaction::write_read(0x76, vec![0xd0], vec![0x60]),
            Transaction::write_read(0x76, vec![0x88], first),
            Transaction::write_read(0x76, vec![0xe1], second),
        ]
    }

    fn measure(bytes: Vec<u8>) -> Vec<Transaction> {
        vec![
            Transaction::write(0x76, vec![0xf2, 0x01]),
            Transaction::write(0x76, vec![0xf4, 0x25]),
            Transaction::write_read(0x76, vec![0xf3], vec![0x08]),
            Transaction::write_read(0x76, vec![0xf3], vec![0x00]),
            Transaction::write_read(0x76, vec![0xf7], bytes),
        ]
    }

    /// One bus per try to open it; `None`: the bus is absent.
    fn check(buses: Vec<Option<Vec<Transaction>>>, expected: &[Result<Item, ()>]) {
        let mut mocks: Vec<Mock> = Vec::new();
        let mut waiting: VecDeque<Option<Mock>> = VecDeque::new();
        for bus in buses {
            let mock = bus.map(|transactions| Mock::new(&transactions));
            mocks.extend(mock.clone());
            waiting.push_back(mock);
        }
        let config = Config { path: "/dev/i2c-1".into(), address: ADDRESS, period: PERIOD };
        let bus = || waiting.pop_front().expect("opened no more often than planned").ok_or("absent".to_string());
        let mut source = Bme280Source::new(bus, NoopDelay, &config, Wall(0));
        for (position, expected) in expected.iter().enumerate() {
            let read = source.read(Position(position as u64));
            assert_eq!(read.clone().map_err(|_| ()), *expected, "position {position}: {read:?}");
        }
        mocks.iter_mut().for_each(Mock::done);
    }

    fn known() -> (Vec<u8>, Result<Item, ()>) {
        // 25.08 degC and 100653.27 Pa are the datasheet's results; humidity was computed with its formula in doubles.
        (measurement_bytes(415_148, 519_888, 28_000), Ok(Item::Reading(vec![Some(2_508), Some(402_613), Some(HUMIDITY)])))
    }

    /// In hundredths of a percent.
    const HUMIDITY: i32 = 4_920;

    #[test]
    fn known_registers_give_the_datasheets_values() {
        let (bytes, item) = known();
        check(vec![Some([start(), measure(bytes.clone()), measure(bytes)].concat())], &[item.clone(), item]);
    }

    #[test]
    fn a_quantity_that_was_left_out_is_missing() {
        let bytes = measurement_bytes(0x80000, 519_888, 0x8000);
        let item = Ok(Item::Reading(vec![Some(2_508), None, None]));
        check(vec![Some([start(), measure(bytes)].concat())], &[item]);
    }

    #[test]
    fn a_fault_ends_with_the_chip_being_found_again() {
        let nack = ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address);
        let (bytes, item) = known();
        let silent = vec![Transaction::write_read(0x76, vec![0xd0], vec![0]).with_error(nack)];
        let bmp280 = vec![Transaction::write_read(0x76, vec![0xd0], vec![0x58])];
        let mut torn = start();
        torn.push(Transaction::write(0x76, vec![0xf2, 0x01]).with_error(nack));
        let mut stuck = start();
        stuck.extend(measure(vec![]).into_iter().take(2));
        stuck.extend((0..=POLLS).map(|_| Transaction::write_read(0x76, vec![0xf3], vec![0x08])));
        let good = [start(), measure(bytes)].concat();
        check(
            vec![None, Some(silent), Some(bmp280), Some(torn), Some(stuck), Some(good)],
            &[Err(()), Err(()), Err(()), Err(()), Err(()), item],
        );
    }

    /// The datasheet's formula in doubles (§8.1).
    fn humidity_in_doubles(c: &Calibration, raw: f64, fine: f64) -> f64 {
        let h = fine - 76_800.0;
        let h = (raw - (f64::from(c.h4) * 64.0 + f64::from(c.h5) / 16_384.0 * h))
            * (f64::from(c.h2) / 65_536.0 * (1.0 + f64::from(c.h6) / 67_108_864.0 * h * (1.0 + f64::from(c.h3) / 67_108_864.0 * h)));
        (h * (1.0 - f64::from(c.h1) * h / 524_288.0)).clamp(0.0, 100.0)
    }

    #[test]
    fn integer_humidity_agrees_with_doubles() {
        let c = calibration();
        for raw in (0..60_000).step_by(500) {
            for fine in [-20_000, 60_000, 128_422, 300_000] {
                let integer = f64::from(c.humidity(raw, fine)) / 1024.0;
                let double = humidity_in_doubles(&c, f64::from(raw), f64::from(fine));
                assert!((integer - double).abs() < 0.02, "raw {raw}, fine {fine}: {integer} and {double}");
            }
        }
    }

    #[test]
    fn any_calibration_is_survived() {
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..2_000 {
            let calibration = Calibration::from_registers(&std::array::from_fn(|_| rng.u8(..)), &std::array::from_fn(|_| rng.u8(..)));
            calibration.measurement(&std::array::from_fn(|_| rng.u8(..)));
        }
    }
}
