//! What a model keeps on a device: parameters as they were named, and where they will lie.
//!
//! Parameters are named first and placed together, once all sizes are known, so that a device's memory is taken
//! once. Each belongs to a group (the embedding, a layer, ...), which arrives as one.

use super::weights::cast_on_device;
use crate::dtype::DType;
use crate::gpu::driver::{Arena, DriverError, Region};
use crate::weights::{F32Data, Weight};

/// A parameter by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParameterId(usize);

/// One array on the device: `pieces` end to end, in `dtype`.
pub(super) struct Parameter {
    pub pieces: Vec<Piece>,
    pub dtype: DType,
    pub group: usize,
}

/// Where values come from.
pub(super) enum Piece {
    /// From the model's files.
    Weight(Weight),
    /// So many zeros.
    Zeros(usize),
}

impl Piece {
    pub fn len(&self) -> usize {
        match self {
            Piece::Weight(weight) => weight.len(),
            Piece::Zeros(count) => *count,
        }
    }
}

impl Parameter {
    /// Values.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(Piece::len).sum()
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.len() * self.dtype.size()
    }
}

/// All parameters of a model, in the order in which they were named.
#[derive(Default)]
pub(super) struct Resident {
    parameters: Vec<Parameter>,
    groups: usize,
}

impl Resident {
    /// What is named from here on belongs to the next group.
    pub fn next_group(&mut self) {
        self.groups += 1;
    }

    /// Bytes on the device of each group that was opened, the first included.
    pub fn group_bytes(&self) -> Vec<usize> {
        let mut bytes = vec![0; self.groups + 1];
        for parameter in &self.parameters {
            bytes[parameter.group] += parameter.bytes();
        }
        bytes
    }

    /// Names a parameter.
    pub fn name(&mut self, pieces: Vec<Piece>, dtype: DType) -> ParameterId {
        self.parameters.push(Parameter {
            pieces,
            dtype,
            group: self.groups,
        });
        ParameterId(self.parameters.len() - 1)
    }

    /// Names values that were computed here.
    pub fn name_values(&mut self, values: Vec<f32>) -> ParameterId {
        let piece = Piece::Weight(Weight::F32(F32Data::Owned(values)));
        self.name(vec![piece], DType::F32)
    }

    /// Bytes that all of them take of an arena.
    pub fn footprint(&self) -> usize {
        let one = |p: &Parameter| Arena::footprint(p.bytes());
        self.parameters.iter().map(one).sum()
    }

    /// Bytes of one of them.
    pub fn bytes(&self, parameter: ParameterId) -> usize {
        self.parameters[parameter.0].bytes()
    }

    /// Whether any is cast on the device, for which there has to be an area.
    pub fn any_cast(&self) -> bool {
        let cast = |piece: &Piece, to| match piece {
            Piece::Weight(Weight::Stored(tensor)) => cast_on_device(tensor.dtype(), to),
            Piece::Weight(Weight::F32(_)) | Piece::Zeros(_) => false,
        };
        let one = |p: &Parameter| p.pieces.iter().any(|piece| cast(piece, p.dtype));
        self.parameters.iter().any(one)
    }

    /// Gives each its place.
    pub fn place(self, arena: &mut Arena) -> Result<Placed, DriverError> {
        let place = |p: &Parameter| arena.take("parameters", p.bytes());
        let regions = self.parameters.iter().map(place);
        Ok(Placed {
            regions: regions.collect::<Result<_, _>>()?,
            parameters: self.parameters,
        })
    }
}

/// Parameters that have a place.
pub(super) struct Placed {
    pub parameters: Vec<Parameter>,
    pub regions: Vec<Region>,
}

impl Placed {
    /// Where each lies, by its number: all that is left to know when the loader has the rest.
    pub fn addresses(&self) -> Addresses {
        let one = |(p, region): (&Parameter, &Region)| (region.clone(), p.len());
        Addresses(self.parameters.iter().zip(&self.regions).map(one).collect())
    }
}

/// Places on the device, by parameter, and how many values lie there.
pub(super) struct Addresses(Vec<(Region, usize)>);

impl Addresses {
    pub fn of(&self, parameter: ParameterId) -> u64 {
        self.0[parameter.0].0.address()
    }

    pub fn region(&self, parameter: ParameterId) -> &Region {
        &self.0[parameter.0].0
    }

    pub fn values(&self, parameter: ParameterId) -> usize {
        self.0[parameter.0].1
    }
}
