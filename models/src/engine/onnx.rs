//! ONNX networks on tract.
//!
//! Invariant: the input's shape is the manifest's, fixed before anything is optimised; outputs are found by name and are f32.
//! External data, which would name paths, is refused. Not here: own convolutions.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use prost::Message as _;
use tract_onnx::{data_resolver::ModelDataResolver, model::Onnx as OnnxFramework, pb::ModelProto, prelude::*};

use super::{Engine, EngineError, Session};
use crate::{manifest::Manifest, package::MAX_MODEL, tensor::Tensor};

/// The ONNX engine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Onnx;

struct OnnxSession {
    plan: Arc<TypedRunnableModel>,
    shape: Vec<usize>,
}

impl Engine for Onnx {
    fn load(&self, network: &[u8], manifest: &Manifest) -> Result<Box<dyn Session>, EngineError> {
        if network.len() > MAX_MODEL {
            return Err(EngineError::Load(format!("{} bytes; {MAX_MODEL} are allowed", network.len())));
        }
        let plan = guarded(|| load(network, manifest)).map_err(EngineError::Load)?;
        Ok(Box::new(OnnxSession { plan, shape: manifest.input.shape.clone() }))
    }
}

impl Session for OnnxSession {
    fn run(&mut self, input: &Tensor) -> Result<Vec<Tensor>, EngineError> {
        if input.shape() != self.shape {
            return Err(EngineError::Run(format!("an input of shape {:?}; the network takes {:?}", input.shape(), self.shape)));
        }
        guarded(|| run(&self.plan, input)).map_err(EngineError::Run)
    }
}

fn load(network: &[u8], manifest: &Manifest) -> TractResult<Arc<TypedRunnableModel>> {
    let proto = ModelProto::decode(network)?;
    let framework = OnnxFramework { provider: Arc::new(NoExternalData), ..tract_onnx::onnx() };
    let mut model = framework.model_for_proto_model(&proto)?;
    let declared: Vec<String> = proto.graph.into_iter().flat_map(|graph| graph.output).map(|output| output.name).collect();
    let inputs: Vec<String> = model.input_outlets()?.iter().map(|outlet| model.node(outlet.node).name.clone()).collect();
    if inputs != [manifest.input.name.as_str()] {
        return Err(format_err(format!("its inputs are {inputs:?}; the manifest names {:?}", manifest.input.name)));
    }
    model.set_input_fact(0, f32::fact(&manifest.input.shape).into())?;
    let mut outlets = Vec::new();
    for output in &manifest.outputs {
        let outlet = model.find_outlet_label(&output.name).filter(|_| declared.contains(&output.name));
        outlets.push(outlet.ok_or_else(|| format_err(format!("it has no output {:?}", output.name)))?);
    }
    model.select_output_outlets(&outlets)?;
    let model = model.into_optimized()?;
    for (at, output) in manifest.outputs.iter().enumerate() {
        let fact = model.output_fact(at)?;
        if fact.datum_type != f32::datum_type() || fact.shape.as_concrete().is_none() {
            return Err(format_err(format!("output {:?} is not float32 of one shape", output.name)));
        }
    }
    model.into_runnable()
}

fn run(plan: &Arc<TypedRunnableModel>, input: &Tensor) -> TractResult<Vec<Tensor>> {
    let input = tract_onnx::prelude::Tensor::from_shape(input.shape(), input.values())?;
    let outputs = plan.run(tvec!(input.into()))?;
    outputs
        .iter()
        .map(|output| {
            let values = output.to_plain_array_view::<f32>()?.iter().copied().collect();
            Tensor::new(output.shape().to_vec(), values).ok_or_else(|| format_err("an output does not have its shape".into()))
        })
        .collect()
}

/// tract is someone else's code on a stranger's network: a panic in it condemns the network, nothing else. Errors are cut short.
fn guarded<T>(work: impl FnOnce() -> TractResult<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(format!("{error:#}").chars().take(500).collect()),
        Err(_) => Err("the engine gave up".into()),
    }
}

fn format_err(text: String) -> TractError {
    TractError::msg(text)
}

/// A package is all there is: no tensor lies in another file.
struct NoExternalData;

impl ModelDataResolver for NoExternalData {
    fn read_bytes_from_path(&self, _: &mut Vec<u8>, _: &Path, _: usize, _: Option<usize>) -> TractResult<()> {
        Err(format_err("tensors in other files are not read".into()))
    }
}
