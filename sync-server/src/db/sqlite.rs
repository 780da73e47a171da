//! The SQLite store: one thread that writes, a few that read, and the version of the schema. Or no thread at all, for a simulation.
//!
//! Invariant: every write runs in one IMMEDIATE transaction that is on the disk (WAL, synchronous = FULL) before its caller hears of it;
//! a read sees one snapshot. But for [`Sqlite::open_inline`], a method never blocks the async runtime. Not here: the tables (`telemetry`, …).

mod registry;
mod telemetry;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail};
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

/// What each schema version adds; `user_version` says how many have run. Entries are never changed once released.
const SCHEMA: &[&str] = &[telemetry::SCHEMA_1, registry::SCHEMA_2, telemetry::SCHEMA_3, telemetry::SCHEMA_4, registry::identity::SCHEMA];

const READERS: usize = 2;
/// How many calls may wait for a thread; more callers wait for their turn.
const WAITING: usize = 256;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// See the module. Clones share the threads, or the connection; these end when the last clone is gone.
#[derive(Clone)]
pub struct Sqlite {
    engine: Engine,
    incarnation: u64,
}

/// Who does the work.
#[derive(Clone)]
enum Engine {
    Threads {
        writer: mpsc::Sender<Job>,
        readers: Arc<[mpsc::Sender<Job>]>,
        next_reader: Arc<AtomicUsize>,
    },
    /// The caller, behind a lock that is never held across an await. `None`: closed.
    Inline(Arc<Mutex<Option<Connection>>>),
}

impl Sqlite {
    /// Opens the store, making it or bringing it up to this build's schema.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let (connection, incarnation) = prepare(path, Locking::Normal)?;
        let writer = start_thread("db-writer", connection)?;
        let readers =
            (0..READERS).map(|_| start_thread("db-reader", connect(path, Locking::Normal)?)).collect::<anyhow::Result<Vec<_>>>()?;
        let engine = Engine::Threads { writer, readers: readers.into(), next_reader: Arc::default() };
        Ok(Self { engine, incarnation })
    }

    /// The same store without a thread: one connection that locks the file for itself, and every call is done when it returns. For
    /// runtimes with a paused clock, which a thread's work does not hold up.
    pub fn open_inline(path: &Path) -> anyhow::Result<Self> {
        let (connection, incarnation) = prepare(path, Locking::Exclusive)?;
        Ok(Self { engine: Engine::Inline(Arc::new(Mutex::new(Some(connection)))), incarnation })
    }

    /// Ends an inline store at once, whoever still holds a clone: their calls fail from here on, and the file can be opened again.
    pub fn close(&self) {
        if let Engine::Inline(connection) = &self.engine {
            connection.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }

    /// Writes a copy of the store, as it is now, to a file that must not be there.
    pub async fn back_up(&self, to: &Path) -> anyhow::Result<()> {
        let to = to.to_str().context("the backup's path is not UTF-8")?.to_owned();
        self.on_writer(move |connection| connection.execute("VACUUM INTO ?1", [to]).map(drop).context("the backup failed")).await
    }

    /// One writing transaction: committed where `work` succeeds.
    pub(crate) async fn write<T, F>(&self, work: F) -> anyhow::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction) -> anyhow::Result<T> + Send + 'static,
    {
        self.on_writer(move |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(result)
        })
        .await
    }

    /// One snapshot.
    pub(crate) async fn read<T, F>(&self, work: F) -> anyhow::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction) -> anyhow::Result<T> + Send + 'static,
    {
        match &self.engine {
            Engine::Threads { readers, next_reader, .. } => {
                let reader = &readers[next_reader.fetch_add(1, Ordering::Relaxed) % readers.len()];
                call(reader, move |connection| work(&connection.transaction()?)).await
            }
            Engine::Inline(connection) => at_once(connection, |connection| work(&connection.transaction()?)),
        }
    }

    async fn on_writer<T, F>(&self, work: F) -> anyhow::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> anyhow::Result<T> + Send + 'static,
    {
        match &self.engine {
            Engine::Threads { writer, .. } => call(writer, work).await,
            Engine::Inline(connection) => at_once(connection, work),
        }
    }
}

fn at_once<T>(connection: &Mutex<Option<Connection>>, work: impl FnOnce(&mut Connection) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
    work(connection.as_mut().context("the store is closed")?)
}

#[derive(Clone, Copy, PartialEq)]
enum Locking {
    Normal,
    /// No other connection; readers need no shared memory.
    Exclusive,
}

/// The connection that writes, on a file that has this build's schema.
fn prepare(path: &Path, locking: Locking) -> anyhow::Result<(Connection, u64)> {
    let mut connection = connect(path, locking).with_context(|| format!("could not open the database {}", path.display()))?;
    migrate(&mut connection).with_context(|| format!("could not prepare the database {}", path.display()))?;
    let incarnation = telemetry::incarnation(&mut connection)?;
    Ok((connection, incarnation))
}

async fn call<T, F>(thread: &mpsc::Sender<Job>, work: F) -> anyhow::Result<T>
where
    T: Send + 'static,
    F: FnOnce(&mut Connection) -> anyhow::Result<T> + Send + 'static,
{
    let (answer, result) = oneshot::channel();
    let job: Job = Box::new(move |connection| {
        // A caller that went away does not want the answer; the work is done all the same.
        let _ = answer.send(work(connection));
    });
    thread.send(job).await.ok().context("the database thread has ended")?;
    result.await.context("the database thread has ended")?
}

fn start_thread(name: &str, mut connection: Connection) -> anyhow::Result<mpsc::Sender<Job>> {
    let (jobs, mut queue) = mpsc::channel::<Job>(WAITING);
    std::thread::Builder::new().name(name.into()).spawn(move || {
        while let Some(job) = queue.blocking_recv() {
            // A panic rolls its transaction back and costs its caller the answer, not every caller after it the store.
            if catch_unwind(AssertUnwindSafe(|| job(&mut connection))).is_err() {
                tracing::error!("a piece of work on the database panicked");
            }
        }
    })?;
    Ok(jobs)
}

fn connect(path: &Path, locking: Locking) -> anyhow::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    if locking == Locking::Exclusive {
        // Before WAL: then it keeps its index in the heap and makes no shared memory.
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    connection.pragma_update(None, "cache_size", -8_000)?;
    Ok(connection)
}

fn migrate(connection: &mut Connection) -> anyhow::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let version = usize::try_from(version).context("the schema version is negative")?;
    if version > SCHEMA.len() {
        bail!("its schema has version {version} and this build knows {}: it was written by a newer build", SCHEMA.len());
    }
    for step in &SCHEMA[version..] {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", SCHEMA.len() as i64)?;
    transaction.commit()?;
    Ok(())
}
