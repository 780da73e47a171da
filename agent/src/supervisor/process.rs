//! One worker process: begun, asked, ended.
//!
//! Invariant: whatever the process writes is bounded; when this value is dropped, the process is killed. Not here: starting
//! another one.

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    time::timeout,
};
use wayside_models::package::Package;

use super::Config;
use crate::{
    judge::Loaded,
    worker::protocol::{self, Passed, Reply, Request},
};

/// Loading and optimising a network on a slow device.
const READY: Duration = Duration::from_secs(60);
/// How long a process that has closed its pipes may take to end by itself.
const END: Duration = Duration::from_secs(1);
/// Of what a worker writes to stderr at once.
const MAX_LINE: usize = 2_000;

/// The model that a process runs, and how long it may think.
#[derive(Clone)]
pub struct Present {
    pub dir: PathBuf,
    pub loaded: Arc<Loaded>,
    pub limit: Duration,
}

/// A process that has its model loaded.
pub struct Launched {
    pub present: Present,
    pub process: Process,
}

pub struct Process {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    bytes: Vec<u8>,
}

/// Why a question has no reply. The process is gone in both cases.
#[derive(Debug)]
pub enum Lost {
    Died(String),
    TimedOut,
}

/// Begins a worker on the package in `dir` and waits until it is ready.
pub async fn launch(config: &Config, dir: &Path) -> Result<Launched, String> {
    let present = present(config, dir).await?;
    let mut process = Process::spawn(config, dir).map_err(|error| format!("a worker cannot be started: {error}"))?;
    match process.reply_within(READY).await {
        Ok(Reply::Ready(model)) if model == present.loaded.model => Ok(Launched { present, process }),
        Ok(Reply::Ready(_)) => Err("the package has changed while it was loaded".into()),
        Ok(Reply::Unloadable(reason)) => Err(reason),
        Ok(_) => Err("the worker does not speak the protocol".into()),
        Err(Lost::Died(reason)) => Err(format!("the worker died while it loaded the package: {reason}")),
        Err(Lost::TimedOut) => Err(format!("the package is not loaded after {} s", READY.as_secs())),
    }
}

/// What the core has to know of the package; no engine looks at it here.
async fn present(config: &Config, dir: &Path) -> Result<Present, String> {
    let (dir, patience) = (dir.to_owned(), config.patience);
    let opening = move || {
        let package = Package::open(&dir).map_err(|error| error.to_string())?;
        let limit = patience.max(package.manifest().latency_limit.saturating_mul(10));
        Ok(Present { dir, loaded: Arc::new(Loaded::of(&package)), limit })
    };
    tokio::task::spawn_blocking(opening).await.map_err(|error| error.to_string())?
}

impl Process {
    pub(super) fn spawn(config: &Config, dir: &Path) -> io::Result<Self> {
        let mut child = Command::new(&config.program)
            .arg("worker")
            .arg("--package")
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let id = child.id().unwrap_or_default();
        let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(input), Some(output), Some(errors)) = (input, output, errors) else { return Err(io::ErrorKind::BrokenPipe.into()) };
        tokio::spawn(log_errors(id, errors));
        Ok(Self { child, input, output, bytes: Vec::new() })
    }

    /// Asks and waits for the reply; after an error the process is gone.
    pub async fn ask(&mut self, request: &Request<'_>, limit: Duration) -> Result<Reply, Lost> {
        let asking = async {
            self.input.write_all(&protocol::frame(request)?).await?;
            self.input.flush().await?;
            self.read().await
        };
        let asked = timeout(limit, asking).await;
        self.settle(asked).await
    }

    pub async fn self_test(&mut self, request: &Request<'_>) -> Result<Passed, String> {
        // The caller bounds the time.
        match self.ask(request, Duration::MAX).await {
            Ok(Reply::SelfTest(result)) => result,
            Ok(Reply::Failed(reason) | Reply::BadInput(reason)) => Err(reason),
            Ok(_) => Err("the worker does not speak the protocol".into()),
            Err(Lost::Died(reason)) => Err(format!("the worker died in the self test: {reason}")),
            Err(Lost::TimedOut) => Err("the worker does not answer".into()),
        }
    }

    /// Ends when the process does, and says how. May be dropped and called again.
    pub async fn died(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }

    async fn reply_within(&mut self, limit: Duration) -> Result<Reply, Lost> {
        let read = timeout(limit, self.read()).await;
        self.settle(read).await
    }

    async fn settle(&mut self, result: Result<io::Result<Reply>, tokio::time::error::Elapsed>) -> Result<Reply, Lost> {
        match result {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => {
                let status = timeout(END, self.died()).await.ok();
                let _ = self.child.kill().await;
                Err(Lost::Died(status.unwrap_or_else(|| error.to_string())))
            }
            Err(_) => {
                let _ = self.child.kill().await;
                Err(Lost::TimedOut)
            }
        }
    }

    async fn read(&mut self) -> io::Result<Reply> {
        let mut prefix = [0; 4];
        self.output.read_exact(&mut prefix).await?;
        let length = protocol::length(prefix)?;
        self.bytes.clear();
        if (&mut self.output).take(length as u64).read_to_end(&mut self.bytes).await? < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        protocol::parse(&self.bytes)
    }
}

/// What a worker says on stderr goes to the core's log, in bounded pieces.
async fn log_errors(worker: u32, mut errors: ChildStderr) {
    let mut piece = [0; MAX_LINE];
    while let Ok(length) = errors.read(&mut piece).await {
        if length == 0 {
            return;
        }
        for line in String::from_utf8_lossy(&piece[..length]).lines().filter(|line| !line.trim().is_empty()) {
            tracing::warn!(worker, "{line}");
        }
    }
}
