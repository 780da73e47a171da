//! One SQL text for two engines: a transaction that executes it, and the few kinds of value that go in and out.
//!
//! Invariant: placeholders are `$1`, `$2`, … in the order of their first use (SQLite takes them for names and numbers them so); a query's
//! rows are read before the next statement is executed. Not here: threads and connections (`sqlite`, `postgres`), the queries (`store`).

use std::{ops::ControlFlow, sync::Arc};

use anyhow::{Context, bail};

/// A value as it is stored. Truth is 0 or 1.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Int(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

/// A value on its way in.
#[derive(Clone, Copy, Debug)]
pub enum Param<'a> {
    Null,
    Int(i64),
    Real(f64),
    Text(&'a str),
    Blob(&'a [u8]),
}

pub trait ToParam {
    fn param(&self) -> Param<'_>;
}

/// The parameters of a statement, in order.
macro_rules! params {
    ($($value:expr),* $(,)?) => { &[$($crate::db::sql::ToParam::param(&$value)),*] };
}
pub(crate) use params;

macro_rules! integers {
    ($($kind:ty),*) => { $(impl ToParam for $kind {
        fn param(&self) -> Param<'_> {
            Param::Int(i64::from(*self))
        }
    })* };
}
integers!(i64, i32, u32, bool);

impl ToParam for f64 {
    /// What is not a number is no value: SQLite makes it NULL, PostgreSQL would keep it.
    fn param(&self) -> Param<'_> {
        if self.is_nan() { Param::Null } else { Param::Real(*self) }
    }
}
impl ToParam for str {
    fn param(&self) -> Param<'_> {
        Param::Text(self)
    }
}
impl ToParam for String {
    fn param(&self) -> Param<'_> {
        Param::Text(self)
    }
}
impl ToParam for [u8] {
    fn param(&self) -> Param<'_> {
        Param::Blob(self)
    }
}
impl<const N: usize> ToParam for [u8; N] {
    fn param(&self) -> Param<'_> {
        Param::Blob(self)
    }
}
impl ToParam for Vec<u8> {
    fn param(&self) -> Param<'_> {
        Param::Blob(self)
    }
}
impl<T: ToParam + ?Sized> ToParam for &T {
    fn param(&self) -> Param<'_> {
        (**self).param()
    }
}
impl<T: ToParam> ToParam for Option<T> {
    fn param(&self) -> Param<'_> {
        self.as_ref().map_or(Param::Null, ToParam::param)
    }
}
impl ToParam for Value {
    fn param(&self) -> Param<'_> {
        match self {
            Self::Null => Param::Null,
            Self::Int(number) => Param::Int(*number),
            Self::Real(number) => Param::Real(*number),
            Self::Text(text) => Param::Text(text),
            Self::Blob(bytes) => Param::Blob(bytes),
        }
    }
}

/// One row of an answer.
#[derive(Clone, Debug)]
pub struct Row {
    pub values: Vec<Value>,
    /// The columns' names, as the engine has them.
    pub names: Arc<[String]>,
}

/// A column by its place or its name.
pub trait Column {
    fn find(&self, row: &Row) -> Option<usize>;
}
impl Column for usize {
    fn find(&self, row: &Row) -> Option<usize> {
        (*self < row.values.len()).then_some(*self)
    }
}
impl Column for &str {
    fn find(&self, row: &Row) -> Option<usize> {
        row.names.iter().position(|name| name == self)
    }
}

impl Row {
    /// An error: the column is not there or holds another kind of value.
    pub fn get<C: Column, T: FromValue>(&self, column: C) -> anyhow::Result<T> {
        let at = column.find(self).context("a column that the query does not name")?;
        T::from_value(&self.values[at]).with_context(|| format!("column {}", self.names.get(at).map_or("?", String::as_str)))
    }
}

pub trait FromValue: Sized {
    fn from_value(value: &Value) -> anyhow::Result<Self>;
}

impl FromValue for Value {
    fn from_value(value: &Value) -> anyhow::Result<Self> {
        Ok(value.clone())
    }
}
impl FromValue for i64 {
    fn from_value(value: &Value) -> anyhow::Result<Self> {
        let Value::Int(number) = value else { bail!("{value:?} where a number belongs") };
        Ok(*number)
    }
}
macro_rules! narrower {
    ($($kind:ty),*) => { $(impl FromValue for $kind {
        fn from_value(value: &Value) -> anyhow::Result<Self> {
            <$kind>::try_from(i64::from_value(value)?).context("a stored number is out of bounds")
        }
    })* };
}
narrower!(u64, u32, i32, usize);

impl FromValue for bool {
    fn from_value(value: &Value) -> anyhow::Result<Self> {
        Ok(i64::from_value(value)? != 0)
    }
}
impl FromValue for f64 {
    fn from_value(value: &Value) -> anyhow::Result<Self> {
        match value {
            Value::Real(number) => Ok(*number),
            _ => bail!("{value:?} where a real number belongs"),
        }
    }
}
impl FromValue for String {
    fn from_value(value: &Value) -> anyhow::Result<Self> {
        let Value::Text(text) = value else { bail!("{value:?} where text belongs") };
        Ok(text.clone())
    }
}
impl FromValue for Vec<u8> {
    fn from_value(value: &Value) -> anyhow::Result<Self> {
        let Value::Blob(bytes) = value else { bail!("{value:?} where bytes belong") };
        Ok(bytes.clone())
    }
}
impl<const N: usize> FromValue for [u8; N] {
    fn from_value(value: &Value) -> anyhow::Result<Self> {
        let bytes = Vec::<u8>::from_value(value)?;
        let found = bytes.len();
        bytes.try_into().map_err(|_| anyhow::anyhow!("{found} bytes, and {N} are right"))
    }
}
impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: &Value) -> anyhow::Result<Self> {
        if *value == Value::Null { Ok(None) } else { T::from_value(value).map(Some) }
    }
}

/// Hears of each row; `Break` ends the query.
pub type EachRow<'a> = dyn FnMut(&Row) -> anyhow::Result<ControlFlow<()>> + 'a;

/// What an engine does inside a transaction of its own.
pub trait Execute {
    fn execute(&self, sql: &str, params: &[Param]) -> anyhow::Result<usize>;
    fn each(&self, sql: &str, params: &[Param], row: &mut EachRow) -> anyhow::Result<()>;
    /// Statements without parameters or answers.
    fn script(&self, sql: &str) -> anyhow::Result<()>;
    /// What a SELECT ends with so that nobody else changes the table's rows until this transaction ends.
    fn lock(&self, table: &str) -> String;
    /// New rows of a table are numbered after the ones that it has.
    fn number_on(&self, table: &str) -> anyhow::Result<()>;
}

/// A transaction of either engine.
pub struct Tx<'a>(pub &'a dyn Execute);

impl Tx<'_> {
    /// Gives how many rows were changed.
    pub fn execute(&self, sql: &str, params: &[Param]) -> anyhow::Result<usize> {
        self.0.execute(sql, params)
    }

    /// Hears of each row as it comes, so that a large answer is never held whole.
    pub fn each(&self, sql: &str, params: &[Param], mut row: impl FnMut(&Row) -> anyhow::Result<ControlFlow<()>>) -> anyhow::Result<()> {
        self.0.each(sql, params, &mut row)
    }

    pub fn rows<T>(&self, sql: &str, params: &[Param], mut read: impl FnMut(&Row) -> anyhow::Result<T>) -> anyhow::Result<Vec<T>> {
        let mut rows = Vec::new();
        self.each(sql, params, |row| {
            rows.push(read(row)?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(rows)
    }

    /// The first row, if there is one.
    pub fn first<T>(&self, sql: &str, params: &[Param], mut read: impl FnMut(&Row) -> anyhow::Result<T>) -> anyhow::Result<Option<T>> {
        let mut first = None;
        self.each(sql, params, |row| {
            first = Some(read(row)?);
            Ok(ControlFlow::Break(()))
        })?;
        Ok(first)
    }

    /// The one row of a query that always has one.
    pub fn one<T>(&self, sql: &str, params: &[Param], read: impl FnMut(&Row) -> anyhow::Result<T>) -> anyhow::Result<T> {
        self.first(sql, params, read)?.context("a query without an answer")
    }

    pub fn script(&self, sql: &str) -> anyhow::Result<()> {
        self.0.script(sql)
    }

    pub fn lock(&self, table: &str) -> String {
        self.0.lock(table)
    }

    pub fn number_on(&self, table: &str) -> anyhow::Result<()> {
        self.0.number_on(table)
    }
}

/// Runs pieces of work on the store; each is one transaction. A piece of work may be run again where the engine could not commit it
/// beside others.
pub trait Engine: Send + Sync {
    fn incarnation(&self) -> u64;

    /// Durable when it returns, where `work` succeeds.
    fn write<T, F>(&self, work: F) -> impl Future<Output = anyhow::Result<T>> + Send
    where
        T: Send + 'static,
        F: Fn(&Tx) -> anyhow::Result<T> + Send + 'static;

    /// One snapshot.
    fn read<T, F>(&self, work: F) -> impl Future<Output = anyhow::Result<T>> + Send
    where
        T: Send + 'static,
        F: Fn(&Tx) -> anyhow::Result<T> + Send + 'static;
}

/// The names of the tables that a schema makes, in its order, and of these the ones that number their rows themselves.
pub fn tables(schema: &[&str]) -> Vec<(String, bool)> {
    let statements = schema.iter().flat_map(|step| step.split("CREATE TABLE ").skip(1));
    statements
        .filter_map(|statement| {
            let (name, rest) = statement.split_once('(')?;
            Some((name.trim().to_owned(), rest.trim_start().starts_with("id INTEGER PRIMARY KEY")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_what_they_are_or_not_at_all() {
        let row = Row {
            values: vec![Value::Int(-1), Value::Null, Value::Text("x".into()), Value::Blob(vec![1, 2])],
            names: ["a", "b", "c", "d"].map(String::from).into(),
        };
        assert_eq!((row.get::<_, i64>(0).ok(), row.get::<_, u64>(0).ok()), (Some(-1), None));
        assert_eq!((row.get::<_, Option<i64>>("b").ok(), row.get::<_, i64>("b").ok()), (Some(None), None));
        assert_eq!((row.get::<_, String>("c").ok().as_deref(), row.get::<_, bool>("c").ok()), (Some("x"), None));
        assert_eq!((row.get::<_, [u8; 2]>(3).ok(), row.get::<_, [u8; 3]>(3).ok()), (Some([1, 2]), None));
        assert!(row.get::<_, i64>(4).is_err() && row.get::<_, i64>("e").is_err());
    }

    #[test]
    fn a_schema_says_its_tables() {
        let found =
            tables(&["\nCREATE TABLE a (\n    id INTEGER PRIMARY KEY,\n x TEXT);", "CREATE INDEX i ON a (x);\nCREATE TABLE b (x TEXT);"]);
        assert_eq!(found, [("a".to_owned(), true), ("b".to_owned(), false)]);
    }
}
