//! The bytes of one file in RAM, in pages that copies share until one of them writes.
//!
//! Invariant: what was never written inside the length reads as zero, as on a file system with holes. Not here: what survives a
//! power cut (`model`).

use std::{
    hash::{Hash, Hasher},
    ops::Range,
    sync::Arc,
};

pub const PAGE: usize = 4096;

type Page = [u8; PAGE];

#[derive(Clone, Debug, Default)]
pub struct Content {
    pages: Vec<Arc<Page>>,
    len: u64,
}

impl Content {
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bytes it takes on the disk.
    pub fn allocated(&self) -> u64 {
        (self.pages.len() * PAGE) as u64
    }

    /// Fills `into` from `offset` on and says how much there was; the rest of it is zero.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> usize {
        let there = self.len.saturating_sub(offset).min(into.len() as u64) as usize;
        let mut done = 0;
        while done < there {
            let at = offset as usize + done;
            let (page, within) = (&self.pages[at / PAGE], at % PAGE);
            let part = (PAGE - within).min(there - done);
            into[done..done + part].copy_from_slice(&page[within..within + part]);
            done += part;
        }
        into[there..].fill(0);
        there
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        if end > self.len {
            self.set_len(end);
        }
        let mut done = 0;
        while done < bytes.len() {
            let at = offset as usize + done;
            let within = at % PAGE;
            let part = (PAGE - within).min(bytes.len() - done);
            Arc::make_mut(&mut self.pages[at / PAGE])[within..within + part].copy_from_slice(&bytes[done..done + part]);
            done += part;
        }
    }

    pub fn set_len(&mut self, len: u64) {
        let pages = (len as usize).div_ceil(PAGE);
        if len < self.len && !(len as usize).is_multiple_of(PAGE) {
            Arc::make_mut(&mut self.pages[pages - 1])[len as usize % PAGE..].fill(0);
        }
        self.pages.resize_with(pages, || Arc::new([0; PAGE]));
        self.len = len;
    }

    /// Makes the pages that `range` touches those of `other`, and the length.
    pub fn take_over(&mut self, other: &Self, range: Range<u64>) {
        if self.len != other.len {
            self.set_len(other.len);
        }
        let pages = range.start as usize / PAGE..(range.end as usize).div_ceil(PAGE).min(self.pages.len());
        for page in pages {
            self.pages[page] = Arc::clone(&other.pages[page]);
        }
    }

    /// Which pages these are, not what is in them.
    pub fn hash_pages(&self, hasher: &mut impl Hasher) {
        self.len.hash(hasher);
        self.pages.iter().for_each(|page| Arc::as_ptr(page).hash(hasher));
    }

    pub fn to_vec(&self) -> Vec<u8> {
        let mut all = vec![0; self.len as usize];
        self.read(0, &mut all);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_as_a_vector_of_bytes_would_and_copies_are_apart() {
        let mut random = fastrand::Rng::with_seed(3);
        let (mut content, mut expected) = (Content::default(), Vec::<u8>::new());
        for _ in 0..400 {
            let before = content.clone();
            let was = expected.clone();
            let offset = random.usize(..3 * PAGE);
            if random.u8(..) < 40 {
                content.set_len(offset as u64);
                expected.resize(offset, 0);
            } else {
                let bytes = vec![random.u8(1..); random.usize(1..2 * PAGE)];
                content.write(offset as u64, &bytes);
                expected.resize(expected.len().max(offset + bytes.len()), 0);
                expected[offset..offset + bytes.len()].copy_from_slice(&bytes);
            }
            assert_eq!((content.to_vec(), before.to_vec()), (expected.clone(), was));
            let mut part = [9; 100];
            let there = expected.len().saturating_sub(offset).min(100);
            assert_eq!(content.read(offset as u64, &mut part), there);
            assert!(part[there..].iter().all(|byte| *byte == 0));
        }
    }
}
