//! Uploads parameters from the model's files to their places on the device, layer by layer.

use super::{NamedWeights, Parameter, Piece, Residency};
use crate::backend::cuda::functions::Casts;
use crate::backend::cuda::params::CastParams;
use crate::dtype::DType;
use crate::gpu::driver::{DriverError, Region};
use crate::gpu::stream::{Conversion, LayerFences, Source, StreamError, Uploader};
use crate::weights::{Tensor, Weight};
use std::sync::Arc;

/// What the loader's thread works on.
pub(super) struct Work {
    pub named: NamedWeights,
    pub residency: Residency,
    /// The places of each parameter, as in [`PlacedWeights`](super::PlacedWeights).
    pub places: Vec<Vec<Region>>,
    /// The memory of each layer that stays.
    pub homes: Vec<Region>,
    /// The slots of the ring.
    pub slots: Vec<Region>,
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
        for (layer, home) in kept.iter().zip(&self.homes) {
            self.upload(*layer, home, 0, uploader)?;
            uploader.mark(loaded)?;
        }
        for (load, layer) in (0..).zip(streamed.iter().cycle()) {
            let slot = load % *slots as u64;
            if let Some(before) = load.checked_sub(*slots as u64) {
                uploader.wait_for(&self.used, before)?;
            }
            let home = &self.slots[slot as usize];
            self.upload(*layer, home, slot as usize, uploader)?;
            uploader.mark(loaded)?;
        }
        Ok(())
    }

    /// Returns the parameters of a layer with their places.
    fn of_layer(&self, layer: usize) -> impl Iterator<Item = (&Parameter, &Vec<Region>)> {
        let all = self.named.parameters.iter().zip(&self.places);
        all.filter(move |(parameter, _)| parameter.layer == layer)
    }

    /// Uploads a layer to its memory `home`, which holds place `number` of each of its parameters.
    /// What needs no conversion on the device goes there together.
    fn upload(
        &self,
        layer: usize,
        home: &Region,
        number: usize,
        uploader: &mut Uploader,
    ) -> Result<(), StreamError> {
        let mut together: Vec<Source<'_>> = Vec::new();
        for (parameter, places) in self.of_layer(layer) {
            let (to, place) = (parameter.dtype, &places[number]);
            let start = (place.address() - home.address()) as usize;
            let mut at = 0;
            for piece in &parameter.pieces {
                let bytes = piece.len() * to.size();
                let offset = start + at;
                at += bytes;
                if let Piece::Weight(Weight::Stored(tensor)) = piece
                    && !cast_on_device(tensor, to)
                {
                    together.push(Source {
                        bytes: tensor.bytes(),
                        conversion: filling(tensor, to),
                        offset,
                    });
                    continue;
                }
                uploader.upload_all(&together, home)?;
                together.clear();
                match piece {
                    Piece::Weight(Weight::Stored(tensor)) => {
                        let formats = (tensor.dtype(), to);
                        let target = home.slice(offset..offset + bytes);
                        cast(tensor.bytes(), formats, &target, &self.casts, uploader)?;
                    }
                    Piece::Weight(Weight::F32(values)) => {
                        let mut encoded = Vec::new();
                        to.encode(values, &mut encoded);
                        uploader.upload(&encoded, home, offset)?;
                    }
                    Piece::Zeros(_) => uploader.upload(&vec![0; bytes], home, offset)?,
                }
            }
        }
        uploader.upload_all(&together, home)
    }
}

/// Returns how a tensor's values are written to a slot.
fn filling(tensor: &Tensor, to: DType) -> Conversion {
    let mut conversion = on_host(tensor.dtype(), to);
    if tensor.is_hollow() {
        // There is nothing to read, and reading would take memory.
        conversion.convert = |_, _| ();
    }
    conversion
}

/// The bytes of a tensor up to which the host widens it. The copies of a layer are queued together,
/// and a kernel between them would cost more than the bytes that it saves.
const WIDENED: usize = 256 << 10;

/// Returns whether values are uploaded as they are stored and converted on the device. f32 values
/// are not: rounding them on the host halves the bytes that cross the bus, and loading waits for
/// the bus and for the upload slots. Neither are gains and biases of 16 bits that become f32.
pub(super) fn cast_on_device(tensor: &Tensor, to: DType) -> bool {
    let from = tensor.dtype();
    let widened = to == DType::F32 && tensor.bytes().len() <= WIDENED;
    from != to && from != DType::F32 && !widened
}

/// Returns the conversion that the host does for values that are not converted on the device.
fn on_host(from: DType, to: DType) -> Conversion {
    if from == to {
        return Conversion::NONE;
    }
    Conversion {
        from: from.size(),
        to: to.size(),
        convert: match (from, to) {
            (DType::Bf16, _) => |from, to| DType::Bf16.widen(from, to),
            (DType::F16, _) => |from, to| DType::F16.widen(from, to),
            (DType::F32, DType::Bf16) => |from, to| DType::Bf16.narrow(from, to),
            (DType::F32, _) => |from, to| DType::F16.narrow(from, to),
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
