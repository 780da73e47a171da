//! The initializers of an ONNX file, found and replaced in its bytes.
//!
//! Invariant: replacing an initializer leaves every other byte as it was (only the graph's length prefix may change with it), so
//! that two versions of a model differ on the wire by the tensors alone. Protobuf fields are walked in place; nothing is
//! allocated because of a length that the file claims. Not here: the meaning of the network (`engine`).

use std::ops::Range;

/// Field numbers of onnx.proto3.
const MODEL_GRAPH: u64 = 7;
const GRAPH_INITIALIZER: u64 = 5;
const TENSOR_DIMS: u64 = 1;
const TENSOR_DATA_TYPE: u64 = 2;
const TENSOR_NAME: u64 = 8;
const TENSOR_RAW: u64 = 9;
/// `TensorProto.DataType.FLOAT`.
const FLOAT: u64 = 1;
const LENGTH_DELIMITED: u64 = 2;

const MAX_INITIALIZERS: usize = 100_000;
/// A smaller tensor is not worth a chunk of its own.
const WORTH_A_CHUNK: usize = 8 * 1024;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OnnxFileError {
    #[error("not an ONNX file: {0}")]
    Malformed(&'static str),
    #[error("the network has no initializer {0:?}")]
    NoInitializer(String),
    #[error("initializer {name:?} is not float32 stored as raw bytes of its shape")]
    NotRawFloat { name: String },
}

/// One stored tensor and where its bytes lie in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initializer {
    pub name: String,
    pub dims: Vec<u64>,
    data_type: u64,
    /// The whole field in the graph, tag and length included.
    field: Range<usize>,
    raw: Option<Range<usize>>,
}

/// A float tensor that takes the place of the initializer of its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Replacement<'a> {
    pub name: &'a str,
    pub dims: &'a [u64],
    pub values: &'a [f32],
}

pub fn initializers(onnx: &[u8]) -> Result<Vec<Initializer>, OnnxFileError> {
    let graph = graph(onnx)?;
    let mut found = Vec::new();
    for field in Fields::new(onnx, graph.content) {
        let field = field?;
        if field.number == GRAPH_INITIALIZER && field.is_bytes {
            if found.len() == MAX_INITIALIZERS {
                return Err(OnnxFileError::Malformed("too many initializers"));
            }
            found.push(initializer(onnx, &field)?);
        }
    }
    Ok(found)
}

/// The values of a float initializer.
pub fn floats(onnx: &[u8], initializer: &Initializer) -> Result<Vec<f32>, OnnxFileError> {
    let refused = || OnnxFileError::NotRawFloat { name: initializer.name.clone() };
    let raw = initializer.raw.clone().filter(|_| initializer.data_type == FLOAT).ok_or_else(refused)?;
    let count = initializer.dims.iter().try_fold(1u64, |count, &dim| count.checked_mul(dim));
    if count.and_then(|count| count.checked_mul(4)) != Some(raw.len() as u64) {
        return Err(refused());
    }
    Ok(onnx[raw].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("chunks of four"))).collect())
}

/// The same file with these initializers in place of those of the same names.
pub fn replace(onnx: &[u8], replacements: &[Replacement]) -> Result<Vec<u8>, OnnxFileError> {
    let graph = graph(onnx)?;
    let known = initializers(onnx)?;
    let mut changes: Vec<(Range<usize>, Vec<u8>)> = Vec::new();
    for replacement in replacements {
        let old = known
            .iter()
            .find(|known| known.name == replacement.name)
            .ok_or_else(|| OnnxFileError::NoInitializer(replacement.name.to_owned()))?;
        changes.push((old.field.clone(), encode(replacement)));
    }
    changes.sort_by_key(|(range, _)| range.start);
    let mut content = Vec::with_capacity(graph.content.len());
    let mut at = graph.content.start;
    for (range, bytes) in &changes {
        content.extend_from_slice(&onnx[at..range.start]);
        content.extend_from_slice(bytes);
        at = range.end;
    }
    content.extend_from_slice(&onnx[at..graph.content.end]);
    let mut replaced = onnx[..graph.field.start].to_vec();
    put_bytes(&mut replaced, MODEL_GRAPH, &content);
    replaced.extend_from_slice(&onnx[graph.field.end..]);
    Ok(replaced)
}

/// Where large tensors start and end, ascending: good places to cut chunks at. Empty for what is no ONNX file.
pub fn boundaries(onnx: &[u8]) -> Vec<usize> {
    let tensors = initializers(onnx).unwrap_or_default();
    tensors
        .into_iter()
        .filter_map(|tensor| tensor.raw)
        .filter(|raw| raw.len() >= WORTH_A_CHUNK)
        .flat_map(|raw| [raw.start, raw.end])
        .collect()
}

fn graph(onnx: &[u8]) -> Result<Field, OnnxFileError> {
    let mut graph = None;
    for field in Fields::new(onnx, 0..onnx.len()) {
        let field = field?;
        if field.number == MODEL_GRAPH && field.is_bytes && graph.replace(field).is_some() {
            return Err(OnnxFileError::Malformed("two graphs"));
        }
    }
    graph.ok_or(OnnxFileError::Malformed("no graph"))
}

fn initializer(onnx: &[u8], field: &Field) -> Result<Initializer, OnnxFileError> {
    let mut found = Initializer { name: String::new(), dims: Vec::new(), data_type: 0, field: field.field.clone(), raw: None };
    for part in Fields::new(onnx, field.content.clone()) {
        let part = part?;
        match (part.number, part.is_bytes) {
            (TENSOR_DIMS, false) => found.dims.push(part.value),
            (TENSOR_DIMS, true) => {
                let mut at = part.content.start;
                while at < part.content.end {
                    found.dims.push(varint(onnx, &mut at, part.content.end)?);
                }
            }
            (TENSOR_DATA_TYPE, false) => found.data_type = part.value,
            (TENSOR_NAME, true) => found.name = String::from_utf8_lossy(&onnx[part.content]).into_owned(),
            (TENSOR_RAW, true) => found.raw = Some(part.content),
            _ => {}
        }
    }
    Ok(found)
}

/// As Google's encoders write it: fields in the order of their numbers.
fn encode(replacement: &Replacement) -> Vec<u8> {
    let mut tensor = Vec::with_capacity(replacement.values.len() * 4 + 64);
    for &dim in replacement.dims {
        put_varint(&mut tensor, TENSOR_DIMS << 3);
        put_varint(&mut tensor, dim);
    }
    put_varint(&mut tensor, TENSOR_DATA_TYPE << 3);
    put_varint(&mut tensor, FLOAT);
    put_bytes(&mut tensor, TENSOR_NAME, replacement.name.as_bytes());
    let raw: Vec<u8> = replacement.values.iter().flat_map(|value| value.to_le_bytes()).collect();
    put_bytes(&mut tensor, TENSOR_RAW, &raw);
    let mut field = Vec::with_capacity(tensor.len() + 8);
    put_bytes(&mut field, GRAPH_INITIALIZER, &tensor);
    field
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_bytes(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    put_varint(out, number << 3 | LENGTH_DELIMITED);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn varint(bytes: &[u8], at: &mut usize, end: usize) -> Result<u64, OnnxFileError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        if *at >= end {
            return Err(OnnxFileError::Malformed("a number is cut off"));
        }
        let byte = bytes[*at];
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(OnnxFileError::Malformed("a number is too long"))
}

/// One field of a protobuf message.
struct Field {
    number: u64,
    /// Whether it is length-delimited; `content` is then its bytes.
    is_bytes: bool,
    value: u64,
    field: Range<usize>,
    content: Range<usize>,
}

/// The fields of the message that lies in `at..end`.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Fields<'a> {
    fn new(bytes: &'a [u8], range: Range<usize>) -> Self {
        Self { bytes, at: range.start, end: range.end }
    }

    fn field(&mut self) -> Result<Field, OnnxFileError> {
        let start = self.at;
        let tag = varint(self.bytes, &mut self.at, self.end)?;
        let (mut value, mut length) = (0, 0);
        match tag & 7 {
            0 => value = varint(self.bytes, &mut self.at, self.end)?,
            1 => length = 8,
            LENGTH_DELIMITED => length = varint(self.bytes, &mut self.at, self.end)?,
            5 => length = 4,
            _ => return Err(OnnxFileError::Malformed("an unknown wire type")),
        }
        if length > (self.end - self.at) as u64 {
            return Err(OnnxFileError::Malformed("a field is longer than the file"));
        }
        let content = self.at..self.at + length as usize;
        self.at = content.end;
        Ok(Field { number: tag >> 3, is_bytes: tag & 7 == LENGTH_DELIMITED, value, field: start..self.at, content })
    }
}

impl Iterator for Fields<'_> {
    type Item = Result<Field, OnnxFileError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.end {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.at = self.end;
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, TensorProto};

    use super::*;

    fn tensor(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
        let raw_data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        TensorProto { name: name.into(), dims: dims.to_vec(), data_type: 1, raw_data, ..Default::default() }
    }

    fn model(bias: &[f32]) -> ModelProto {
        let initializer =
            vec![tensor("backbone", &[3000], &[0.5; 3000]), tensor("head.bias", &[bias.len() as i64], bias), tensor("tail", &[1], &[9.0])];
        let node = vec![NodeProto { op_type: "Gemm".into(), ..Default::default() }];
        ModelProto {
            ir_version: 8,
            graph: Some(GraphProto { node, initializer, name: "g".into(), ..Default::default() }),
            ..Default::default()
        }
    }

    #[test]
    fn replacing_a_tensor_changes_that_tensor_alone() {
        for new in [vec![5.0f32, 6.0], vec![1.0; 300]] {
            let onnx = model(&[1.0, 2.0]).encode_to_vec();
            let replaced = replace(&onnx, &[Replacement { name: "head.bias", dims: &[new.len() as u64], values: &new }]).unwrap();
            assert_eq!(ModelProto::decode(replaced.as_slice()).unwrap(), model(&new));
            let found = initializers(&replaced).unwrap();
            assert_eq!(found.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["backbone", "head.bias", "tail"]);
            assert_eq!(floats(&replaced, &found[1]).unwrap(), new);
        }
    }

    #[test]
    fn large_tensors_are_boundaries() {
        let onnx = model(&[1.0, 2.0]).encode_to_vec();
        let [start, end] = boundaries(&onnx)[..] else { panic!("one large tensor") };
        assert_eq!(onnx[start..end], [0.5f32; 3000].map(f32::to_le_bytes).concat());
    }

    #[test]
    fn what_is_cut_or_flipped_is_an_error_or_harmless() {
        let onnx = model(&[1.0, 2.0]).encode_to_vec();
        for cut in 0..onnx.len() {
            assert!(initializers(&onnx[..cut]).is_err(), "cut at {cut}");
        }
        for at in (0..onnx.len()).filter(|at| !(200..11_000).contains(at)) {
            for bit in 0..8 {
                let mut flipped = onnx.clone();
                flipped[at] ^= 1 << bit;
                if let Ok(found) = initializers(&flipped) {
                    found.iter().for_each(|tensor| drop(floats(&flipped, tensor)));
                }
            }
        }
        assert_eq!(
            replace(&onnx, &[Replacement { name: "absent", dims: &[], values: &[1.0] }]),
            Err(OnnxFileError::NoInitializer("absent".into()))
        );
    }
}
