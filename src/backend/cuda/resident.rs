//! Collects the parameters that a model keeps on a device, and decides where they will lie.
//!
//! Parameters are named first and placed together once all sizes are known, so that the device's
//! memory is taken once. Each parameter belongs to a layer (the embedding, a layer of the model,
//! ...), whose weights load together; the code calls it a group.

use super::weights::cast_on_device;
use crate::dtype::DType;
use crate::gpu::driver::{Arena, DriverError, Region};
use crate::weights::{F32Data, Weight};

/// A parameter, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParameterId(usize);

/// One array on the device: the pieces end to end, in `dtype`.
pub(super) struct Parameter {
    /// The pieces that the array consists of.
    pub pieces: Vec<Piece>,
    /// The dtype on the device.
    pub dtype: DType,
    /// The layer that the parameter belongs to, counted from 0.
    pub group: usize,
}

/// The source of a piece of values.
pub(super) enum Piece {
    /// Values from the model's files.
    Weight(Weight),
    /// This many zeros.
    Zeros(usize),
}

impl Piece {
    /// Returns the number of values.
    pub fn len(&self) -> usize {
        match self {
            Piece::Weight(weight) => weight.len(),
            Piece::Zeros(count) => *count,
        }
    }
}

impl Parameter {
    /// Returns the number of values.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(Piece::len).sum()
    }

    /// Returns the number of bytes on the device.
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
    /// Opens the next layer: parameters named from here on belong to it.
    pub fn next_group(&mut self) {
        self.groups += 1;
    }

    /// Returns the bytes on the device of each layer that was opened, the first layer included.
    pub fn group_bytes(&self) -> Vec<usize> {
        let mut bytes = vec![0; self.groups + 1];
        for parameter in &self.parameters {
            bytes[parameter.group] += parameter.bytes();
        }
        bytes
    }

    /// Names a parameter that consists of `pieces`, and returns its number.
    pub fn name(&mut self, pieces: Vec<Piece>, dtype: DType) -> ParameterId {
        self.parameters.push(Parameter {
            pieces,
            dtype,
            group: self.groups,
        });
        ParameterId(self.parameters.len() - 1)
    }

    /// Names a parameter whose values were computed here, in f32.
    pub fn name_values(&mut self, values: Vec<f32>) -> ParameterId {
        let piece = Piece::Weight(Weight::F32(F32Data::Owned(values)));
        self.name(vec![piece], DType::F32)
    }

    /// Returns the bytes of an arena that all parameters occupy together.
    pub fn footprint(&self) -> usize {
        let one = |p: &Parameter| Arena::footprint(p.bytes());
        self.parameters.iter().map(one).sum()
    }

    /// Returns the bytes of one parameter on the device.
    pub fn bytes(&self, parameter: ParameterId) -> usize {
        self.parameters[parameter.0].bytes()
    }

    /// Returns whether any parameter is converted on the device, which takes a staging area there.
    pub fn any_cast(&self) -> bool {
        let cast = |piece: &Piece, to| match piece {
            Piece::Weight(Weight::Stored(tensor)) => cast_on_device(tensor.dtype(), to),
            Piece::Weight(Weight::F32(_)) | Piece::Zeros(_) => false,
        };
        let one = |p: &Parameter| p.pieces.iter().any(|piece| cast(piece, p.dtype));
        self.parameters.iter().any(one)
    }

    /// Gives each parameter its place in the arena.
    pub fn place(self, arena: &mut Arena) -> Result<Placed, DriverError> {
        let place = |p: &Parameter| arena.take("parameters", p.bytes());
        let regions = self.parameters.iter().map(place);
        Ok(Placed {
            regions: regions.collect::<Result<_, _>>()?,
            parameters: self.parameters,
        })
    }
}

/// Parameters that have a place on the device.
pub(super) struct Placed {
    /// The parameters, in the order of their numbers.
    pub parameters: Vec<Parameter>,
    /// The place of each parameter.
    pub regions: Vec<Region>,
}

impl Placed {
    /// Returns the place of each parameter, which is all that must still be known after the loader
    /// has taken the rest.
    pub fn addresses(&self) -> Addresses {
        let one = |(p, region): (&Parameter, &Region)| (region.clone(), p.len());
        Addresses(self.parameters.iter().zip(&self.regions).map(one).collect())
    }
}

/// The places of parameters on the device, and how many values each holds.
pub(super) struct Addresses(Vec<(Region, usize)>);

impl Addresses {
    /// Returns the address of a parameter.
    pub fn of(&self, parameter: ParameterId) -> u64 {
        self.0[parameter.0].0.address()
    }

    /// Returns the memory of a parameter.
    pub fn region(&self, parameter: ParameterId) -> &Region {
        &self.0[parameter.0].0
    }

    /// Returns how many values a parameter has.
    pub fn values(&self, parameter: ParameterId) -> usize {
        self.0[parameter.0].1
    }
}
