//! Weights that all stay on the device once they have arrived.

use super::{NamedWeights, ParameterId, upload};
use crate::backend::cuda::error::CudaError;
use crate::backend::cuda::functions::Casts;
use crate::gpu::driver::{Arena, DriverError, Region, Stream};
use crate::gpu::stream::{LayerFences, Loader, StreamError, StreamSet, Uploader};
use std::sync::Arc;

/// Weights that have a place on the device. Their loading has not started.
pub(in crate::backend::cuda) struct PlacedWeights {
    named: NamedWeights,
    /// The place of each parameter.
    regions: Vec<Region>,
}

impl PlacedWeights {
    /// Gives each parameter its place in the arena.
    pub fn new(named: NamedWeights, arena: &mut Arena) -> Result<Self, DriverError> {
        let take = |p: &super::Parameter| arena.take("parameters", p.bytes());
        let regions = named.parameters.iter().map(take);
        Ok(Self {
            regions: regions.collect::<Result<_, _>>()?,
            named,
        })
    }

    /// Starts the thread that loads the weights.
    pub fn load(
        self,
        streams: &StreamSet,
        uploader: Uploader,
        casts: Arc<Casts>,
    ) -> Result<ResidentWeights, CudaError> {
        let Self { named, regions } = self;
        let layer_bytes = named.layer_bytes();
        let place = |(p, region): (&super::Parameter, &Region)| (region.clone(), p.len());
        let places = named.parameters.iter().zip(&regions).map(place).collect();
        let fences = Arc::new(LayerFences::new(streams, "layer", layer_bytes.len())?);
        let loader = Loader::start(uploader, fences, move |uploader, fences| {
            upload::all(&named, &regions, &casts, uploader, fences)
        })?;
        Ok(ResidentWeights {
            loader,
            places,
            layer_bytes,
            waited: 0,
        })
    }
}

/// Weights that are on the device or on their way to it.
///
/// A pass asks this type alone for weights: it waits for a layer, and then asks for the addresses
/// of the layer's parameters while it queues the operations that read them.
pub(in crate::backend::cuda) struct ResidentWeights {
    /// The thread that loads the weights. It ends before the memory that it writes to is freed.
    loader: Loader,
    /// The place of each parameter, and how many values it has.
    places: Vec<(Region, usize)>,
    /// The bytes of each layer's parameters. There is at least one layer.
    layer_bytes: Vec<usize>,
    /// The number of layers that the compute stream waits for already.
    waited: usize,
}

impl ResidentWeights {
    /// Makes `stream`, the compute stream, wait for all layers up to this one, counted from 0. The
    /// stream runs in order, so one wait for a fence covers all later work.
    pub fn wait(&mut self, layer: usize, stream: &Stream) -> Result<(), StreamError> {
        while self.waited <= layer {
            self.loader.loaded().wait(self.waited as u64, stream)?;
            self.waited += 1;
        }
        Ok(())
    }

    /// Returns the address of a parameter.
    pub fn address(&self, parameter: ParameterId) -> u64 {
        self.region(parameter).address()
    }

    /// Returns the memory of a parameter.
    pub fn region(&self, parameter: ParameterId) -> &Region {
        &self.places[parameter.0].0
    }

    /// Returns how many values a parameter has.
    pub fn values(&self, parameter: ParameterId) -> usize {
        self.places[parameter.0].1
    }

    /// Returns the bytes of each layer's parameters on the device.
    pub fn layer_bytes(&self) -> &[usize] {
        &self.layer_bytes
    }
}
