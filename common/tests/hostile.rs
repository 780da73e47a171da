//! Bytes that a stranger or a bad disk made: every sample cut anywhere, with bits flipped, mixed with others, or grown.
//!
//! Invariant: no panic; what is damaged is refused where a checksum can tell; memory stays in proportion to the bytes, but for a
//! block, which may say [`MAX_READINGS`] rows in a few. The targets are those of the fuzzer. Not here: sound bytes (`v1`).

#[path = "../fuzz/src/targets.rs"]
mod targets;
#[allow(dead_code)] // Decoding a sample as what it is belongs to `v1`.
#[path = "v1/samples.rs"]
mod samples;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use wayside_common::{
    block::{Block, MAX_COLUMNS, MAX_READINGS},
    record::Body,
    wire::{FromDevice, WireError, decode},
};

/// Counts what each thread holds, and the most it ever held.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that is ending has no counters any more.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = MOST.try_with(|most| most.set(most.get().max(held.get())));
    });
}

// SAFETY: all of it is the system's allocator's; counting allocates nothing, because the counters have no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The most that `run` held at once beyond what there was before.
fn most_held(run: impl FnOnce()) -> usize {
    let before = HELD.get();
    MOST.set(before);
    run();
    (MOST.get() - before).unsigned_abs()
}

/// Rows of the widest source: positions and times twice, the rows, and one column.
const LARGEST_BLOCK: usize = MAX_READINGS * (MAX_COLUMNS * 8 + 40 + 2 * 8 + 8) + 64 * 1024;

/// xorshift64*: a seed gives the same damage on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end.max(1)
    }
}

fn corpus() -> Vec<Vec<u8>> {
    let samples = samples::all();
    let mut corpus: Vec<Vec<u8>> = samples.iter().map(samples::Packet::encode).collect();
    corpus.push(postcard::to_allocvec(&samples::readings()).expect("it fits"));
    corpus.push(postcard::to_allocvec(&samples::odd_readings()).expect("it fits"));
    for packet in &samples {
        if let samples::Packet::Up(FromDevice::Batch { batch, .. }) = packet
            && let Body::Degraded(degraded) = &batch.body
        {
            corpus.push(postcard::to_allocvec(degraded).expect("it fits"));
        }
    }
    corpus.extend(["wayside/v1/plant/cam-31/up/batch", "wayside/v1/plant/all/trust", "$share/g/#"].map(|text| text.as_bytes().to_vec()));
    corpus
}

fn damaged(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.below(256) as u8,
            // Lengths are where trouble lies.
            2 => bytes.splice(at..at, [0xff, 0xff, 0xff, 0xff, 0x0f]).for_each(drop),
            3 => bytes.truncate(at),
            4 => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => bytes.splice(at..at, vec![random.below(256) as u8; random.below(40)]).for_each(drop),
        }
    }
    bytes
}

#[test]
fn damaged_samples_break_no_promise_of_any_target() {
    let corpus = corpus();
    let mut random = Random(20_261_123);
    let check = |bytes: &[u8]| {
        for (name, target) in targets::ALL {
            let held = most_held(|| target(bytes));
            // A target reads, writes and reads again; a name of one letter is a String of 24 bytes.
            assert!(held < 3 * LARGEST_BLOCK + 400 * bytes.len(), "{name} held {held} bytes for {}", bytes.len());
        }
    };
    corpus.iter().for_each(|sample| check(sample));
    for _ in 0..20_000 {
        check(&damaged(&mut random, &corpus));
    }
}

#[test]
fn a_packet_that_is_cut_anywhere_is_refused() {
    for packet in samples::all() {
        let bytes = packet.encode();
        for cut in 0..bytes.len() {
            let error = packet.decode_like(&bytes[..cut]).expect_err("it is cut");
            assert!(matches!(error, WireError::Empty | WireError::Malformed), "{} cut at {cut}: {error}", samples::name_of(&packet));
        }
    }
}

#[test]
fn a_block_with_any_bit_flipped_is_refused() {
    for block in [samples::readings(), samples::odd_readings()] {
        let bytes = postcard::to_allocvec(&block).expect("it fits");
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                let Ok(read) = postcard::from_bytes::<Block>(&flipped) else { continue };
                assert!(read == block || read.unpack().is_err(), "bit {bit} of byte {at}");
            }
        }
    }
}

#[test]
fn a_block_that_lies_about_its_size_is_refused_before_room_is_made() {
    let column = |scale: &[u8]| [&[1, b'c'][..], scale].concat();
    // As the one before: no; unit, no offset, a resolution of 1.
    let scale = [1, 1, b'1', 0, 0, 32];
    let head = |columns: usize, len: &[u8]| {
        let mut bytes = vec![columns as u8];
        (0..columns).for_each(|at| bytes.extend(column(if at == 0 { &scale } else { &[0] })));
        bytes.extend(len);
        // Codec, checksum, no bytes.
        bytes.extend([2, 0, 0, 0, 0, 0]);
        bytes
    };
    struct Case(&'static str, Vec<u8>, usize);
    let cases = [
        Case("more rows than there may be", head(1, &[0xff, 0xff, 0xff, 0xff, 0x0f]), 64 * 1024),
        Case("one row too many", head(1, &[0x91, 0x4e]), 64 * 1024),
        Case("more columns than there may be", head(MAX_COLUMNS + 1, &[1]), 64 * 1024),
        Case("the most of both, in 200 bytes", head(MAX_COLUMNS, &[0x90, 0x4e]), LARGEST_BLOCK),
    ];
    for Case(what, bytes, limit) in cases {
        let mut rows = None;
        let held =
            most_held(|| rows = postcard::from_bytes::<Block>(&bytes).ok().and_then(|block| block.sealed().unpack().ok()).map(|r| r.len()));
        assert!(held < limit, "{what}: {held} bytes");
        assert_eq!(rows, (limit == LARGEST_BLOCK).then_some(MAX_READINGS), "{what}");
    }
}

#[test]
fn a_batch_of_another_version_or_beyond_any_size_is_refused() {
    let bytes = samples::all()[0].encode();
    let newer = [&[2], &bytes[1..]].concat();
    assert_eq!(decode::<FromDevice>(&newer), Err(WireError::Version(2)));
    let held = most_held(|| assert!(matches!(decode::<FromDevice>(&vec![1; 1 << 20]), Err(WireError::TooLong(_)))));
    assert!(held < (1 << 20) + 1024, "{held}");
}
