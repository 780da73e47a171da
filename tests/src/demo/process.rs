//! One child process of the demo: its log, the lines it prints, and its end.
//!
//! Invariant: a [`Process`] that is dropped is dead. Not here: who is started again (`fleet`).

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};

use super::interrupt;

/// How a process is started, and started again.
#[derive(Clone, Debug)]
pub struct Launch {
    pub name: String,
    pub program: PathBuf,
    pub args: Vec<String>,
    /// stdout and stderr go there, appended.
    pub log: PathBuf,
}

pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
    lines: Receiver<String>,
}

impl Process {
    pub fn start(launch: &Launch) -> anyhow::Result<Self> {
        let open = || OpenOptions::new().create(true).append(true).open(&launch.log);
        let stderr = open().with_context(|| format!("could not open {}", launch.log.display()))?;
        let stdout = open().with_context(|| format!("could not open {}", launch.log.display()))?;
        let mut child = Command::new(&launch.program)
            .args(&launch.args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            // Ctrl-C in the terminal reaches the demo alone, which then stops its children in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("could not start {}", launch.program.display()))?;
        let pipe = child.stdout.take().expect("stdout was asked for as a pipe");
        Ok(Self { name: launch.name.clone(), log: launch.log.clone(), child, lines: tee(pipe, stdout) })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The rest of the first line on stdout that begins with `prefix`.
    pub fn line(&mut self, prefix: &str, limit: Duration) -> anyhow::Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            interrupt::check()?;
            match self.lines.recv_timeout(Duration::from_millis(100)) {
                Ok(line) => {
                    if let Some(rest) = line.strip_prefix(prefix) {
                        return Ok(rest.trim().to_owned());
                    }
                }
                Err(RecvTimeoutError::Timeout) => ensure!(
                    Instant::now() < deadline,
                    "{} printed no line “{prefix}…” within {limit:?}; its log ends with:\n{}",
                    self.name,
                    tail(&self.log)
                ),
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    bail!("{} ended before it was ready ({status}); its log ends with:\n{}", self.name, tail(&self.log));
                }
            }
        }
    }

    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until the process has ended by itself.
    pub fn wait(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            interrupt::check()?;
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "{} did not end within {limit:?}; its log ends with:\n{}", self.name, tail(&self.log));
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) -> anyhow::Result<ExitStatus> {
        self.child.kill()?;
        Ok(self.child.wait()?)
    }

    /// SIGTERM; the process may take `grace` before it is killed. Says whether it ended by itself.
    pub fn stop(&mut self, grace: Duration) -> anyhow::Result<bool> {
        if self.ended()?.is_some() {
            return Ok(true);
        }
        signal(self.pid(), "TERM")?;
        let deadline = Instant::now() + grace;
        while Instant::now() < deadline {
            if self.ended()?.is_some() {
                return Ok(true);
            }
            thread::sleep(Duration::from_millis(50));
        }
        self.kill()?;
        Ok(false)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a process that is already gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Copies what the child prints into its log; the lines can be read too, until nobody does.
fn tee(pipe: impl std::io::Read + Send + 'static, mut log: File) -> Receiver<String> {
    let (sender, lines) = sync_channel(256);
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            // A full disk must not block the child, and a full channel means that nobody reads any more.
            let _ = writeln!(log, "{line}");
            let _ = sender.try_send(line);
        }
    });
    lines
}

/// Sends a signal by the shell's own `kill`: the standard library knows SIGKILL alone, and only for direct children.
pub fn signal(pid: u32, name: &str) -> anyhow::Result<()> {
    let status = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).stderr(Stdio::null()).status()?;
    ensure!(status.success(), "there is no process {pid} to send {name} to");
    Ok(())
}

/// The direct children of a process whose command line names `argument`.
pub fn children_of(pid: u32, argument: &str) -> anyhow::Result<Vec<u32>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(child) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process may end while we look at it.
        let (Ok(stat), Ok(line)) = (fs::read_to_string(format!("/proc/{child}/stat")), fs::read(format!("/proc/{child}/cmdline"))) else {
            continue;
        };
        // proc(5): the parent is the second field after the command, which stands in parentheses and may hold anything.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        if parent == Some(pid) && line.split(|b| *b == 0).any(|word| word == argument.as_bytes()) {
            children.push(child);
        }
    }
    Ok(children)
}

/// The last lines of a log, for an error that must explain itself.
pub fn tail(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(4_000)..]).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(name: &str, script: &str) -> Launch {
        let log = std::env::temp_dir().join(format!("wayside-process-{name}-{}.log", std::process::id()));
        Launch { name: name.into(), program: "sh".into(), args: vec!["-c".into(), script.into()], log }
    }

    #[test]
    fn a_line_is_waited_for_and_a_stop_is_obeyed() {
        let launch = shell("line", "echo first; echo api http://x; exec cat /dev/zero >/dev/null");
        let mut process = Process::start(&launch).unwrap();
        assert_eq!(process.line("api ", Duration::from_secs(20)).unwrap(), "http://x");
        assert!(process.stop(Duration::from_secs(20)).unwrap());
        assert!(tail(&launch.log).contains("first"));
        fs::remove_file(&launch.log).unwrap();
    }

    #[test]
    fn a_process_that_ends_too_early_is_reported_with_its_log() {
        let launch = shell("early", "echo the reason >&2; exit 3");
        let error = Process::start(&launch).unwrap().line("api ", Duration::from_secs(20)).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("the reason"), "{error}");
        fs::remove_file(&launch.log).unwrap();
    }

    #[test]
    fn a_dropped_process_is_dead_and_its_children_are_found_before() {
        let launch = shell("drop", "cat /dev/zero >/dev/null & echo up; wait");
        let mut process = Process::start(&launch).unwrap();
        process.line("up", Duration::from_secs(20)).unwrap();
        let pid = process.pid();
        let deadline = Instant::now() + Duration::from_secs(20);
        let children = loop {
            // The shell has forked, and perhaps not yet become `cat`.
            let children = children_of(pid, "/dev/zero").unwrap();
            if !children.is_empty() {
                break children;
            }
            assert!(Instant::now() < deadline, "the child never showed up in /proc");
            thread::yield_now();
        };
        assert_eq!(children.len(), 1);
        signal(children[0], "KILL").unwrap();
        drop(process);
        assert!(signal(pid, "0").is_err());
        fs::remove_file(&launch.log).unwrap();
    }
}
