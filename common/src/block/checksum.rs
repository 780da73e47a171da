//! CRC-32 (ISO-HDLC, the one of zlib): whatever changes in a block by chance is noticed.
//!
//! Invariant: every change of one bit, and of up to 32 neighbouring ones, gives another sum. Not here: protection against intent.

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut sum = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 1 == 1 { 0xedb8_8320 ^ (sum >> 1) } else { sum >> 1 };
            bit += 1;
        }
        table[byte] = sum;
        byte += 1;
    }
    table
};

pub struct Checksum(u32);

impl Default for Checksum {
    fn default() -> Self {
        Self(!0)
    }
}

impl Checksum {
    pub fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |sum, byte| TABLE[usize::from(sum as u8 ^ byte)] ^ (sum >> 8));
    }

    pub fn value(&self) -> u32 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_the_one_that_everybody_else_computes() {
        // The check value of the CRC catalogue (reveng.sourceforge.io/crc-catalogue), written in two parts.
        let mut sum = Checksum::default();
        sum.write(b"12345");
        sum.write(b"6789");
        assert_eq!(sum.value(), 0xcbf4_3926);
    }
}
