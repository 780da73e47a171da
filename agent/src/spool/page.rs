//! The pages of a SQLite file as bytes, read without SQLite: for a file that SQLite refuses.
//!
//! Format as in <https://www.sqlite.org/fileformat2.html>, sections 1.3 (header), 1.5 (freelist), 1.6 (b-tree pages), 2.1 (records)
//! and 4 (log). Invariant: any bytes are taken without panic; a row is given only if its record is whole, and no list is followed
//! longer than the file has pages. Not here: what the rows mean (`salvage`).

use std::collections::{BTreeMap, BTreeSet};

pub const PAGE: usize = 4096;
const FRAME: usize = 24 + PAGE;
const LOG_HEADER: usize = 32;
/// No record of a store is longer; a length beyond it is damage.
const MAX_RECORD: usize = 1024 * 1024;
const TABLE_LEAF: u8 = 0x0d;
const TABLE_INTERIOR: u8 = 0x05;

/// Reads from an offset on; says how much there was.
pub type ReadAt<'a> = &'a dyn Fn(u64, &mut [u8]) -> usize;

/// A database file under what its log adds.
pub struct Pages<'a> {
    file: ReadAt<'a>,
    log: ReadAt<'a>,
    /// Where in the log the newest committed content of a page stands.
    in_log: BTreeMap<u32, u64>,
    /// Pages of the file, the last one perhaps only in part.
    in_file: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Int(i64),
    Real,
    Text(String),
    Blob(Vec<u8>),
}

impl Value {
    pub fn int(&self) -> Option<i64> {
        if let Self::Int(value) = self { Some(*value) } else { None }
    }

    pub fn text(&self) -> Option<&str> {
        if let Self::Text(value) = self { Some(value) } else { None }
    }
}

/// A row of a table: its number, its columns.
pub type Row = (i64, Vec<Value>);

/// The leaf pages of one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leaves {
    pub pages: Vec<u32>,
    /// All of the table's pages could be read.
    pub whole: bool,
}

impl<'a> Pages<'a> {
    pub fn new(file: ReadAt<'a>, file_len: u64, log: ReadAt<'a>) -> Self {
        let in_file = u32::try_from(file_len.div_ceil(PAGE as u64)).unwrap_or(u32::MAX);
        Self { file, log, in_log: committed(log), in_file }
    }

    /// Every page that is there, whatever the header says.
    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        (1..=self.in_file).chain(self.in_log.keys().copied().filter(|number| *number > self.in_file))
    }

    pub fn page(&self, number: u32) -> Option<Vec<u8>> {
        let mut page = vec![0; PAGE];
        let read = match self.in_log.get(&number) {
            Some(offset) => (self.log)(*offset, &mut page),
            None if number == 0 || number > self.in_file => return None,
            None => (self.file)(u64::from(number - 1) * PAGE as u64, &mut page),
        };
        (read == PAGE).then_some(page)
    }

    /// The root pages of the tables by name; `None`: the header or the schema is damaged.
    pub fn roots(&self) -> Option<BTreeMap<String, u32>> {
        let first = self.page(1)?;
        if !first.starts_with(b"SQLite format 3\0") || be16(&first, 16)? as usize != PAGE {
            return None;
        }
        let schema = self.leaves(1);
        let mut roots = BTreeMap::new();
        for page in schema.pages.iter().filter(|_| schema.whole) {
            for (_, columns) in self.rows(*page) {
                if let [kind, name, _, root, _] = &columns[..]
                    && kind.text() == Some("table")
                {
                    roots.insert(name.text()?.to_owned(), u32::try_from(root.int()?).ok()?);
                }
            }
        }
        schema.whole.then_some(roots)
    }

    /// The pages that hold nothing any more; `None`: their list is damaged.
    pub fn free(&self) -> Option<BTreeSet<u32>> {
        let first = self.page(1)?;
        let (mut trunk, expected) = (be32(&first, 32)?, be32(&first, 36)?);
        let mut free = BTreeSet::new();
        while trunk != 0 {
            let page = self.page(trunk)?;
            let count = be32(&page, 4)? as usize;
            if !free.insert(trunk) || count > PAGE / 4 - 2 {
                return None;
            }
            for at in 0..count {
                free.insert(be32(&page, 8 + 4 * at)?);
            }
            trunk = be32(&page, 0)?;
        }
        (free.len() == expected as usize).then_some(free)
    }

    /// The leaf pages below `root`.
    pub fn leaves(&self, root: u32) -> Leaves {
        let mut leaves = Leaves { pages: Vec::new(), whole: true };
        let (mut open, mut seen) = (vec![root], BTreeSet::new());
        while let Some(number) = open.pop() {
            let children = if seen.insert(number) { self.page(number).and_then(|page| children(&page, number)) } else { None };
            match children {
                Some(Children::Leaf) => leaves.pages.push(number),
                Some(Children::Of(below)) => open.extend(below.into_iter().rev()),
                None => leaves.whole = false,
            }
        }
        leaves
    }

    /// The rows of a table's leaf page that are whole. A page of another kind has none.
    pub fn rows(&self, number: u32) -> Vec<Row> {
        let Some(page) = self.page(number) else { return Vec::new() };
        let header = if number == 1 { 100 } else { 0 };
        if page[header] != TABLE_LEAF {
            return Vec::new();
        }
        let count = be16(&page, header + 3).unwrap_or(0) as usize;
        (0..count).filter_map(|cell| self.row(&page, be16(&page, header + 8 + 2 * cell)? as usize)).collect()
    }

    /// How many rows the page says that it has.
    pub fn cells(&self, number: u32) -> usize {
        let header = if number == 1 { 100 } else { 0 };
        self.page(number).and_then(|page| be16(&page, header + 3)).unwrap_or(0) as usize
    }

    fn row(&self, page: &[u8], at: usize) -> Option<Row> {
        let (len, used) = varint(page.get(at..)?)?;
        let (number, used_too) = varint(page.get(at + used..)?)?;
        let (len, from) = (usize::try_from(len).ok()?, at + used + used_too);
        if len > MAX_RECORD {
            return None;
        }
        let local = local_len(len);
        let mut record = page.get(from..from + local)?.to_vec();
        let mut next = if local < len { be32(page, from + local)? } else { 0 };
        while record.len() < len {
            let overflow = self.page(next)?;
            let part = (len - record.len()).min(PAGE - 4);
            record.extend_from_slice(&overflow[4..4 + part]);
            next = be32(&overflow, 0)?;
        }
        Some((number as i64, columns(&record)?))
    }
}

enum Children {
    Leaf,
    Of(Vec<u32>),
}

fn children(page: &[u8], number: u32) -> Option<Children> {
    let header = if number == 1 { 100 } else { 0 };
    match page[header] {
        TABLE_LEAF => Some(Children::Leaf),
        TABLE_INTERIOR => {
            let count = be16(page, header + 3)? as usize;
            let mut below =
                (0..count).map(|cell| be32(page, be16(page, header + 12 + 2 * cell)? as usize)).collect::<Option<Vec<u32>>>()?;
            below.push(be32(page, header + 8)?);
            Some(Children::Of(below))
        }
        _ => None,
    }
}

/// How much of a record of `len` bytes stands on its leaf page (section 1.6).
fn local_len(len: usize) -> usize {
    let most = PAGE - 35;
    if len <= most {
        return len;
    }
    let least = (PAGE - 12) * 32 / 255 - 23;
    let local = least + (len - least) % (PAGE - 4);
    if local <= most { local } else { least }
}

fn columns(record: &[u8]) -> Option<Vec<Value>> {
    let (header_len, mut at) = varint(record)?;
    let header_len = usize::try_from(header_len).ok()?;
    let mut from = header_len;
    let mut columns = Vec::new();
    while at < header_len {
        let (kind, used) = varint(record.get(at..header_len)?)?;
        at += used;
        let (value, len) = value(kind, record.get(from..)?)?;
        from += len;
        columns.push(value);
    }
    (from == record.len()).then_some(columns)
}

fn value(kind: u64, bytes: &[u8]) -> Option<(Value, usize)> {
    let int = |len: usize| {
        let bytes = bytes.get(..len)?;
        let start = if bytes[0] & 0x80 == 0 { 0 } else { -1i64 };
        Some((Value::Int(bytes.iter().fold(start, |value, byte| value << 8 | i64::from(*byte))), len))
    };
    match kind {
        0 => Some((Value::Null, 0)),
        1..=4 => int(kind as usize),
        5 => int(6),
        6 => int(8),
        7 => bytes.get(..8).map(|_| (Value::Real, 8)),
        8 | 9 => Some((Value::Int(kind as i64 - 8), 0)),
        10 | 11 => None,
        _ => {
            let len = usize::try_from((kind - 12) / 2).ok()?;
            let bytes = bytes.get(..len)?.to_vec();
            let value = if kind.is_multiple_of(2) { Value::Blob(bytes) } else { Value::Text(String::from_utf8(bytes).ok()?) };
            Some((value, len))
        }
    }
}

/// Where in the log the newest committed content of each page stands. Reading ends at the first frame that is not of this log or does
/// not fit its checksum. Where the header is damaged no checksum can be checked; then the frames that are of one log with the first one
/// are taken as they are, and the rows in them must show whether they are whole.
fn committed(log: ReadAt<'_>) -> BTreeMap<u32, u64> {
    let mut pages = BTreeMap::new();
    let mut header = [0; LOG_HEADER];
    log(0, &mut header);
    let word = |bytes: &[u8], at| be32(bytes, at).unwrap_or(0);
    let big_endian = word(&header, 0) & 1 != 0;
    let mut sum = sum_of(&header[..24], (0, 0), big_endian);
    let good = word(&header, 0) & !1 == 0x377f_0682 && sum == (word(&header, 24), word(&header, 28)) && word(&header, 8) as usize == PAGE;
    let (mut frame, mut open) = (vec![0; FRAME], BTreeMap::new());
    let mut salts = good.then(|| header[16..24].to_vec());
    let mut offset = LOG_HEADER as u64;
    while log(offset, &mut frame) == FRAME {
        sum = sum_of(&frame[24..], sum_of(&frame[..8], sum, big_endian), big_endian);
        if !good && word(&frame, 0) == 0 {
            // There is no page 0: this frame is damaged as well.
            offset += FRAME as u64;
            continue;
        }
        let of_this_log = *salts.get_or_insert_with(|| frame[8..16].to_vec()) == frame[8..16];
        if !of_this_log || good && sum != (word(&frame, 16), word(&frame, 20)) {
            break;
        }
        open.insert(word(&frame, 0), offset + 24);
        if word(&frame, 4) != 0 {
            pages.append(&mut open);
        }
        offset += FRAME as u64;
    }
    pages
}

fn sum_of(bytes: &[u8], (mut a, mut b): (u32, u32), big_endian: bool) -> (u32, u32) {
    for pair in bytes.chunks_exact(8) {
        let word = |at: usize| {
            let bytes = [pair[at], pair[at + 1], pair[at + 2], pair[at + 3]];
            if big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
        };
        a = a.wrapping_add(word(0)).wrapping_add(b);
        b = b.wrapping_add(word(4)).wrapping_add(a);
    }
    (a, b)
}

fn be16(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 2).map(|two| u32::from(two[0]) << 8 | u32::from(two[1]))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).map(|four| four.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
}

/// A number of one to nine bytes, and how many they were.
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (at, byte) in bytes.iter().take(9).enumerate() {
        if at == 8 {
            return Some((value << 8 | u64::from(*byte), 9));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((value, at + 1));
        }
    }
    None
}
