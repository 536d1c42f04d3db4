//! Uploads parameters from the model's files to their places on the device, layer by layer.

use super::{NamedWeights, Parameter, Piece, Residency};
use crate::backend::cuda::functions::Casts;
use crate::backend::cuda::params::CastParams;
use crate::dtype::DType;
use crate::gpu::driver::{DriverError, Region};
use crate::gpu::stream::{Conversion, LayerFences, StreamError, Uploader};
use crate::weights::Weight;
use std::sync::Arc;

/// What the loader's thread works on.
pub(super) struct Work {
    pub named: NamedWeights,
    pub residency: Residency,
    /// The places of each parameter, as in [`PlacedWeights`](super::PlacedWeights).
    pub places: Vec<Vec<Region>>,
    pub casts: Arc<Casts>,
    /// The fences after the last use of each load of the ring.
    pub used: Arc<LayerFences>,
}

impl Work {
    /// Uploads the layers that stay, and then the streamed layers again and again, until the loader
    /// is dropped or the job fails. Each layer's fence is marked when the layer is queued.
    pub fn all(&self, uploader: &mut Uploader, loaded: &LayerFences) -> Result<(), StreamError> {
        let Residency {
            kept,
            streamed,
            slots,
            ..
        } = &self.residency;
        for layer in kept {
            self.layer(*layer, 0, uploader)?;
            uploader.mark(loaded)?;
        }
        for (load, layer) in (0..).zip(streamed.iter().cycle()) {
            let slot = load % *slots as u64;
            if let Some(before) = load.checked_sub(*slots as u64) {
                uploader.wait_for(&self.used, before)?;
            }
            self.layer(*layer, slot as usize, uploader)?;
            uploader.mark(loaded)?;
        }
        Ok(())
    }

    /// Uploads the parameters of a layer, each to its place with this number.
    fn layer(
        &self,
        layer: usize,
        place: usize,
        uploader: &mut Uploader,
    ) -> Result<(), StreamError> {
        for (parameter, places) in self.named.parameters.iter().zip(&self.places) {
            if parameter.layer == layer {
                one(parameter, &places[place], &self.casts, uploader)?;
            }
        }
        Ok(())
    }
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
                    uploader.upload_as(bytes, on_host(from, to), region, at)?;
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
