//! One time for all verifiers: what a device may believe of the time, with a clock that may be wrong by decades.
//!
//! Invariant: the time is max(build, newest signed time, clock when plausible); it moves back only by an answer to this device's own
//! nonce, signed with the timestamp key, and such an answer counts once. Not here: reading a clock, asking, storing.

use alloc::string::String;
use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    time::{Mono, Wall},
    trust::{
        role::Key,
        signed::{self, SignedError},
    },
};

/// A clock that is further ahead of the newest signed time is not believed: no device lies unused for so long.
pub const HORIZON: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// A clock may be behind signed time by what two good clocks differ.
pub const TOLERANCE: Duration = Duration::from_secs(300);
/// Who holds an answer back for longer than this may not pass it off as the present.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Tells the document from every other that the timestamp key signs.
const KIND: &str = "time";

/// What the timestamp key signs: the answer to one question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeAnswer {
    #[serde(rename = "_type")]
    kind: String,
    nonce: u64,
    /// Milliseconds since 1970.
    time: i64,
}

impl TimeAnswer {
    pub fn new(nonce: u64, time: Wall) -> Self {
        Self { kind: KIND.into(), nonce, time: time.0 }
    }
}

/// Why an answer is ignored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    #[error("nobody asked")]
    NotAsked,
    #[error("the answer came after more than {} s", ANSWER_WITHIN.as_secs())]
    Late,
    #[error("the answer is to another question")]
    Foreign,
    #[error("{0}")]
    Signed(#[from] SignedError),
}

/// What a time rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// An answer to our own nonce, and a clock that never jumps since then.
    Vouched,
    /// The system's clock: nothing speaks against it.
    Clock,
    /// The build or the newest signed time: it is not earlier than this, and nobody knows how much later.
    Floor,
}

/// A time and what it rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    pub at: Wall,
    pub basis: Basis,
}

impl Now {
    /// Whether dates may be judged by it.
    pub fn is_trusted(self) -> bool {
        self.basis != Basis::Floor
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct TrustedTime {
    build: Wall,
    signed: Wall,
    vouched: Option<(Mono, Wall)>,
    /// Something that is right but for its dates contradicted the clock.
    doubted: bool,
    asked: Option<(u64, Mono)>,
}

impl TrustedTime {
    /// `build`: nothing of this version existed earlier. `signed`: the newest signed time of earlier starts.
    pub fn new(build: Wall, signed: Option<Wall>) -> Self {
        Self { build, signed: signed.unwrap_or(build), vouched: None, doubted: false, asked: None }
    }

    pub fn now(&self, mono: Mono, clock: Wall) -> Now {
        let floor = self.build.max(self.signed);
        if let Some((since, then)) = self.vouched {
            return Now { at: then.plus(mono.saturating_since(since)).max(floor), basis: Basis::Vouched };
        }
        let plausible = clock >= floor.minus(TOLERANCE) && clock <= floor.plus(HORIZON);
        if plausible && !self.doubted { Now { at: clock.max(floor), basis: Basis::Clock } } else { Now { at: floor, basis: Basis::Floor } }
    }

    /// Something that a key we trust has signed is of this time; it only ever moves the time forward.
    pub fn signed(&mut self, at: Wall) {
        self.signed = self.signed.max(at);
    }

    /// A certificate that is good but for its dates says that our time is wrong. An answer to our own nonce stands above it.
    pub fn contradicted(&mut self) {
        self.doubted = self.vouched.is_none();
    }

    /// The question with this nonce is on its way; an earlier one is not waited for any more.
    pub fn asked(&mut self, nonce: u64, mono: Mono) {
        self.asked = Some((nonce, mono));
    }

    /// Takes an answer, which may move the time back; gives the time that is now the newest signed one.
    pub fn answered(&mut self, document: &[u8], key: &Key, mono: Mono) -> Result<Wall, TimeError> {
        let (nonce, since) = self.asked.ok_or(TimeError::NotAsked)?;
        let answer: TimeAnswer = signed::verify(KIND, document, [(&signed::key_id(key), key)], 1)?;
        if answer.kind != KIND || answer.nonce != nonce {
            return Err(TimeError::Foreign);
        }
        // Whatever comes of it, the nonce has been used.
        self.asked = None;
        if mono.saturating_since(since) > ANSWER_WITHIN {
            return Err(TimeError::Late);
        }
        let time = Wall(answer.time);
        (self.signed, self.vouched, self.doubted) = (time, Some((mono, time)), false);
        Ok(time)
    }
}

#[cfg(test)]
mod tests {
    use alloc::{string::ToString, vec::Vec};

    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::trust::signed::public_key;

    const DAY: i64 = 24 * 3600 * 1000;
    const BUILD: Wall = Wall(1_767_225_600_000);
    /// Late in 2026, by a good clock.
    const TODAY: Wall = Wall(1_795_435_041_000);
    const IN_2099: Wall = Wall(4_071_168_000_000);

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    fn answer(nonce: u64, time: Wall, by: &SigningKey) -> Vec<u8> {
        signed::sign(&TimeAnswer::new(nonce, time), &[by]).unwrap()
    }

    fn seconds(s: u64) -> Mono {
        Mono(s * 1_000_000)
    }

    #[test]
    fn the_time_is_the_latest_of_what_may_be_believed() {
        struct Case {
            signed: Option<Wall>,
            clock: Wall,
            expected: (Wall, Basis),
        }
        let later = Wall(TODAY.0 + 400 * DAY);
        let cases = [
            Case { signed: None, clock: TODAY, expected: (TODAY, Basis::Clock) },
            Case { signed: Some(TODAY), clock: Wall(0), expected: (TODAY, Basis::Floor) },
            Case { signed: None, clock: Wall(0), expected: (BUILD, Basis::Floor) },
            Case { signed: Some(TODAY), clock: later, expected: (later, Basis::Clock) },
            Case { signed: Some(later), clock: TODAY, expected: (later, Basis::Floor) },
            Case { signed: Some(TODAY), clock: IN_2099, expected: (TODAY, Basis::Floor) },
            // Two good clocks differ a little.
            Case { signed: Some(TODAY), clock: Wall(TODAY.0 - 2_000), expected: (TODAY, Basis::Clock) },
            Case { signed: Some(Wall(i64::MAX)), clock: TODAY, expected: (Wall(i64::MAX), Basis::Floor) },
        ];
        for Case { signed, clock, expected } in cases {
            let now = TrustedTime::new(BUILD, signed).now(seconds(5), clock);
            assert_eq!((now.at, now.basis), expected, "{signed:?} {clock}");
        }
    }

    #[test]
    fn a_clock_at_1970_is_replaced_by_the_answer_and_by_what_has_passed_since() {
        let mut time = TrustedTime::new(BUILD, None);
        time.asked(9, seconds(10));
        assert_eq!(time.answered(&answer(9, TODAY, &key()), &public_key(&key()), seconds(11)), Ok(TODAY));
        assert_eq!(time.now(seconds(71), Wall(71_000)), Now { at: Wall(TODAY.0 + 60_000), basis: Basis::Vouched });
        // The next start has no answer yet, and still does not fall behind what was signed.
        assert_eq!(TrustedTime::new(BUILD, Some(TODAY)).now(seconds(1), Wall(0)), Now { at: TODAY, basis: Basis::Floor });
    }

    #[test]
    fn a_clock_at_2099_is_not_believed_and_is_again_when_it_is_corrected() {
        let mut time = TrustedTime::new(BUILD, Some(TODAY));
        assert!(!time.now(seconds(1), IN_2099).is_trusted());
        time.asked(1, seconds(2));
        time.answered(&answer(1, TODAY, &key()), &public_key(&key()), seconds(2)).unwrap();
        assert_eq!(time.now(seconds(3), IN_2099).at, Wall(TODAY.0 + 1_000));
        let next_start = TrustedTime::new(BUILD, Some(TODAY));
        assert_eq!(next_start.now(seconds(1), Wall(TODAY.0 + DAY)).basis, Basis::Clock);
    }

    #[test]
    fn a_server_that_was_at_2099_is_corrected_by_its_next_answer() {
        let mut time = TrustedTime::new(BUILD, None);
        time.asked(1, seconds(1));
        time.answered(&answer(1, IN_2099, &key()), &public_key(&key()), seconds(1)).unwrap();
        let mut time = TrustedTime::new(BUILD, Some(IN_2099));
        assert_eq!(time.now(seconds(1), TODAY), Now { at: IN_2099, basis: Basis::Floor });
        // Signed, and no answer to us: it moves nothing back.
        time.signed(TODAY);
        assert_eq!(time.now(seconds(1), TODAY).at, IN_2099);
        time.asked(2, seconds(2));
        assert_eq!(time.answered(&answer(2, TODAY, &key()), &public_key(&key()), seconds(3)), Ok(TODAY));
        assert_eq!(time.now(seconds(3), TODAY).at, TODAY);
    }

    #[test]
    fn a_stopped_clock_that_a_certificate_contradicts_is_not_believed_until_an_answer_comes() {
        // Off for 400 days, and the clock stood still: by itself it looks right.
        let mut time = TrustedTime::new(BUILD, Some(TODAY));
        assert!(time.now(seconds(1), TODAY).is_trusted());
        let truth = Wall(TODAY.0 + 400 * DAY);
        time.signed(truth);
        assert_eq!(time.now(seconds(1), TODAY), Now { at: truth, basis: Basis::Floor });
        // A clock that is ahead: the certificate has expired by it.
        let mut time = TrustedTime::new(BUILD, Some(TODAY));
        time.contradicted();
        assert!(!time.now(seconds(1), truth).is_trusted());
        time.asked(4, seconds(2));
        time.answered(&answer(4, TODAY, &key()), &public_key(&key()), seconds(2)).unwrap();
        assert_eq!(time.now(seconds(2), truth), Now { at: TODAY, basis: Basis::Vouched });
        // What the server vouches for is not doubted because of a certificate.
        time.contradicted();
        assert_eq!(time.now(seconds(2), truth).basis, Basis::Vouched);
    }

    #[test]
    fn what_answers_nothing_of_ours_is_ignored() {
        let theirs = SigningKey::from_bytes(&[8; 32]);
        let other = signed::sign(&serde_json::json!({"_type": "timestamp", "nonce": 5, "time": TODAY.0}), &[&key()]).unwrap();
        struct Case(Option<u64>, Vec<u8>, u64, &'static str);
        let cases = [
            Case(None, answer(5, TODAY, &key()), 1, "nobody asked"),
            Case(Some(5), answer(6, TODAY, &key()), 1, "another question"),
            Case(Some(5), answer(5, TODAY, &theirs), 1, "0 valid"),
            Case(Some(5), other, 1, "another question"),
            Case(Some(5), b"{}".to_vec(), 1, "not what it should be"),
            Case(Some(5), answer(5, TODAY, &key()), 31, "after more than"),
        ];
        for Case(nonce, document, at, says) in cases {
            let mut time = TrustedTime::new(BUILD, None);
            if let Some(nonce) = nonce {
                time.asked(nonce, Mono(0));
            }
            let error = time.answered(&document, &public_key(&key()), seconds(at)).unwrap_err().to_string();
            assert!(error.contains(says), "{error} lacks {says}");
            assert_eq!(time.now(seconds(at), Wall(0)), Now { at: BUILD, basis: Basis::Floor });
        }
        let mut time = TrustedTime::new(BUILD, None);
        time.asked(5, Mono(0));
        time.answered(&answer(5, TODAY, &key()), &public_key(&key()), seconds(1)).unwrap();
        let again = time.answered(&answer(5, TODAY, &key()), &public_key(&key()), seconds(2));
        assert_eq!(again, Err(TimeError::NotAsked), "an answer counts once");
    }
}
