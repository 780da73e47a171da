//! A folder, or a folder tree, of JPEG files as a camera.
//!
//! Invariant: position = pass * files + file, with the files in order of their path; the list is made once, when the source
//! is opened. Not here: decoding a picture; the worker does.

use std::{
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

use wayside_common::{
    schedule::{Position, Schedule},
    time::Wall,
};

use crate::source::{Item, Pace, Shape, Source, SourceError};

/// A larger file is a fault at its position: a frame must fit into the worker's memory several times.
pub const MAX_FILE: u64 = 16 * 1024 * 1024;
const MAX_FILES: usize = 1_000_000;
const MAX_DEPTH: usize = 16;
/// As long as a record's item may be.
const MAX_ITEM: usize = 256;

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub path: PathBuf,
    /// Absent: as fast as the worker takes the frames.
    pub period: Option<Duration>,
    /// Absent: for ever.
    pub passes: Option<u64>,
}

pub struct Images {
    root: PathBuf,
    /// Paths relative to `root`, with `/` between their parts; sorted.
    items: Vec<String>,
    pace: Pace,
    count: Option<u64>,
}

impl Images {
    pub fn open(config: &Config, anchor: Wall) -> Result<Self, SourceError> {
        let mut items = Vec::new();
        list(&config.path, "", 0, &mut items)?;
        if items.is_empty() {
            return Err(SourceError::Fault(format!("{}: no .jpg or .jpeg file in it", config.path.display())));
        }
        items.sort_unstable();
        let count = config.passes.map(|passes| passes.saturating_mul(items.len() as u64));
        let pace = match config.period {
            Some(period) => Pace::Timed(Schedule { anchor, period, count }),
            None => Pace::AsTaken { count },
        };
        Ok(Self { root: config.path.clone(), items, pace, count })
    }

    /// In one pass.
    pub fn files(&self) -> u64 {
        self.items.len() as u64
    }
}

fn list(folder: &Path, prefix: &str, depth: usize, items: &mut Vec<String>) -> Result<(), SourceError> {
    let fault = |what: &dyn std::fmt::Display| SourceError::Fault(format!("{}: {what}", folder.display()));
    if depth > MAX_DEPTH {
        return Err(fault(&format_args!("deeper than {MAX_DEPTH} folders")));
    }
    for entry in fs::read_dir(folder).map_err(|error| fault(&error))? {
        let entry = entry.map_err(|error| fault(&error))?;
        let path = entry.path();
        let name = entry.file_name().into_string().map_err(|name| fault(&format_args!("{} is not UTF-8", name.display())))?;
        let item = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        if path.is_dir() {
            list(&path, &item, depth + 1, items)?;
            continue;
        }
        let is_jpeg = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("jpg") || e.eq_ignore_ascii_case("jpeg"));
        if !is_jpeg {
            continue;
        }
        if item.len() > MAX_ITEM {
            return Err(fault(&format_args!("the path {item:?} is longer than {MAX_ITEM} bytes")));
        }
        if items.len() == MAX_FILES {
            return Err(fault(&format_args!("more than {MAX_FILES} pictures")));
        }
        items.push(item);
    }
    Ok(())
}

impl Source for Images {
    fn shape(&self) -> Shape {
        Shape::Camera
    }

    fn pace(&self) -> Pace {
        self.pace
    }

    fn read(&mut self, position: Position) -> Result<Item, SourceError> {
        if self.count.is_some_and(|count| position.0 >= count) {
            return Err(SourceError::Ended);
        }
        let item = &self.items[(position.0 % self.items.len() as u64) as usize];
        let jpeg = read_bounded(&self.root.join(item)).map_err(|error| SourceError::Fault(format!("{item}: {error}")))?;
        Ok(Item::Frame { jpeg, roi: None, item: item.clone() })
    }
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(std::io::Error::other(format!("larger than {MAX_FILE} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str, files: &[(&str, &[u8])]) -> PathBuf {
        let root = std::env::temp_dir().join(format!("wayside-images-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        for (file, bytes) in files {
            let path = root.join(file);
            fs::create_dir_all(path.parent().expect("a file has a folder")).unwrap();
            fs::write(path, bytes).unwrap();
        }
        root
    }

    #[test]
    fn a_tree_is_read_in_order_of_its_paths_as_often_as_asked() {
        let path = folder("tree", &[("b/2.jpg", b"2"), ("a/9.JPEG", b"9"), ("1.jpg", b"1"), ("notes.txt", b"x")]);
        let mut source = Images::open(&Config { path: path.clone(), period: None, passes: Some(2) }, Wall(0)).unwrap();
        assert_eq!(source.pace(), Pace::AsTaken { count: Some(6) });
        struct Case(u64, Option<(&'static str, &'static [u8])>);
        for Case(position, expected) in [
            Case(0, Some(("1.jpg", b"1"))),
            Case(1, Some(("a/9.JPEG", b"9"))),
            Case(2, Some(("b/2.jpg", b"2"))),
            Case(4, Some(("a/9.JPEG", b"9"))),
            Case(6, None),
            Case(u64::MAX, None),
        ] {
            let expected = match expected {
                Some((item, bytes)) => Ok(Item::Frame { jpeg: bytes.to_vec(), roi: None, item: item.into() }),
                None => Err(SourceError::Ended),
            };
            assert_eq!(source.read(Position(position)), expected, "position {position}");
        }
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_file_that_is_too_large_or_gone_is_a_fault_and_not_the_end() {
        let path = folder("fault", &[("1.jpg", b"1"), ("2.jpg", b"2"), ("3.jpg", b"3")]);
        let mut source = Images::open(&Config { path: path.clone(), period: None, passes: None }, Wall(0)).unwrap();
        File::create(path.join("1.jpg")).unwrap().set_len(MAX_FILE + 1).unwrap();
        fs::remove_file(path.join("2.jpg")).unwrap();
        assert!(matches!(source.read(Position(0)), Err(SourceError::Fault(_))));
        assert!(matches!(source.read(Position(1)), Err(SourceError::Fault(_))));
        assert!(source.read(Position(2)).is_ok());
        assert!(matches!(source.read(Position(3)), Err(SourceError::Fault(_))));
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_folder_without_pictures_is_refused() {
        let path = folder("empty", &[("notes.txt", b"x")]);
        assert!(Images::open(&Config { path: path.clone(), period: None, passes: None }, Wall(0)).is_err());
        assert!(Images::open(&Config { path: path.join("absent"), period: None, passes: None }, Wall(0)).is_err());
        fs::remove_dir_all(path).unwrap();
    }
}
