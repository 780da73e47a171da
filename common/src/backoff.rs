//! Full-jitter backoff: how long to wait before try n, given a random number.
//!
//! Invariant: the wait is between zero and `min(cap, base * 2^n)`; the randomness is an argument. Source: M. Brooker,
//! "Exponential Backoff And Jitter", 2015. Not here: the waiting.

use core::time::Duration;

/// The wait before try `attempt` (0 = the first retry); `random` is uniform over all u64.
pub fn full_jitter(base: Duration, cap: Duration, attempt: u32, random: u64) -> Duration {
    let ceiling = base.checked_mul(1u32.checked_shl(attempt.min(31)).unwrap_or(u32::MAX)).map_or(cap, |wait| wait.min(cap));
    let nanos = (ceiling.as_nanos() * u128::from(random)) >> 64;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_scale_with_the_random_number() {
        struct Case(u32, u64, u64);
        let cases =
            [Case(0, u64::MAX, 1_000), Case(3, u64::MAX, 8_000), Case(3, 0, 0), Case(3, u64::MAX / 2, 4_000), Case(40, u64::MAX, 60_000)];
        for Case(attempt, random, millis) in cases {
            let wait = full_jitter(Duration::from_secs(1), Duration::from_secs(60), attempt, random);
            assert!(wait.as_millis().abs_diff(u128::from(millis)) <= 1, "{attempt} {random}: {wait:?}");
        }
    }
}
