//! The PostgreSQL store: a few threads, each with a connection of its own, that take work from one queue.
//!
//! Invariant: a write is durable before its caller hears of it, or the caller hears of an error and may not know; what servers beside
//! this one commit is waited for row by row. Work that lost a race is done again. Not here: the queries (`store`).

use std::{
    cell::RefCell,
    collections::BTreeMap,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail};
use postgres::{
    Client, Config, IsolationLevel, NoTls, Statement, Transaction,
    error::SqlState,
    fallible_iterator::FallibleIterator,
    types::{IsNull, ToSql, Type, private::BytesMut, to_sql_checked},
};
use tokio::sync::{mpsc, oneshot};

use crate::db::{
    sql::{EachRow, Engine, Execute, Param, Row, Tx, Value, params},
    store,
};

/// Connections of one server. Commits wait for the disk of another machine, so a few are under way at once.
const CONNECTIONS: usize = 4;
const WAITING: usize = 256;
/// How often work that lost a race is done again.
const ATTEMPTS: u32 = 8;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// See the module. Clones share the threads; these end when the last clone is gone.
#[derive(Clone)]
pub struct Postgres {
    jobs: mpsc::Sender<Job>,
    incarnation: u64,
}

impl Postgres {
    /// Connects, as `postgres://USER@HOST/DATABASE` or `postgres:///DATABASE?host=/FOLDER/OF/SOCKET` says, and brings the database up to
    /// this build's schema.
    pub async fn open(url: &str) -> anyhow::Result<Self> {
        let mut config = Config::from_str(url).context("this is not the address of a PostgreSQL database")?;
        config.connect_timeout(Duration::from_secs(10)).application_name("wayside");
        // A server that hangs, or a lock that nobody gives back, is an error and no silence.
        config.options("-c lock_timeout=30s -c idle_in_transaction_session_timeout=60s");
        let (jobs, queue) = mpsc::channel::<Job>(WAITING);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..CONNECTIONS {
            let (queue, connection) = (queue.clone(), Connection { config: config.clone(), client: None, statements: BTreeMap::new() });
            std::thread::Builder::new().name("db-postgres".into()).spawn(move || work_off(&queue, connection))?;
        }
        let mut store = Self { jobs, incarnation: 0 };
        store.call(|connection| connection.transact(Mode::Write, migrate)).await.context("could not prepare the database")?;
        store.incarnation = store.write(store::incarnation).await?;
        Ok(store)
    }

    async fn call<T, F>(&self, work: F) -> anyhow::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> anyhow::Result<T> + Send + 'static,
    {
        let (answer, result) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // A caller that went away does not want the answer; the work is done all the same.
            let _ = answer.send(work(connection));
        });
        self.jobs.send(job).await.ok().context("the database threads have ended")?;
        result.await.context("a piece of work on the database panicked")?
    }
}

impl Engine for Postgres {
    fn incarnation(&self) -> u64 {
        self.incarnation
    }

    async fn write<T, F>(&self, work: F) -> anyhow::Result<T>
    where
        T: Send + 'static,
        F: Fn(&Tx) -> anyhow::Result<T> + Send + 'static,
    {
        self.call(move |connection| connection.transact(Mode::Write, work)).await
    }

    async fn read<T, F>(&self, work: F) -> anyhow::Result<T>
    where
        T: Send + 'static,
        F: Fn(&Tx) -> anyhow::Result<T> + Send + 'static,
    {
        self.call(move |connection| connection.transact(Mode::Read, work)).await
    }
}

fn work_off(queue: &Mutex<mpsc::Receiver<Job>>, mut connection: Connection) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        let Some(job) = next else { return };
        if catch_unwind(AssertUnwindSafe(|| job(&mut connection))).is_err() {
            tracing::error!("a piece of work on the database panicked");
            // Whatever state it left is gone with the connection.
            connection.forget();
        }
    }
}

#[derive(Clone, Copy)]
enum Mode {
    /// Rows are locked where it matters.
    Write,
    /// One snapshot.
    Read,
}

/// One thread's connection, made when it is needed and made anew when it was lost.
struct Connection {
    config: Config,
    client: Option<Client>,
    statements: BTreeMap<String, Statement>,
}

impl Connection {
    fn forget(&mut self) {
        self.client = None;
        self.statements.clear();
    }

    fn transact<T>(&mut self, mode: Mode, work: impl Fn(&Tx) -> anyhow::Result<T>) -> anyhow::Result<T> {
        for attempt in 1.. {
            match self.once(mode, &work) {
                Err(e) if lost_a_race(&e) && attempt < ATTEMPTS => tracing::debug!(attempt, "a transaction is done again: {e:#}"),
                result => return result,
            }
        }
        unreachable!("the last attempt returns")
    }

    fn once<T>(&mut self, mode: Mode, work: impl Fn(&Tx) -> anyhow::Result<T>) -> anyhow::Result<T> {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            self.forget();
        }
        let client = match &mut self.client {
            Some(client) => client,
            none => none.insert(self.config.connect(NoTls).context("could not connect to PostgreSQL")?),
        };
        let builder = match mode {
            Mode::Write => client.build_transaction(),
            Mode::Read => client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true),
        };
        let running = Running { transaction: RefCell::new(builder.start()?), statements: RefCell::new(&mut self.statements) };
        let result = work(&Tx(&running))?;
        running.transaction.into_inner().commit()?;
        Ok(result)
    }
}

/// Deadlocks and failed serialisation; doing it again is the remedy that PostgreSQL's manual names (13.5).
fn lost_a_race(error: &anyhow::Error) -> bool {
    let code = error.chain().find_map(|cause| cause.downcast_ref::<postgres::Error>()).and_then(postgres::Error::code);
    code.is_some_and(|code| *code == SqlState::T_R_DEADLOCK_DETECTED || *code == SqlState::T_R_SERIALIZATION_FAILURE)
}

/// Two servers may start at once: the lock makes one of them wait.
fn migrate(tx: &Tx) -> anyhow::Result<()> {
    const LOCK: i64 = 0x0077_6179_7369_6465;
    tx.one("SELECT 1 FROM (SELECT pg_advisory_xact_lock($1)) AS waited", params![LOCK], |_| Ok(()))?;
    tx.script("CREATE TABLE IF NOT EXISTS schema_version (one BIGINT PRIMARY KEY CHECK (one = 1), version BIGINT NOT NULL)")?;
    let version: Option<usize> = tx.first("SELECT version FROM schema_version", params![], |row| row.get(0))?;
    let (version, known) = (version.unwrap_or(0), store::SCHEMA.len());
    if version > known {
        bail!("its schema has version {version} and this build knows {known}: it was written by a newer build");
    }
    for step in &store::SCHEMA[version..] {
        tx.script(&dialect(step))?;
    }
    let sql = "INSERT INTO schema_version (one, version) VALUES (1, $1) ON CONFLICT (one) DO UPDATE SET version = excluded.version";
    tx.execute(sql, params![i64::try_from(known)?]).map(drop)
}

/// The schema in PostgreSQL's words. Text is compared by its bytes, as SQLite does it, whatever the database's language.
fn dialect(schema: &str) -> String {
    [
        (") STRICT, WITHOUT ROWID;", ");"),
        (") STRICT;", ");"),
        ("INTEGER PRIMARY KEY AUTOINCREMENT", "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY"),
        ("id INTEGER PRIMARY KEY", "id BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY"),
        (" INTEGER", " BIGINT"),
        (" BLOB", " BYTEA"),
        (" REAL", " DOUBLE PRECISION"),
        (" TEXT", " TEXT COLLATE \"C\""),
    ]
    .iter()
    .fold(schema.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// A transaction under way.
struct Running<'a> {
    transaction: RefCell<Transaction<'a>>,
    statements: RefCell<&'a mut BTreeMap<String, Statement>>,
}

impl<'a> Running<'a> {
    fn transaction(&self) -> anyhow::Result<std::cell::RefMut<'_, Transaction<'a>>> {
        self.transaction.try_borrow_mut().ok().context("a statement while the rows of another are read")
    }

    fn statement(&self, sql: &str) -> anyhow::Result<Statement> {
        if let Some(known) = self.statements.borrow().get(sql) {
            return Ok(known.clone());
        }
        let statement = self.transaction()?.prepare(sql).with_context(|| format!("in {sql}"))?;
        self.statements.borrow_mut().insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }
}

impl Execute for Running<'_> {
    fn execute(&self, sql: &str, params: &[Param]) -> anyhow::Result<usize> {
        let statement = self.statement(sql)?;
        let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|param| param as &(dyn ToSql + Sync)).collect();
        Ok(usize::try_from(self.transaction()?.execute(&statement, &params)?)?)
    }

    fn each(&self, sql: &str, params: &[Param], hear: &mut EachRow) -> anyhow::Result<()> {
        let statement = self.statement(sql)?;
        let names: Arc<[String]> = statement.columns().iter().map(|column| column.name().to_owned()).collect();
        let mut transaction = self.transaction()?;
        let params = params.iter().map(|param| param as &(dyn ToSql + Sync));
        let mut rows = transaction.query_raw(&statement, params)?;
        while let Some(found) = rows.next()? {
            let values = (0..names.len()).map(|at| value(&found, at)).collect::<anyhow::Result<_>>()?;
            if hear(&Row { values, names: names.clone() })? == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }

    fn script(&self, sql: &str) -> anyhow::Result<()> {
        Ok(self.transaction()?.batch_execute(sql)?)
    }

    fn lock(&self, table: &str) -> String {
        format!(" FOR UPDATE OF {table}")
    }

    fn number_on(&self, table: &str) -> anyhow::Result<()> {
        self.script(&format!("SELECT setval(pg_get_serial_sequence('{table}', 'id'), coalesce(max(id), 0) + 1, false) FROM {table}"))
    }
}

fn value(row: &postgres::Row, at: usize) -> anyhow::Result<Value> {
    let kind = row.columns()[at].type_();
    Ok(match *kind {
        Type::INT8 => row.try_get::<_, Option<i64>>(at)?.map_or(Value::Null, Value::Int),
        Type::INT4 => row.try_get::<_, Option<i32>>(at)?.map_or(Value::Null, |number| Value::Int(number.into())),
        Type::FLOAT8 => row.try_get::<_, Option<f64>>(at)?.map_or(Value::Null, Value::Real),
        Type::TEXT => row.try_get::<_, Option<String>>(at)?.map_or(Value::Null, Value::Text),
        Type::BYTEA => row.try_get::<_, Option<Vec<u8>>>(at)?.map_or(Value::Null, Value::Blob),
        _ => bail!("column {} is of type {kind}, which no query here should give", row.columns()[at].name()),
    })
}

impl ToSql for Param<'_> {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match (self, kind) {
            (Self::Null, _) => Ok(IsNull::Yes),
            (Self::Int(number), &Type::INT8) => number.to_sql(kind, out),
            (Self::Int(number), &Type::INT4) => i32::try_from(*number)?.to_sql(kind, out),
            (Self::Real(number), &Type::FLOAT8) => number.to_sql(kind, out),
            // PostgreSQL's text has no NUL, which no name of ours has either; a label of a stranger's model may.
            (Self::Text(text), &Type::TEXT) => text.replace('\0', "\u{fffd}").to_sql(kind, out),
            (Self::Blob(bytes), &Type::BYTEA) => bytes.to_sql(kind, out),
            (given, _) => Err(format!("{given:?} for a parameter of type {kind}").into()),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_told_in_postgresqls_words() {
        let sqlite = "CREATE TABLE a (\n    id INTEGER PRIMARY KEY,\n    name TEXT NOT NULL, bytes BLOB, x REAL\n) STRICT, WITHOUT ROWID;\nALTER TABLE b ADD COLUMN n INTEGER NOT NULL DEFAULT 0;";
        let postgres = "CREATE TABLE a (\n    id BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,\n    name TEXT COLLATE \"C\" NOT NULL, bytes BYTEA, x DOUBLE PRECISION\n);\nALTER TABLE b ADD COLUMN n BIGINT NOT NULL DEFAULT 0;";
        assert_eq!(dialect(sqlite), postgres);
        for step in store::SCHEMA {
            let told = dialect(step);
            assert!(!["STRICT", "ROWID", "BLOB", "AUTOINCREMENT", " INTEGER"].iter().any(|word| told.contains(word)), "{told}");
        }
    }
}
