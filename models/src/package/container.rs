//! Many files as one string of bytes: magic, version, length of the table, the table (postcard), then the files in its order.
//!
//! Invariant: paths rise strictly, so one set of files has one packing; reading checks every length against the bytes that are
//! there before it copies. Not here: which files make a package.

use std::{collections::BTreeMap, ops::Range};

use serde::{Deserialize, Serialize};

use super::{PackageError, limit};

const MAGIC: [u8; 8] = *b"waysidep";
const VERSION: u8 = 1;
/// Magic, version, length of the table as u32.
const FIXED: usize = MAGIC.len() + 1 + 4;
/// A package has at most six files of its own and twelve golden inputs.
pub const MAX_FILES: usize = 32;
const MAX_TABLE: usize = 8 * 1024;

#[derive(Serialize, Deserialize)]
struct Entry {
    path: String,
    length: u64,
}

pub fn pack(files: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let mut packed = head(files);
    packed.reserve_exact(files.values().map(Vec::len).sum());
    files.values().for_each(|bytes| packed.extend_from_slice(bytes));
    packed
}

/// Everything before the first file.
pub fn head(files: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let table: Vec<Entry> = files.iter().map(|(path, bytes)| Entry { path: path.clone(), length: bytes.len() as u64 }).collect();
    let table = postcard::to_allocvec(&table).expect("writing to a Vec does not fail");
    let mut head = MAGIC.to_vec();
    head.push(VERSION);
    head.extend_from_slice(&(table.len() as u32).to_le_bytes());
    head.extend_from_slice(&table);
    head
}

pub fn unpack(packed: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, PackageError> {
    Ok(places(packed)?.into_iter().map(|(path, range)| (path, packed[range].to_vec())).collect())
}

/// Each file with where it lies, in order.
pub fn places(packed: &[u8]) -> Result<Vec<(String, Range<usize>)>, PackageError> {
    let damaged = |what: &str| PackageError::Container(what.into());
    let fixed = packed.get(..FIXED).ok_or_else(|| damaged("cut off"))?;
    if fixed[..MAGIC.len()] != MAGIC {
        return Err(damaged("not a package"));
    }
    if fixed[MAGIC.len()] != VERSION {
        return Err(damaged("packed by a newer version"));
    }
    let length = u32::from_le_bytes(fixed[MAGIC.len() + 1..].try_into().expect("four bytes")) as usize;
    if length > MAX_TABLE {
        return Err(damaged("the table is too long"));
    }
    let table = packed.get(FIXED..FIXED + length).ok_or_else(|| damaged("cut off"))?;
    let (entries, rest): (Vec<Entry>, _) = postcard::take_from_bytes(table).map_err(|_| damaged("the table is not readable"))?;
    if !rest.is_empty() || entries.len() > MAX_FILES {
        return Err(damaged("the table is too long"));
    }
    let mut places: Vec<(String, Range<usize>)> = Vec::with_capacity(entries.len());
    let mut at = FIXED + length;
    for Entry { path, length } in entries {
        let limit = limit(&path).ok_or_else(|| PackageError::Unexpected(path.clone()))?;
        if length > limit as u64 {
            return Err(PackageError::TooLarge { file: path, limit });
        }
        if places.last().is_some_and(|(before, _)| *before >= path) {
            return Err(damaged("the table is not sorted"));
        }
        let end = at + length as usize;
        if end > packed.len() {
            return Err(damaged("cut off"));
        }
        places.push((path, at..end));
        at = end;
    }
    if at == packed.len() { Ok(places) } else { Err(damaged("bytes after the last file")) }
}
