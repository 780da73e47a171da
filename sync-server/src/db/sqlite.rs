//! The SQLite store: one thread that writes, a few that read. Or no thread at all, for a simulation.
//!
//! Invariant: every write runs in one IMMEDIATE transaction that is on the disk (WAL, synchronous = FULL) before its caller hears of it;
//! a read sees one snapshot. But for [`Sqlite::open_inline`], a method never blocks the async runtime. Not here: the queries (`store`).

use std::{
    cell::RefCell,
    collections::BTreeMap,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use rusqlite::{
    Connection, OpenFlags, Statement, TransactionBehavior,
    types::{ToSqlOutput, ValueRef},
};
use tokio::sync::{mpsc, oneshot};

use crate::db::{
    sql::{EachRow, Engine, Execute, Param, Row, Tx, Value},
    store,
};

const READERS: usize = 2;
/// How many calls may wait for a thread; more callers wait for their turn.
const WAITING: usize = 256;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// See the module. Clones share the threads, or the connection; these end when the last clone is gone.
#[derive(Clone)]
pub struct Sqlite {
    connections: Connections,
    incarnation: u64,
}

/// Who does the work.
#[derive(Clone)]
enum Connections {
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
        let connections = Connections::Threads { writer, readers: readers.into(), next_reader: Arc::default() };
        Ok(Self { connections, incarnation })
    }

    /// The same store without a thread: one connection that locks the file for itself, and every call is done when it returns. For
    /// runtimes with a paused clock, which a thread's work does not hold up.
    pub fn open_inline(path: &Path) -> anyhow::Result<Self> {
        let (connection, incarnation) = prepare(path, Locking::Exclusive)?;
        Ok(Self { connections: Connections::Inline(Arc::new(Mutex::new(Some(connection)))), incarnation })
    }

    /// Ends an inline store at once, whoever still holds a clone: their calls fail from here on, and the file can be opened again.
    pub fn close(&self) {
        if let Connections::Inline(connection) = &self.connections {
            connection.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }

    /// Writes a copy of the store, as it is now, to a file that must not be there.
    pub async fn back_up(&self, to: &Path) -> anyhow::Result<()> {
        let to = to.to_str().context("the backup's path is not UTF-8")?.to_owned();
        self.on_writer(move |connection| connection.execute("VACUUM INTO ?1", [to]).map(drop).context("the backup failed")).await
    }

    async fn on_writer<T, F>(&self, work: F) -> anyhow::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> anyhow::Result<T> + Send + 'static,
    {
        match &self.connections {
            Connections::Threads { writer, .. } => call(writer, work).await,
            Connections::Inline(connection) => at_once(connection, work),
        }
    }
}

impl Engine for Sqlite {
    fn incarnation(&self) -> u64 {
        self.incarnation
    }

    async fn write<T, F>(&self, work: F) -> anyhow::Result<T>
    where
        T: Send + 'static,
        F: Fn(&Tx) -> anyhow::Result<T> + Send + 'static,
    {
        self.on_writer(move |connection| committed(connection, work)).await
    }

    async fn read<T, F>(&self, work: F) -> anyhow::Result<T>
    where
        T: Send + 'static,
        F: Fn(&Tx) -> anyhow::Result<T> + Send + 'static,
    {
        match &self.connections {
            Connections::Threads { readers, next_reader, .. } => {
                let reader = &readers[next_reader.fetch_add(1, Ordering::Relaxed) % readers.len()];
                call(reader, move |connection| work(&Tx(&Running::new(&*connection.transaction()?)))).await
            }
            Connections::Inline(connection) => at_once(connection, |connection| work(&Tx(&Running::new(&*connection.transaction()?)))),
        }
    }
}

fn committed<T>(connection: &mut Connection, work: impl FnOnce(&Tx) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let result = work(&Tx(&Running::new(&transaction)))?;
    transaction.commit()?;
    Ok(result)
}

fn at_once<T>(connection: &Mutex<Option<Connection>>, work: impl FnOnce(&mut Connection) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
    work(connection.as_mut().context("the store is closed")?)
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
    let incarnation = committed(&mut connection, store::incarnation)?;
    Ok((connection, incarnation))
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
    let known = store::SCHEMA.len();
    if version > known {
        bail!("its schema has version {version} and this build knows {known}: it was written by a newer build");
    }
    for step in &store::SCHEMA[version..] {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", known as i64)?;
    transaction.commit()?;
    Ok(())
}

/// A transaction under way, with the statements that it has used.
struct Running<'a> {
    connection: &'a Connection,
    statements: RefCell<BTreeMap<String, Statement<'a>>>,
}

impl<'a> Running<'a> {
    fn new(connection: &'a Connection) -> Self {
        Self { connection, statements: RefCell::default() }
    }

    /// Takes the statement out, so that one which is being read is not bound anew; [`Running::keep`] puts it back.
    fn bound(&self, sql: &str, params: &[Param]) -> anyhow::Result<Statement<'a>> {
        let known = self.statements.borrow_mut().remove(sql);
        let mut statement = match known {
            Some(statement) => statement,
            None => self.connection.prepare(sql).with_context(|| format!("in {sql}"))?,
        };
        ensure!(statement.parameter_count() == params.len(), "{} parameters for {sql}", params.len());
        for (at, param) in params.iter().enumerate() {
            // Numbered by first use, so that both engines mean the same one.
            debug_assert_eq!(statement.parameter_name(at + 1), Some(format!("${}", at + 1).as_str()), "{sql}");
            statement.raw_bind_parameter(at + 1, param)?;
        }
        Ok(statement)
    }

    fn keep(&self, sql: &str, statement: Statement<'a>) {
        self.statements.borrow_mut().insert(sql.to_owned(), statement);
    }
}

impl Execute for Running<'_> {
    fn execute(&self, sql: &str, params: &[Param]) -> anyhow::Result<usize> {
        let mut statement = self.bound(sql, params)?;
        let changed = statement.raw_execute()?;
        self.keep(sql, statement);
        Ok(changed)
    }

    fn each(&self, sql: &str, params: &[Param], hear: &mut EachRow) -> anyhow::Result<()> {
        let mut statement = self.bound(sql, params)?;
        let names: Arc<[String]> = statement.column_names().map(String::from).collect();
        let mut rows = statement.raw_query();
        while let Some(found) = rows.next()? {
            let values = (0..names.len()).map(|at| found.get_ref(at).map(value)).collect::<Result<_, _>>()?;
            if hear(&Row { values, names: names.clone() })? == ControlFlow::Break(()) {
                break;
            }
        }
        drop(rows);
        self.keep(sql, statement);
        Ok(())
    }

    fn script(&self, sql: &str) -> anyhow::Result<()> {
        Ok(self.connection.execute_batch(sql)?)
    }

    /// There is one writer.
    fn lock(&self, _: &str) -> String {
        String::new()
    }

    /// The rowid goes on by itself.
    fn number_on(&self, _: &str) -> anyhow::Result<()> {
        Ok(())
    }
}

fn value(stored: ValueRef) -> Value {
    match stored {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Int(number),
        ValueRef::Real(number) => Value::Real(number),
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
    }
}

impl rusqlite::ToSql for Param<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Int(number) => ValueRef::Integer(*number),
            Self::Real(number) => ValueRef::Real(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}
