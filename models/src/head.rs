//! The linear head of a network: `logits = embedding · weightᵀ + bias`, as the initializers `head.weight` and `head.bias`.
//!
//! Invariant: weights and bias are finite f32, row by row, and have the network's shape. Not here: anything before the embedding.

use std::str;

use serde::Deserialize;
use wayside_common::id::ModelName;

use crate::{
    malformed::Malformed,
    onnx_file::{self, OnnxFileError, Replacement},
};

pub mod fit;
pub mod retrain;

pub const TOML: &str = "head.toml";
pub const BIN: &str = "head.bin";
const WEIGHT: &str = "head.weight";
const BIAS: &str = "head.bias";
const MAX_DIMENSION: usize = 65_536;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    #[error(transparent)]
    Network(#[from] OnnxFileError),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("head.weight has the shape {weight:?} and head.bias {bias:?}; [classes, dimension] and [classes] are wanted")]
    Shape { weight: Vec<u64>, bias: Vec<u64> },
    #[error("the head has {found} values instead of {expected}")]
    Length { found: usize, expected: usize },
    #[error("the head has a value that is not finite")]
    NotFinite,
}

/// `weight` row by row, one row per class.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearHead {
    dimension: usize,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl LinearHead {
    pub fn new(dimension: usize, weight: Vec<f32>, bias: Vec<f32>) -> Result<Self, HeadError> {
        let expected = bias.len().saturating_mul(dimension);
        if weight.len() != expected {
            return Err(HeadError::Length { found: weight.len(), expected });
        }
        if weight.iter().chain(&bias).any(|value| !value.is_finite()) {
            return Err(HeadError::NotFinite);
        }
        Ok(Self { dimension, weight, bias })
    }

    /// The head of a network.
    pub fn of(onnx: &[u8]) -> Result<Self, HeadError> {
        let (_, dimension) = shape(onnx)?;
        let initializers = onnx_file::initializers(onnx)?;
        let [weight, bias] = find(&initializers)?;
        Self::new(dimension, onnx_file::floats(onnx, weight)?, onnx_file::floats(onnx, bias)?)
    }

    /// `head.bin`: little-endian f32, the weights row by row, then the bias.
    pub fn from_bytes(bytes: &[u8], classes: usize, dimension: usize) -> Result<Self, HeadError> {
        let expected = classes * (dimension + 1);
        if bytes.len() != expected * 4 {
            return Err(HeadError::Length { found: bytes.len() / 4, expected });
        }
        let mut weight: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("chunks of four"))).collect();
        let bias = weight.split_off(classes * dimension);
        Self::new(dimension, weight, bias)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        self.weight.iter().chain(&self.bias).flat_map(|value| value.to_le_bytes()).collect()
    }

    pub fn classes(&self) -> usize {
        self.bias.len()
    }

    pub fn dimension(&self) -> usize {
        self.dimension
    }

    pub fn weight(&self) -> &[f32] {
        &self.weight
    }

    pub fn bias(&self) -> &[f32] {
        &self.bias
    }

    /// In f64; `embedding` has the head's dimension.
    pub fn logits(&self, embedding: &[f64]) -> Vec<f64> {
        let rows = self.weight.chunks_exact(self.dimension).zip(&self.bias);
        rows.map(|(row, bias)| row.iter().zip(embedding).map(|(&w, x)| f64::from(w) * x).sum::<f64>() + f64::from(*bias)).collect()
    }

    /// The same network with this head; every other byte stays.
    pub fn put_into(&self, onnx: &[u8]) -> Result<Vec<u8>, HeadError> {
        let (classes, dimension) = shape(onnx)?;
        if (classes, dimension) != (self.classes(), self.dimension) {
            return Err(HeadError::Length { found: self.weight.len() + self.bias.len(), expected: classes * (dimension + 1) });
        }
        let (classes, dimension) = (classes as u64, dimension as u64);
        let weight = Replacement { name: WEIGHT, dims: &[classes, dimension], values: &self.weight };
        let bias = Replacement { name: BIAS, dims: &[classes], values: &self.bias };
        Ok(onnx_file::replace(onnx, &[weight, bias])?)
    }
}

/// Classes and dimension of a network's head.
pub fn shape(onnx: &[u8]) -> Result<(usize, usize), HeadError> {
    let initializers = onnx_file::initializers(onnx)?;
    let [weight, bias] = find(&initializers)?;
    let refused = || HeadError::Shape { weight: weight.dims.clone(), bias: bias.dims.clone() };
    let &[classes, dimension] = weight.dims.as_slice() else { return Err(refused()) };
    let within = |value: u64| usize::try_from(value).ok().filter(|v| (1..=MAX_DIMENSION).contains(v)).ok_or_else(refused);
    if bias.dims != [classes] { Err(refused()) } else { Ok((within(classes)?, within(dimension)?)) }
}

fn find(initializers: &[onnx_file::Initializer]) -> Result<[&onnx_file::Initializer; 2], HeadError> {
    let one = |name: &str| {
        initializers.iter().find(|known| known.name == name).ok_or_else(|| HeadError::Network(OnnxFileError::NoInitializer(name.into())))
    };
    Ok([one(WEIGHT)?, one(BIAS)?])
}

/// What `head.toml` says: whose network this head is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base(ModelName);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBase {
    base: toml::Spanned<String>,
}

impl Base {
    pub fn parse(bytes: &[u8]) -> Result<Self, HeadError> {
        let text = str::from_utf8(bytes).map_err(|_| Malformed::at(TOML, "", 0..0, "not UTF-8 text"))?;
        let raw: RawBase = toml::from_str(text).map_err(|error| Malformed::toml(TOML, text, &error))?;
        let name = raw.base.get_ref().strip_prefix("../").and_then(|name| name.parse().ok());
        let wrong = || Malformed::at(TOML, text, raw.base.span(), "not the name of a folder beside this one, as \"../vehicles\"");
        Ok(Self(name.ok_or_else(wrong)?))
    }

    /// Name of the base's folder, beside the head's.
    pub fn folder(&self) -> &str {
        self.0.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_a_sibling_by_its_plain_name() {
        assert_eq!(Base::parse(b"base = \"../vehicles\"\n").unwrap().folder(), "vehicles");
        for wrong in [
            "base = \"/etc\"",
            "base = \"../..\"",
            "base = \"../a/../b\"",
            "base = \"vehicles\"",
            "base = 1",
            "bass = \"../v\"",
            "\u{fffd}",
        ] {
            let error = Base::parse(wrong.as_bytes()).expect_err(wrong);
            assert!(error.to_string().starts_with("head.toml, line 1"), "{error}");
        }
    }

    #[test]
    fn a_head_is_its_bytes() {
        let head = LinearHead::new(2, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], vec![0.5, -0.5, 0.0]).unwrap();
        assert_eq!(LinearHead::from_bytes(&head.to_bytes(), 3, 2).unwrap(), head);
        assert_eq!(head.logits(&[1.0, -1.0]), [-0.5, -1.5, -1.0]);
        assert!(LinearHead::from_bytes(&head.to_bytes()[..35], 3, 2).is_err());
        assert_eq!(LinearHead::new(1, vec![f32::NAN], vec![0.0]), Err(HeadError::NotFinite));
    }
}
