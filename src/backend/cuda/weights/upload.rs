//! Uploads parameters from the model's files to their places on the device, layer by layer.

use super::{NamedWeights, Parameter, Piece};
use crate::backend::cuda::functions::Casts;
use crate::backend::cuda::params::CastParams;
use crate::dtype::DType;
use crate::gpu::driver::{DriverError, Region};
use crate::gpu::stream::{Conversion, LayerFences, StreamError, Uploader};
use crate::weights::Weight;

/// Uploads all parameters in the order of their layers, and marks each layer's fence when the layer
/// is queued. The loader's thread runs this.
pub(super) fn all(
    named: &NamedWeights,
    regions: &[Region],
    casts: &Casts,
    uploader: &mut Uploader,
    fences: &LayerFences,
) -> Result<(), StreamError> {
    for layer in 0..=named.layer {
        for (parameter, region) in named.parameters.iter().zip(regions) {
            if parameter.layer == layer {
                one(parameter, region, casts, uploader)?;
            }
        }
        uploader.mark(fences)?;
    }
    Ok(())
}

fn one(
    parameter: &Parameter,
    region: &Region,
    casts: &Casts,
    uploader: &mut Uploader,
) -> Result<(), StreamError> {
    let to = parameter.dtype;
    let mut at = 0;
    for piece in &parameter.pieces {
        match piece {
            Piece::Weight(Weight::Stored(tensor)) => {
                let (bytes, from) = (tensor.bytes(), tensor.dtype());
                if cast_on_device(from, to) {
                    let target = region.slice(at..at + piece.len() * to.size());
                    cast(bytes, (from, to), &target, casts, uploader)?;
                } else {
                    let mut conversion = on_host(from, to);
                    if tensor.is_hollow() {
                        // There is nothing to read, and reading would take memory.
                        conversion.convert = |_, _| ();
                    }
                    uploader.upload_as(bytes, conversion, region, at)?;
                }
            }
            Piece::Weight(Weight::F32(values)) => {
                let mut bytes = Vec::new();
                to.encode(values, &mut bytes);
                uploader.upload(&bytes, region, at)?;
            }
            Piece::Zeros(count) => {
                uploader.upload(&vec![0; count * to.size()], region, at)?;
            }
        }
        at += piece.len() * to.size();
    }
    Ok(())
}

/// Returns whether values are uploaded as they are stored and converted on the device. f32 values
/// are not: rounding them on the host halves the bytes that cross the bus, and loading waits for
/// the bus and for the upload slots.
pub(super) fn cast_on_device(from: DType, to: DType) -> bool {
    from != to && from != DType::F32
}

/// Returns the conversion that the host does for values that are not converted on the device: from
/// f32 to `to`, or none if they are in `to` already.
fn on_host(from: DType, to: DType) -> Conversion {
    if from == to {
        return Conversion::NONE;
    }
    Conversion {
        from: from.size(),
        to: to.size(),
        convert: match to {
            DType::Bf16 => |from, to| DType::Bf16.narrow(from, to),
            _ => |from, to| DType::F16.narrow(from, to),
        },
    }
}

/// Uploads values as they are stored, and converts them to another format on the device.
fn cast(
    bytes: &[u8],
    formats: (DType, DType),
    target: &Region,
    casts: &Casts,
    uploader: &mut Uploader,
) -> Result<(), StreamError> {
    let (from, to) = formats;
    uploader.upload_through(bytes, |chunk| -> Result<(), DriverError> {
        let first = chunk.start / from.size();
        let params = CastParams {
            from: chunk.staged.address(),
            to: target.address() + (first * to.size()) as u64,
            count: (chunk.staged.bytes() / from.size()) as u64,
        };
        // SAFETY: the chunk consists of whole values. The kernel reads them where they were staged
        // and writes them to their place in the target; both regions are live. Nothing else touches
        // them before the layer's fence, which is recorded on this stream.
        unsafe { casts.run(chunk.stream, formats, &params) }
    })
}
