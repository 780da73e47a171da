//! Waiting for something to become true, with a deadline and a reason.
//!
//! Invariant: no wait is without end except the one for Ctrl-C, and every one that fails says what it saw last. Not here: what is awaited.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::bail;

use super::interrupt;

const POLL: Duration = Duration::from_millis(250);

/// One look at what is awaited.
pub enum Look<T> {
    Found(T),
    NotYet(String),
    /// It cannot come any more.
    Never(String),
}

/// Looks until it is found. An error of the look itself counts as "not yet": the server may be down just now.
pub fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> anyhow::Result<Look<T>>) -> anyhow::Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        interrupt::check()?;
        let seen = match look() {
            Ok(Look::Found(found)) => return Ok(found),
            Ok(Look::Never(why)) => bail!("{what} will not happen: {why}"),
            Ok(Look::NotYet(seen)) => seen,
            Err(e) => format!("{e:#}"),
        };
        if Instant::now() >= deadline {
            bail!("{what} did not happen within {} s; last seen: {seen}", limit.as_secs());
        }
        thread::sleep(POLL);
    }
}

/// Waits for Ctrl-C.
pub fn until_interrupted() -> anyhow::Result<()> {
    loop {
        interrupt::check()?;
        thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_what_was_found_or_with_what_was_seen_last() {
        let mut looks = 0;
        let found = wait_for("three", Duration::from_secs(30), || {
            looks += 1;
            Ok(if looks == 3 { Look::Found(looks) } else { Look::NotYet("fewer".into()) })
        });
        assert_eq!(found.unwrap(), 3);
        let error = wait_for::<()>("a miracle", Duration::ZERO, || Ok(Look::NotYet("nothing".into()))).unwrap_err().to_string();
        assert!(error.contains("a miracle") && error.contains("nothing"), "{error}");
        let error = wait_for::<()>("it", Duration::from_secs(3600), || Ok(Look::Never("refused".into()))).unwrap_err().to_string();
        assert!(error.contains("refused"), "{error}");
        let error = wait_for::<()>("it", Duration::ZERO, || bail!("no answer")).unwrap_err().to_string();
        assert!(error.contains("no answer"), "{error}");
    }
}
