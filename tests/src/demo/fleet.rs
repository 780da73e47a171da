//! The running processes: the server and the agents, watched and started again as systemd would do it.
//!
//! Invariant: whoever dies without being told to is started again after a second and stands in the timeline; when the fleet is dropped,
//! on whatever path, no process is left. Not here: what is asked of the processes (`story`).

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use wayside_common::time::Wall;

use super::{
    process::{Launch, Process},
    timeline::Timeline,
};

/// RestartSec= of the unit file.
const RESTART_AFTER: Duration = Duration::from_secs(1);
const WATCH_EVERY: Duration = Duration::from_millis(50);
const STOP_GRACE: Duration = Duration::from_secs(8);

pub struct Fleet {
    shared: Arc<Shared>,
    watcher: Option<JoinHandle<()>>,
}

struct Shared {
    members: Mutex<Vec<Member>>,
    over: AtomicBool,
    timeline: Arc<Timeline>,
}

struct Member {
    launch: Launch,
    state: State,
    /// When it was started again.
    restarts: Vec<Wall>,
}

enum State {
    Up(Process),
    Down { until: Instant },
    Stopped,
}

impl Fleet {
    pub fn new(timeline: Arc<Timeline>) -> Self {
        let shared = Arc::new(Shared { members: Mutex::new(Vec::new()), over: AtomicBool::new(false), timeline });
        let watched = Arc::clone(&shared);
        let watcher = thread::spawn(move || {
            while !watched.over.load(Ordering::SeqCst) {
                watched.members().iter_mut().for_each(|member| watched.watch(member));
                thread::sleep(WATCH_EVERY);
            }
        });
        Self { shared, watcher: Some(watcher) }
    }

    /// Starts a process and waits for one line on its stdout per prefix; gives the rest of each.
    pub fn start(&self, launch: Launch, ready: &[&str], limit: Duration) -> anyhow::Result<Vec<String>> {
        let mut process = Process::start(&launch)?;
        let lines = ready.iter().map(|prefix| process.line(prefix, limit)).collect::<anyhow::Result<_>>()?;
        self.shared.members().push(Member { launch, state: State::Up(process), restarts: Vec::new() });
        Ok(lines)
    }

    /// SIGKILL; the process stays down for `down` and is then started again.
    pub fn kill(&self, name: &str, down: Duration) -> anyhow::Result<()> {
        let mut members = self.shared.members();
        let member = find(&mut members, name)?;
        let State::Up(process) = &mut member.state else { anyhow::bail!("{name} is not running, so it cannot be killed") };
        process.kill()?;
        member.state = State::Down { until: Instant::now() + down };
        self.shared.timeline.tell(format!("{name}: killed (SIGKILL), to be started again in {} s", down.as_secs()));
        Ok(())
    }

    pub fn pid(&self, name: &str) -> anyhow::Result<u32> {
        match &find(&mut self.shared.members(), name)?.state {
            State::Up(process) => Ok(process.pid()),
            _ => anyhow::bail!("{name} is not running"),
        }
    }

    pub fn restarts(&self, name: &str) -> anyhow::Result<Vec<Wall>> {
        Ok(find(&mut self.shared.members(), name)?.restarts.clone())
    }

    /// Stops a process in order; it is not started again.
    pub fn stop(&self, name: &str) -> anyhow::Result<()> {
        let mut members = self.shared.members();
        let member = find(&mut members, name)?;
        if let State::Up(process) = &mut member.state
            && !process.stop(STOP_GRACE)?
        {
            self.shared.timeline.tell(format!("{name}: did not stop within {} s and was killed", STOP_GRACE.as_secs()));
        }
        member.state = State::Stopped;
        Ok(())
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        if let Some(watcher) = self.watcher.take() {
            // A watcher that panicked has said so; the members are dropped, and thereby killed, in any case.
            let _ = watcher.join();
        }
        self.shared.members().clear();
    }
}

impl Shared {
    fn members(&self) -> MutexGuard<'_, Vec<Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self, member: &mut Member) {
        let name = &member.launch.name;
        match &mut member.state {
            State::Up(process) => match process.ended() {
                Ok(None) => {}
                Ok(Some(status)) => {
                    self.timeline.tell(format!("{name}: died unexpectedly ({status}); its log is {}", member.launch.log.display()));
                    member.state = State::Down { until: Instant::now() + RESTART_AFTER };
                }
                Err(e) => self.timeline.tell(format!("{name}: cannot be watched: {e:#}")),
            },
            State::Down { until } if Instant::now() >= *until => {
                let at = wall_now();
                match Process::start(&member.launch) {
                    Ok(process) => {
                        member.state = State::Up(process);
                        member.restarts.push(at);
                        self.timeline.tell(format!("{name}: started again"));
                    }
                    Err(e) => {
                        self.timeline.tell(format!("{name}: could not be started again: {e:#}"));
                        member.state = State::Down { until: Instant::now() + RESTART_AFTER };
                    }
                }
            }
            State::Down { .. } | State::Stopped => {}
        }
    }
}

fn find<'m>(members: &'m mut [Member], name: &str) -> anyhow::Result<&'m mut Member> {
    members.iter_mut().find(|member| member.launch.name == name).with_context(|| format!("{name} was never started"))
}

pub fn wall_now() -> Wall {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Wall(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::demo::process::signal;

    fn endless(name: &str) -> (Launch, PathBuf) {
        let log = std::env::temp_dir().join(format!("wayside-fleet-{name}-{}.log", std::process::id()));
        let args = vec!["-c".into(), "echo ready now; exec cat /dev/zero >/dev/null".into()];
        (Launch { name: name.into(), program: "sh".into(), args, log: log.clone() }, log)
    }

    /// Asks until the process is up under another pid.
    fn restarted(fleet: &Fleet, name: &str, old: u32) -> u32 {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match fleet.pid(name) {
                Ok(pid) if pid != old => return pid,
                _ => assert!(Instant::now() < deadline, "{name} was not started again"),
            }
            thread::yield_now();
        }
    }

    #[test]
    fn a_process_that_dies_is_started_again_and_none_is_left_behind() {
        let timeline = Arc::new(Timeline::start());
        let fleet = Fleet::new(Arc::clone(&timeline));
        let (launch, log) = endless("again");
        assert_eq!(fleet.start(launch, &["ready "], Duration::from_secs(20)).unwrap(), ["now"]);
        let first = fleet.pid("again").unwrap();
        signal(first, "KILL").unwrap();
        let second = restarted(&fleet, "again", first);
        fleet.kill("again", Duration::from_millis(10)).unwrap();
        let third = restarted(&fleet, "again", second);
        assert_eq!(fleet.restarts("again").unwrap().len(), 2);
        let told: Vec<String> = timeline.entries().into_iter().map(|entry| entry.event).collect();
        assert!(told[0].contains("died unexpectedly"), "{told:?}");
        drop(fleet);
        assert!(signal(third, "0").is_err(), "dropping the fleet ends its processes");
        std::fs::remove_file(log).unwrap();
    }
}
