//! Checks the rotary frequencies (`inv_freq`), which checkpoints store once per layer.
//!
//! Hugging Face's code rotates queries and keys in each layer by that layer's own frequencies. In
//! all published models these frequencies are the same in every layer, and the backends keep one
//! table of angles for all layers. A model whose layers differ would be computed differently here
//! than by Hugging Face's code, and so it is refused.

use super::WeightsError;
use super::identify::{Located, Tensors};
use super::mapped::Mapped;
use super::stored::StoredDType;
use crate::architecture::{ModelConfig, ModelKind, layout};
use crate::dtype::DType;
use std::path::Path;
use std::sync::Arc;

/// Refuses a model whose layers have different frequencies, or in which only some layers have
/// frequencies.
pub(super) fn check<'a>(
    config: &ModelConfig,
    tensors: &Tensors,
    file: impl Fn(&Located) -> &'a Arc<Mapped>,
) -> Result<(), WeightsError> {
    if config.kind != ModelKind::Esm2 {
        return Ok(());
    }
    let of = |layer| {
        let own = tensors.get(&layout::inv_freq_name(layer));
        own.or_else(|| tensors.get(layout::SHARED_INV_FREQ))
    };
    let first = of(0);
    let expected = first.map(|t| values(t, file(t).bytes()));
    for layer in 1..config.layers {
        match (of(layer), &expected) {
            (None, None) => {}
            (Some(t), Some(expected)) => {
                let found = values(t, file(t).bytes());
                // The bits are compared, so that a NaN is equal to itself.
                let differs = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits();
                if let Some(at) = found.iter().zip(expected).position(differs) {
                    let what = format!(
                        "has {} at index {at}, where layer 0 has {}: layers of different rotary \
                         frequencies are not computed here",
                        found[at], expected[at]
                    );
                    return Err(refused(t, file(t).path(), what));
                }
            }
            (Some(t), None) => {
                let what = format!(
                    "gives layer {layer} rotary frequencies, where layer 0 has none: layers of \
                     different rotary frequencies are not computed here"
                );
                return Err(refused(t, file(t).path(), what));
            }
            (None, Some(_)) => {
                // `first` is there, since `expected` holds its values.
                let Some(t) = first else { continue };
                let what = format!(
                    "gives layer 0 rotary frequencies, where layer {layer} has none: layers of \
                     different rotary frequencies are not computed here"
                );
                return Err(refused(t, file(t).path(), what));
            }
        }
    }
    Ok(())
}

fn refused(t: &Located, path: &Path, what: String) -> WeightsError {
    WeightsError::Unusable {
        tensor: t.stored.name.clone(),
        path: path.to_owned(),
        what,
        hint: "the file is damaged, or of a model that was changed; give the published one".into(),
    }
}

/// The values of a tensor that was found usable, in f32.
fn values(t: &Located, file: &[u8]) -> Vec<f32> {
    let mut values = Vec::new();
    if let (StoredDType::Float(dtype), Ok(range)) = (&t.stored.dtype, &t.stored.place) {
        dtype.decode(file.get(range.clone()).unwrap_or_default(), &mut values);
    }
    values
}

/// Messages about rotary frequencies that are absent or rounded, which do not stop the use of the
/// weights.
pub(super) fn warnings(config: &ModelConfig, tensors: &Tensors) -> Vec<String> {
    let mut warnings = Vec::new();
    if config.kind != ModelKind::Esm2 {
        return warnings;
    }
    let frequencies = |layer| {
        let own = tensors.get(&layout::inv_freq_name(layer));
        own.or_else(|| tensors.get(layout::SHARED_INV_FREQ))
    };
    let absent = (0..config.layers)
        .filter(|layer| frequencies(*layer).is_none())
        .count();
    if absent > 0 {
        warnings.push(format!(
            "{absent} of {} layers have no rotary frequencies (inv_freq) in the file; they are computed in f32. \
             Published ESM-2 weights carry frequencies rounded to f16, from which these deviate",
            config.layers
        ));
    }
    let is_bf16 = |t: &Located| t.stored.dtype == StoredDType::Float(DType::Bf16);
    if (0..config.layers).filter_map(frequencies).any(is_bf16) {
        warnings.push(
            "the rotary frequencies (inv_freq) are stored in bf16, which turns far positions by radians; \
             results deviate from those of the published weights"
                .into(),
        );
    }
    warnings
}
