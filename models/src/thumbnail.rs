//! Small JPEGs for people: a thumbnail of at most 16 kB, and the ROI of a sample as it was.
//!
//! Invariant: a thumbnail never exceeds [`MAX_BYTES`]. Not here: when one is made, what a network sees.

use jpeg_encoder::{ColorType, Encoder};
use wayside_common::record::Roi;

use crate::{
    manifest::Filter,
    preprocess::image::{self, ImageError, Rgb},
};

pub const MAX_BYTES: usize = 16 * 1000;
/// The longer side of a thumbnail.
const MAX_SIDE: u32 = 320;
/// At the lowest of these a picture of 320 x 320 noise is below 16 kB.
const QUALITIES: [u8; 6] = [80, 65, 50, 35, 20, 8];
/// For crops that a trainer may see again.
const CROP_QUALITY: u8 = 95;

/// A thumbnail of a frame, or of a box in it.
pub fn of_jpeg(jpeg: &[u8], roi: Option<Roi>) -> Result<Vec<u8>, ImageError> {
    let frame = image::decode(jpeg)?;
    match roi {
        Some(roi) => Ok(of_picture(&frame.crop(roi)?)),
        None => Ok(of_picture(&frame)),
    }
}

pub fn of_picture(picture: &Rgb) -> Vec<u8> {
    let longer = picture.width().max(picture.height());
    let mut side = longer.min(MAX_SIDE);
    loop {
        let scaled = |length: u32| (u64::from(length) * u64::from(side) / u64::from(longer)).max(1) as u32;
        let small = picture.resize(scaled(picture.width()), scaled(picture.height()), Filter::Bilinear);
        for quality in QUALITIES {
            let jpeg = encode(&small, quality);
            if jpeg.len() <= MAX_BYTES {
                return jpeg;
            }
        }
        side = (side / 2).max(1);
    }
}

/// The box as a JPEG of its own; the frame's own bytes where the box is all of it.
pub fn crop_jpeg(jpeg: &[u8], roi: Option<Roi>) -> Result<Vec<u8>, ImageError> {
    let Some(roi) = roi else { return Ok(jpeg.to_vec()) };
    let frame = image::decode(jpeg)?;
    if roi == frame.whole() { Ok(jpeg.to_vec()) } else { Ok(encode(&frame.crop(roi)?, CROP_QUALITY)) }
}

/// `quality` from 1 to 100.
pub fn encode(picture: &Rgb, quality: u8) -> Vec<u8> {
    let mut jpeg = Vec::new();
    let side = |length: u32| u16::try_from(length).expect("no picture's side is above 8192");
    Encoder::new(&mut jpeg, quality)
        .encode(picture.pixels(), side(picture.width()), side(picture.height()), ColorType::Rgb)
        .expect("a picture within the bounds can be written to memory");
    jpeg
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(width: u32, height: u32) -> Rgb {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        Rgb::new(width, height, (0..width * height * 3).map(|_| next()).collect()).unwrap()
    }

    #[test]
    fn even_noise_becomes_a_small_thumbnail() {
        for (width, height) in [(1280, 720), (320, 320), (1, 900), (3, 2)] {
            let thumbnail = of_picture(&noise(width, height));
            assert!(thumbnail.len() <= MAX_BYTES, "{width} x {height}: {}", thumbnail.len());
            let decoded = image::decode(&thumbnail).unwrap();
            assert!(decoded.width().max(decoded.height()) <= 320);
        }
    }

    #[test]
    fn a_crop_of_everything_is_the_original() {
        let jpeg = encode(&noise(40, 30), 90);
        assert_eq!(crop_jpeg(&jpeg, None).unwrap(), jpeg);
        assert_eq!(crop_jpeg(&jpeg, Some(Roi { x: 0, y: 0, width: 40, height: 30 })).unwrap(), jpeg);
        let crop = image::decode(&crop_jpeg(&jpeg, Some(Roi { x: 10, y: 5, width: 16, height: 8 })).unwrap()).unwrap();
        assert_eq!((crop.width(), crop.height()), (16, 8));
        assert!(crop_jpeg(&jpeg, Some(Roi { x: 30, y: 5, width: 16, height: 8 })).is_err());
    }
}
