//! Numbers with a shape: what goes into a network and what comes out.
//!
//! Invariant: there are exactly as many values as the shape says, row by row. Not here: other element types than f32; a network
//! that takes or gives another one is refused when it is loaded.

/// A dense f32 tensor, last axis fastest.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Tensor {
    /// `None` where the number of values is not the shape's.
    pub fn new(shape: Vec<usize>, values: Vec<f32>) -> Option<Self> {
        let count = shape.iter().try_fold(1usize, |count, &dimension| count.checked_mul(dimension))?;
        (count == values.len()).then_some(Self { shape, values })
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub fn values(&self) -> &[f32] {
        &self.values
    }

    pub fn into_values(self) -> Vec<f32> {
        self.values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_has_as_many_values_as_its_shape_says() {
        assert!(Tensor::new(vec![1, 2], vec![0.0; 2]).is_some());
        assert!(Tensor::new(vec![], vec![1.0]).is_some());
        assert!(Tensor::new(vec![2, 2], vec![0.0; 3]).is_none());
        assert!(Tensor::new(vec![usize::MAX, 2], vec![]).is_none());
    }
}
