//! Parameters on their way from the model's files to their places on the device, group by group.

use super::functions::Casts;
use super::params::CastParams;
use super::resident::{Parameter, Piece, Placed};
use crate::dtype::DType;
use crate::gpu::driver::{DriverError, Region};
use crate::gpu::stream::{Conversion, LayerFences, StreamError, Uploader};
use crate::weights::Weight;

/// Brings all parameters up in the order of their groups, and marks each group. For the loader's thread.
pub(super) fn load(
    placed: &Placed,
    groups: usize,
    casts: &Casts,
    uploader: &mut Uploader,
    fences: &LayerFences,
) -> Result<(), StreamError> {
    for group in 0..groups {
        for (parameter, region) in placed.parameters.iter().zip(&placed.regions) {
            if parameter.group == group {
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

/// Whether values go up as they are stored and become others there. f32 does not: rounded on the host, half the bytes
/// cross the bus, and it is that, and the slots, that loading waits for.
pub(super) fn cast_on_device(from: DType, to: DType) -> bool {
    from != to && from != DType::F32
}

/// What the host makes of what is not cast on the device: of f32, or of `to` itself.
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

/// As they are stored to the device, and there into another format.
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
        // SAFETY: a chunk of whole values, read where it was staged and written to its place in the target, both
        // live; nothing else touches them before the group's fence, which is recorded on this stream.
        unsafe { casts.run(chunk.stream, formats, &params) }
    })
}
