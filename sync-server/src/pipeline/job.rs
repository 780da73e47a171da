//! Runs a job's command: no shell, a folder of its own, a bounded log, a deadline.
//!
//! Invariant: when this returns, no process of the command's group is left; if the server dies first, its next start ends them. Not here: which command (the configuration), what its output means.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    io::{self, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail};
use nix::{
    errno::Errno,
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
    time::timeout,
};

/// What is kept of the output; the rest is counted.
const MAX_LOG: usize = 1024 * 1024;

/// In a run's folder while its command runs: the process, and when the machine started it.
const RUNNING: &str = "running";

/// The word that stands for this program in a configuration.
const OURSELVES: &str = "wayside";

pub struct Process {
    /// Program and arguments.
    pub command: Vec<String>,
    pub folder: PathBuf,
    pub environment: Vec<(&'static str, OsString)>,
    pub log: PathBuf,
    pub timeout: Duration,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Exit(i32),
    Signal(i32),
    Timeout,
}

impl Process {
    pub async fn run(self) -> anyhow::Result<Ended> {
        let Some((program, arguments)) = self.command.split_first() else { bail!("the job's command is empty") };
        let program =
            if program == OURSELVES { env::current_exe().context("this program's own path")?.into_os_string() } else { program.into() };
        let log = File::create(&self.log).with_context(|| format!("could not write {}", self.log.display()))?;
        let (ours, theirs) = io::pipe().context("no pipe for the log")?;
        let mut child = Command::new(&program)
            .args(arguments)
            .current_dir(&self.folder)
            .envs(self.environment)
            .env_remove("WAYSIDE_TOKEN")
            .stdin(Stdio::null())
            .stdout(theirs.try_clone().context("no pipe for the log")?)
            .stderr(theirs)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("could not start {}", program.display()))?;
        let group = Group { pid: child.id().map(|id| Pid::from_raw(id as i32)), note: self.folder.join(RUNNING) };
        group.write_note().context("the command's process could not be noted")?;
        let reader = tokio::net::unix::pipe::Receiver::from_owned_fd(ours.into()).context("no pipe for the log")?;
        let copied = tokio::spawn(keep(reader, log));
        let ended = match timeout(self.timeout, child.wait()).await {
            Ok(status) => {
                let status = status.context("the command could not be waited for")?;
                status.code().map(Ended::Exit).or(status.signal().map(Ended::Signal)).context("the command ended in no known way")?
            }
            Err(_) => Ended::Timeout,
        };
        // What the command left running would hold the pipe open, and the machine.
        drop(group);
        child.wait().await.context("the command could not be waited for")?;
        copied.await.context("the log's copy has crashed")?.with_context(|| format!("could not write {}", self.log.display()))?;
        Ok(ended)
    }
}

/// Ends a process group when it goes out of scope, however that comes.
struct Group {
    pid: Option<Pid>,
    note: PathBuf,
}

impl Group {
    fn write_note(&self) -> io::Result<()> {
        // Who has ended already needs no note.
        let Some((pid, ticks)) = self.pid.and_then(|pid| Some((pid, start_ticks(pid)?))) else { return Ok(()) };
        fs::write(&self.note, format!("{pid} {ticks}\n"))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            end(pid);
        }
        // A note that stays is harmless: no other process has both its number and its start.
        let _ = fs::remove_file(&self.note);
    }
}

fn end(group: Pid) {
    match killpg(group, Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(e) => tracing::error!(%group, "a job's process group could not be ended: {e}"),
    }
}

/// Ends what a server that was killed left running for the run of this folder. A number alone may be another process's by now.
pub fn end_left_over(folder: &Path) {
    let note = folder.join(RUNNING);
    let Ok(text) = fs::read_to_string(&note) else { return };
    let noted = text.trim().split_once(' ').and_then(|(pid, ticks)| Some((Pid::from_raw(pid.parse().ok()?), ticks)));
    if let Some((pid, ticks)) = noted
        && start_ticks(pid).as_deref() == Some(ticks)
    {
        tracing::warn!(%pid, "a job has outlived its server and is ended");
        end(pid);
    }
    let _ = fs::remove_file(&note);
}

/// When the machine started a process, in its own ticks.
fn start_ticks(pid: Pid) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in brackets, and may have any character; the start is the 22nd.
    stat.rsplit_once(") ")?.1.split(' ').nth(19).map(str::to_owned)
}

/// Reads to the end, so that the command never blocks on its output, and keeps the first part.
async fn keep(mut reader: impl AsyncRead + Unpin, mut log: File) -> io::Result<()> {
    let (mut buffer, mut kept, mut dropped) = ([0; 8192], 0, 0);
    loop {
        let read = reader.read(&mut buffer).await?;
        if read == 0 {
            break;
        }
        let take = read.min(MAX_LOG - kept);
        log.write_all(&buffer[..take])?;
        kept += take;
        dropped += read - take;
    }
    if dropped > 0 {
        writeln!(log, "\n[{dropped} more bytes were not kept]")?;
    }
    log.sync_all()
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Instant};

    use super::*;
    use crate::scratch::Scratch;

    fn process(scratch: &Scratch, script: &str, timeout: Duration) -> Process {
        Process {
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
            folder: scratch.path().to_path_buf(),
            environment: vec![("WAYSIDE_VERSION", "7".into())],
            log: scratch.path().join("log.txt"),
            timeout,
        }
    }

    #[tokio::test]
    async fn a_command_has_its_environment_and_leaves_its_log_and_status() {
        let scratch = Scratch::new();
        let ended = process(&scratch, "pwd; echo v$WAYSIDE_VERSION >&2; exit 3", Duration::from_secs(60)).run().await.unwrap();
        assert_eq!(ended, Ended::Exit(3));
        let log = fs::read_to_string(scratch.path().join("log.txt")).unwrap();
        assert!(log.ends_with("v7\n") && log.contains(scratch.path().file_name().unwrap().to_str().unwrap()), "{log}");
    }

    #[tokio::test]
    async fn a_command_that_overruns_dies_with_what_it_started() {
        let scratch = Scratch::new();
        let started = Instant::now();
        let ended = process(&scratch, "sh -c 'sleep 600' & echo $!; sleep 600", Duration::from_millis(300)).run().await.unwrap();
        assert_eq!(ended, Ended::Timeout);
        assert!(started.elapsed() < Duration::from_secs(60));
        // The log's copy ends only when the last process that holds the pipe is gone.
        assert!(fs::read_to_string(scratch.path().join("log.txt")).unwrap().trim().parse::<i32>().is_ok());
    }

    #[test]
    fn what_outlived_its_server_is_ended_and_nothing_else() {
        use std::{os::unix::process::CommandExt, process::Command};
        struct Case {
            note: fn(Pid, &str) -> String,
            ended: bool,
        }
        let cases = [
            Case { note: |pid, ticks| format!("{pid} {ticks}\n"), ended: true },
            Case { note: |pid, ticks| format!("{pid} 1{ticks}\n"), ended: false },
            Case { note: |_, ticks| format!("0 {ticks}\n"), ended: false },
            Case { note: |pid, _| format!("{pid}"), ended: false },
        ];
        for (at, case) in cases.iter().enumerate() {
            let scratch = Scratch::new();
            let mut child = Command::new("sh").args(["-c", "sleep 600 & wait"]).process_group(0).spawn().unwrap();
            let pid = Pid::from_raw(child.id() as i32);
            fs::write(scratch.path().join(RUNNING), (case.note)(pid, &start_ticks(pid).unwrap())).unwrap();
            end_left_over(scratch.path());
            if !case.ended {
                assert!(child.try_wait().unwrap().is_none(), "case {at}");
                end(pid);
            }
            assert_eq!(child.wait().unwrap().signal(), Some(Signal::SIGKILL as i32), "case {at}");
            assert!(!scratch.path().join(RUNNING).exists(), "case {at}");
        }
    }

    #[tokio::test]
    async fn a_running_command_is_noted_until_it_ends() {
        let scratch = Scratch::new();
        let script = "while [ ! -s running ]; do :; done; cut -d' ' -f1 running; echo $$";
        assert_eq!(process(&scratch, script, Duration::from_secs(60)).run().await.unwrap(), Ended::Exit(0));
        let log = fs::read_to_string(scratch.path().join("log.txt")).unwrap();
        let (noted, own) = log.trim().split_once('\n').unwrap();
        assert_eq!(noted, own);
        assert!(!scratch.path().join(RUNNING).exists());
    }

    #[tokio::test]
    async fn a_long_log_is_cut_and_does_not_block_the_command() {
        let scratch = Scratch::new();
        let ended = process(&scratch, "head -c 3000000 /dev/zero | tr '\\0' x", Duration::from_secs(60)).run().await.unwrap();
        assert_eq!(ended, Ended::Exit(0));
        let log = fs::read_to_string(scratch.path().join("log.txt")).unwrap();
        assert!(log.len() < MAX_LOG + 100 && log.ends_with("more bytes were not kept]\n"));
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named() {
        let scratch = Scratch::new();
        let mut process = process(&scratch, "", Duration::from_secs(1));
        process.command = vec!["no-such-program".into()];
        assert!(process.run().await.unwrap_err().to_string().contains("no-such-program"));
    }
}
