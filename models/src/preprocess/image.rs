//! Decode, crop, resize, normalise: Pillow's results, in Pillow's order.
//!
//! Invariant: a frame is at most [`MAX_SIDE`] wide or high and has at most [`MAX_PIXELS`]; its header says so before anything is
//! decoded. Pixels outside the ROI have no influence. Not here: what is done with the resized picture besides (thumbnail, drift).

use std::panic::{AssertUnwindSafe, catch_unwind};

use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer, images::Image, images::ImageRef};
use wayside_common::record::Roi;
use zune_jpeg::{
    JpegDecoder,
    zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions},
};

use crate::{
    manifest::{Color, Filter, ImageInput, Layout, Resize, RoiRule},
    tensor::Tensor,
};

/// No frame is wider or higher.
pub const MAX_SIDE: u32 = 8192;
/// No frame has more pixels.
pub const MAX_PIXELS: u64 = 32_000_000;
/// No JPEG has more bytes.
pub const MAX_JPEG: usize = 32 * 1024 * 1024;
/// Progressive files with more scans are made to cost time.
const MAX_SCANS: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    #[error("the picture cannot be decoded: {0}")]
    Decode(String),
    #[error("the picture is {width} x {height}; at most {MAX_SIDE} a side and {MAX_PIXELS} pixels are decoded")]
    TooLarge { width: u64, height: u64 },
    #[error("the box {width} x {height} at {x}, {y} is empty or not inside the frame of {frame_width} x {frame_height}", x = roi.x, y = roi.y, width = roi.width, height = roi.height)]
    Outside { roi: Roi, frame_width: u32, frame_height: u32 },
}

/// 8-bit RGB, row by row.
#[derive(Clone, PartialEq, Eq)]
pub struct Rgb {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

impl std::fmt::Debug for Rgb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rgb({} x {})", self.width, self.height)
    }
}

/// A picture ready for the network.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    pub tensor: Tensor,
    /// The ROI at the network's size, before it was normalised, bars included.
    pub resized: Rgb,
}

impl Rgb {
    /// `None` where a side is zero or there are not exactly three bytes per pixel.
    pub fn new(width: u32, height: u32, pixels: Vec<u8>) -> Option<Self> {
        let bytes = (width as usize).checked_mul(height as usize)?.checked_mul(3)?;
        (bytes > 0 && bytes == pixels.len()).then_some(Self { width, height, pixels })
    }

    pub fn width(&self) -> u32 {
        self.width
    }

    pub fn height(&self) -> u32 {
        self.height
    }

    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    pub fn whole(&self) -> Roi {
        Roi { x: 0, y: 0, width: self.width, height: self.height }
    }

    pub fn crop(&self, roi: Roi) -> Result<Self, ImageError> {
        let fits = |start: u32, length: u32, side: u32| length > 0 && start.checked_add(length).is_some_and(|end| end <= side);
        if !fits(roi.x, roi.width, self.width) || !fits(roi.y, roi.height, self.height) {
            return Err(ImageError::Outside { roi, frame_width: self.width, frame_height: self.height });
        }
        if roi == self.whole() {
            return Ok(self.clone());
        }
        let (stride, line) = (self.width as usize * 3, roi.width as usize * 3);
        let rows = self.pixels.chunks_exact(stride).skip(roi.y as usize).take(roi.height as usize);
        let pixels = rows.flat_map(|row| &row[roi.x as usize * 3..][..line]).copied().collect();
        Ok(Self { width: roi.width, height: roi.height, pixels })
    }

    /// Stretched to `width` x `height`, both at least 1.
    pub fn resize(&self, width: u32, height: u32, filter: Filter) -> Self {
        assert!(width > 0 && height > 0, "manifests and callers ask for at least one pixel");
        if (width, height) == (self.width, self.height) {
            return self.clone();
        }
        let pixels = match filter {
            Filter::Bilinear => self.resize_bilinear(width, height),
            Filter::Nearest => self.resize_nearest(width, height),
        };
        Self { width, height, pixels }
    }

    /// The triangle filter, widened when shrinking.
    fn resize_bilinear(&self, width: u32, height: u32) -> Vec<u8> {
        let source = ImageRef::new(self.width, self.height, &self.pixels, PixelType::U8x3).expect("three bytes per pixel");
        let mut target = Image::new(width, height, PixelType::U8x3);
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear)).use_alpha(false);
        Resizer::new().resize(&source, &mut target, &options).expect("both pictures have the same pixel type");
        target.into_vec()
    }

    /// The pixel under the centre; positions are summed up as Pillow does it, so that ties round alike.
    fn resize_nearest(&self, width: u32, height: u32) -> Vec<u8> {
        let places = |from: u32, to: u32| {
            let step = f64::from(from) / f64::from(to);
            let mut at = step * 0.5;
            (0..to)
                .map(|_| {
                    let place = (at as usize).min(from as usize - 1);
                    at += step;
                    place
                })
                .collect::<Vec<usize>>()
        };
        let columns = places(self.width, width);
        let mut pixels = Vec::with_capacity(width as usize * height as usize * 3);
        for y in places(self.height, height) {
            let row = &self.pixels[y * self.width as usize * 3..];
            columns.iter().for_each(|x| pixels.extend_from_slice(&row[x * 3..x * 3 + 3]));
        }
        pixels
    }

    /// 0.299 R + 0.587 G + 0.114 B, pixel by pixel.
    pub fn luma(&self) -> Vec<f64> {
        self.pixels.chunks_exact(3).map(|p| 0.299 * f64::from(p[0]) + 0.587 * f64::from(p[1]) + 0.114 * f64::from(p[2])).collect()
    }
}

/// Decodes a JPEG; grey ones become RGB.
pub fn decode(jpeg: &[u8]) -> Result<Rgb, ImageError> {
    if jpeg.len() > MAX_JPEG {
        return Err(ImageError::Decode(format!("{} bytes; {MAX_JPEG} are allowed", jpeg.len())));
    }
    // The decoder is someone else's: should it panic on a hostile file, that file is bad and nothing more.
    catch_unwind(AssertUnwindSafe(|| decode_checked(jpeg))).unwrap_or_else(|_| Err(ImageError::Decode("the decoder gave up".into())))
}

fn decode_checked(jpeg: &[u8]) -> Result<Rgb, ImageError> {
    let failed = |error: zune_jpeg::errors::DecodeErrors| ImageError::Decode(format!("{error:?}").chars().take(200).collect());
    let options = DecoderOptions::default()
        .set_max_width(MAX_SIDE as usize)
        .set_max_height(MAX_SIDE as usize)
        .set_strict_mode(true)
        .jpeg_set_max_scans(MAX_SCANS)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(jpeg), options);
    decoder.decode_headers().map_err(failed)?;
    let (width, height) = decoder.dimensions().ok_or_else(|| ImageError::Decode("no size".into()))?;
    let (width, height) = (width as u64, height as u64);
    if width.max(height) > u64::from(MAX_SIDE) || width * height > MAX_PIXELS {
        return Err(ImageError::TooLarge { width, height });
    }
    if !is_whole(jpeg) {
        return Err(ImageError::Decode("the file is cut off".into()));
    }
    let pixels = decoder.decode().map_err(failed)?;
    Rgb::new(width as u32, height as u32, pixels).ok_or_else(|| ImageError::Decode("not three colours".into()))
}

/// Whether the end of the image follows the last scan: decoders fill up what is cut off with grey, and grey is no picture. Neither
/// marker can occur inside the scan itself.
fn is_whole(jpeg: &[u8]) -> bool {
    let last = |marker: [u8; 2]| jpeg.windows(2).rposition(|pair| pair == marker);
    last([0xff, 0xd9]) > last([0xff, 0xda])
}

/// All steps of the manifest.
pub fn prepare(input: &ImageInput, jpeg: &[u8], roi: Option<Roi>) -> Result<Prepared, ImageError> {
    let frame = decode(jpeg)?;
    let resized = resize(input, &frame, roi)?;
    Ok(Prepared { tensor: normalise(input, &resized), resized })
}

/// Crop and resize.
pub fn resize(input: &ImageInput, frame: &Rgb, roi: Option<Roi>) -> Result<Rgb, ImageError> {
    let cropped;
    let source = match (input.roi, roi) {
        (RoiRule::Source, Some(roi)) => {
            cropped = frame.crop(roi)?;
            &cropped
        }
        (RoiRule::Source, None) | (RoiRule::Full, _) => frame,
    };
    Ok(match input.resize {
        Resize::Stretch => source.resize(input.width, input.height, input.filter),
        Resize::Letterbox => letterbox(input, source),
    })
}

fn letterbox(input: &ImageInput, source: &Rgb) -> Rgb {
    let scale = f64::min(f64::from(input.width) / f64::from(source.width), f64::from(input.height) / f64::from(source.height));
    let inner = |side: u32, limit: u32| ((f64::from(side) * scale + 0.5).floor() as u32).clamp(1, limit);
    let picture = source.resize(inner(source.width, input.width), inner(source.height, input.height), input.filter);
    let (left, top) = ((input.width - picture.width) / 2, (input.height - picture.height) / 2);
    let mut pixels = input.pad.repeat(input.width as usize * input.height as usize);
    let line = picture.width as usize * 3;
    for (y, row) in picture.pixels.chunks_exact(line).enumerate() {
        let start = ((top as usize + y) * input.width as usize + left as usize) * 3;
        pixels[start..start + line].copy_from_slice(row);
    }
    Rgb { width: input.width, height: input.height, pixels }
}

/// Colour order, mean and deviation, layout.
pub fn normalise(input: &ImageInput, resized: &Rgb) -> Tensor {
    let order = match input.color {
        Color::Rgb => [0, 1, 2],
        Color::Bgr => [2, 1, 0],
    };
    let value = |pixel: &[u8], channel: usize| (f32::from(pixel[order[channel]]) - input.mean[channel]) / input.std[channel];
    let pixels = resized.pixels.chunks_exact(3);
    let (height, width) = (resized.height as usize, resized.width as usize);
    let (shape, values) = match input.layout {
        Layout::Nchw => {
            let planes = (0..3).flat_map(|channel| pixels.clone().map(move |pixel| value(pixel, channel))).collect();
            (vec![1, 3, height, width], planes)
        }
        Layout::Nhwc => {
            let values = pixels.flat_map(|pixel| [value(pixel, 0), value(pixel, 1), value(pixel, 2)]).collect();
            (vec![1, height, width, 3], values)
        }
    };
    Tensor::new(shape, values).expect("three values per pixel")
}
