//! The weights of a model on a device.
//!
//! A builder names them ([`NamedWeights`]) before any memory is taken. When all sizes are known,
//! each of them gets its place ([`PlacedWeights`]), and a thread starts to upload them. A pass then
//! asks [`DeviceWeights`] for them. Each parameter belongs to a layer, whose parameters load
//! together: layer 0 is the embedding.
//!
//! A pass waits for a layer before it asks for an address in that layer, and is done with a layer
//! when it waits for the next layer or ends. So the layers may all have places of their own, or take
//! turns in a ring of slots ([`Residency`]); the pass cannot tell.

mod device;
mod residency;
mod upload;

pub(super) use device::{DeviceWeights, PlacedWeights};
pub(super) use residency::Residency;

use crate::dtype::DType;
use crate::weights::{F32Data, Weight};
use std::collections::BTreeSet;
use upload::cast_on_device;

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
    pub layer: usize,
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
pub(super) struct NamedWeights {
    parameters: Vec<Parameter>,
    /// The layer that is named now.
    layer: usize,
    /// The layers that have a matrix.
    matrices: BTreeSet<usize>,
}

impl NamedWeights {
    /// Opens the next layer: parameters named from here on belong to it.
    pub fn next_layer(&mut self) {
        self.layer += 1;
    }

    /// Returns the bytes on the device of each layer that was opened, the first layer included.
    pub fn layer_bytes(&self) -> Vec<usize> {
        let mut bytes = vec![0; self.layer + 1];
        for parameter in &self.parameters {
            bytes[parameter.layer] += parameter.bytes();
        }
        bytes
    }

    /// Names a parameter that consists of `pieces`, and returns its number.
    pub fn name(&mut self, pieces: Vec<Piece>, dtype: DType) -> ParameterId {
        self.parameters.push(Parameter {
            pieces,
            dtype,
            layer: self.layer,
        });
        ParameterId(self.parameters.len() - 1)
    }

    /// Names a parameter that is the matrix of a linear layer.
    pub fn name_matrix(&mut self, pieces: Vec<Piece>, dtype: DType) -> ParameterId {
        self.matrices.insert(self.layer);
        self.name(pieces, dtype)
    }

    /// Names a parameter whose values were computed here, in f32.
    pub fn name_values(&mut self, values: Vec<f32>) -> ParameterId {
        let piece = Piece::Weight(Weight::F32(F32Data::Owned(values)));
        self.name(vec![piece], DType::F32)
    }

    /// Returns the parameters of a layer.
    fn of_layer(&self, layer: usize) -> impl Iterator<Item = &Parameter> {
        self.parameters.iter().filter(move |p| p.layer == layer)
    }

    /// Returns a parameter.
    pub fn get(&self, parameter: ParameterId) -> &Parameter {
        &self.parameters[parameter.0]
    }

    /// Returns the bytes of a layer as they are stored in the model's files.
    pub fn stored_bytes(&self, layer: usize) -> usize {
        let stored = |piece: &Piece| match piece {
            Piece::Weight(Weight::Stored(tensor)) => tensor.bytes().len(),
            Piece::Weight(Weight::F32(_)) | Piece::Zeros(_) => 0,
        };
        self.of_layer(layer)
            .flat_map(|p| &p.pieces)
            .map(stored)
            .sum()
    }

    /// Returns whether any parameter is converted on the device, which takes a staging area there.
    pub fn any_cast(&self) -> bool {
        let cast = |piece: &Piece, to| match piece {
            Piece::Weight(Weight::Stored(tensor)) => cast_on_device(tensor, to),
            Piece::Weight(Weight::F32(_)) | Piece::Zeros(_) => false,
        };
        let one = |p: &Parameter| p.pieces.iter().any(|piece| cast(piece, p.dtype));
        self.parameters.iter().any(one)
    }
}
