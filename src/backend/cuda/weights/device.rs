//! The weights of a model on its device: loaded once, or streamed layer by layer through a ring of
//! slots.
//!
//! ```text
//!              load stream                          compute stream
//! layer 1      copies -> slot 0
//!              record layer                ----->   wait layer
//! layer 2      copies -> slot 1                     kernels of layer 1
//!              record layer                         record used 0
//! layer 3      wait used 0                 <-----
//!              copies -> slot 0                     wait layer, kernels of layer 2
//! ```
//!
//! The loads of a ring are counted on from pass to pass: after the last layer of a pass the loader
//! goes on with the first layer of the next pass, whether or not that pass has begun.
//!
//! **Why no slot is overwritten too early.** Load n goes to slot n modulo the number of slots K.
//! Its copies come after a wait of the load stream for the fence `used` of load n - K, which the
//! compute stream passes after the last kernel that reads this slot.
//!
//! **Why no fence is recorded too early.** Load n has the fence of load n - K. The loader records
//! it after `used` of load n - K was recorded, which the computing thread does after its stream has
//! waited for load n - K. In the other direction, `used` of load n is recorded after the stream has
//! waited for load n, which is loaded after the load stream has waited for `used` of load n - K.

use super::{NamedWeights, ParameterId, Residency, residency, upload};
use crate::backend::cuda::error::CudaError;
use crate::backend::cuda::functions::Casts;
use crate::gpu::driver::{Arena, DriverError, Region, Stream};
use crate::gpu::stream::{LayerFences, Loader, StreamSet, Uploader};
use std::sync::Arc;

/// Weights that have a place on the device. Their loading has not started.
pub(in crate::backend::cuda) struct PlacedWeights {
    named: NamedWeights,
    residency: Residency,
    /// The places of each parameter: one, or one per slot if its layer is streamed, or none if no
    /// pass reaches its layer.
    places: Vec<Vec<Region>>,
    /// The memory of each layer that stays.
    homes: Vec<Region>,
    /// The slots of the ring.
    slots: Vec<Region>,
}

impl PlacedWeights {
    /// Gives each parameter its place in the arena.
    pub fn new(
        named: NamedWeights,
        residency: Residency,
        arena: &mut Arena,
    ) -> Result<Self, DriverError> {
        let mut places = vec![Vec::new(); named.parameters.len()];
        // Each layer fills its home, or a slot, from the start, in the order of its parameters.
        let mut fill = |home: &Region, layers: &[usize]| {
            let mut filled = vec![0; named.layer + 1];
            for (parameter, places) in named.parameters.iter().zip(&mut places) {
                if layers.contains(&parameter.layer) {
                    let start = filled[parameter.layer];
                    places.push(home.slice(start..start + parameter.bytes()));
                    filled[parameter.layer] += residency::footprint(parameter);
                }
            }
        };
        let mut homes = Vec::new();
        for layer in &residency.kept {
            let bytes = Residency::bytes_of(&named, *layer);
            let home = arena.take("parameters", bytes)?;
            fill(&home, &[*layer]);
            homes.push(home);
        }
        let slots = (0..residency.slots)
            .map(|_| arena.take("slots of layers", residency.slot_bytes))
            .collect::<Result<Vec<_>, _>>()?;
        for slot in &slots {
            fill(slot, &residency.streamed);
        }
        Ok(Self {
            named,
            residency,
            places,
            homes,
            slots,
        })
    }

    /// Starts the thread that loads the weights.
    pub fn load(
        self,
        streams: &StreamSet,
        uploader: Uploader,
        casts: Arc<Casts>,
    ) -> Result<DeviceWeights, CudaError> {
        let Self {
            named,
            residency,
            places,
            homes,
            slots,
        } = self;
        let layer_bytes = named.layer_bytes();
        let place = |(p, regions): (&super::Parameter, &Vec<Region>)| Place {
            regions: regions.clone(),
            values: p.len(),
            layer: p.layer,
        };
        let parameters = named.parameters.iter().zip(&places).map(place).collect();
        let fences = residency.kept.len() + residency.slots;
        let loaded = Arc::new(LayerFences::new(streams, "layer", fences)?);
        let used = Arc::new(LayerFences::new(streams, "used", residency.slots)?);
        let work = upload::Work {
            named,
            residency: residency.clone(),
            places,
            homes,
            slots,
            casts,
            used: Arc::clone(&used),
        };
        let loader = Loader::start(uploader, loaded, move |uploader, loaded| {
            work.all(uploader, loaded)
        })?;
        Ok(DeviceWeights {
            loader,
            used,
            parameters,
            residency,
            layer_bytes,
            waited: 0,
            begun: 0,
            held: None,
        })
    }
}

/// A parameter on the device.
struct Place {
    /// Its places: one, or one per slot if its layer is streamed, or none if no pass reaches its
    /// layer.
    regions: Vec<Region>,
    /// The number of its values.
    values: usize,
    /// The layer that it belongs to.
    layer: usize,
}

/// Weights that are on the device or on their way to it.
///
/// A pass asks this type alone for weights: it waits for a layer, and then asks for the addresses
/// of the layer's parameters while it queues the operations that read them.
pub(in crate::backend::cuda) struct DeviceWeights {
    /// The thread that loads the weights. It ends before the memory that it writes to is freed.
    loader: Loader,
    /// The fences after the last use of each load of the ring. The loader waits for them.
    used: Arc<LayerFences>,
    parameters: Vec<Place>,
    residency: Residency,
    /// The bytes of each layer's parameters. There is at least one layer.
    layer_bytes: Vec<usize>,
    /// The number of kept layers that the compute stream waits for already.
    waited: usize,
    /// The number of loads of the ring that the compute stream waits for already.
    begun: u64,
    /// The layer in the slot of the latest of these loads, until it is released.
    held: Option<usize>,
}

impl DeviceWeights {
    /// Makes `stream`, the compute stream, wait for a layer, counted from 0. The layer that was
    /// waited for before is released: nothing that is queued from now on may read it, unless it is
    /// one of the layers that stay.
    ///
    /// # Errors
    /// [`CudaError::Unreached`] for a layer behind the deepest one that was announced, or a
    /// failure.
    pub fn wait(&mut self, layer: usize, stream: &Stream) -> Result<(), CudaError> {
        if self.held == Some(layer) {
            return Ok(());
        }
        self.release(stream)?;
        if let Ok(place) = self.residency.kept.binary_search(&layer) {
            return self.wait_for_kept(place + 1, stream);
        }
        if !self.residency.streamed.contains(&layer) {
            return Err(CudaError::Unreached { layer });
        }
        // The fences of the layers that stay are recorded again for loads of the ring.
        self.wait_for_kept(self.residency.kept.len(), stream)?;
        loop {
            self.loader.loaded().wait(self.number(self.begun), stream)?;
            let next = self.begun % self.residency.streamed.len() as u64;
            self.begun += 1;
            self.held = Some(self.residency.streamed[next as usize]);
            if self.held == Some(layer) {
                return Ok(());
            }
            // The pass before ended early, so this layer was loaded in vain.
            self.release(stream)?;
        }
    }

    /// Releases the layer of the ring that the pass has waited for, if there is one: its slot may be
    /// written again after everything that is queued on `stream` by now.
    pub fn release(&mut self, stream: &Stream) -> Result<(), CudaError> {
        if self.held.take().is_some() {
            self.used.record(stream)?;
        }
        Ok(())
    }

    /// Makes `stream` wait until everything is loaded that can be loaded before the next pass. This
    /// is for measuring.
    pub fn settle(&mut self, stream: &Stream) -> Result<(), CudaError> {
        self.release(stream)?;
        self.wait_for_kept(self.residency.kept.len(), stream)?;
        for load in self.begun..self.begun + self.residency.slots as u64 {
            self.loader.loaded().wait(self.number(load), stream)?;
        }
        Ok(())
    }

    /// Makes `stream` wait for the first `count` layers that stay. The stream runs in order, so one
    /// wait for a fence covers all later work.
    fn wait_for_kept(&mut self, count: usize, stream: &Stream) -> Result<(), CudaError> {
        while self.waited < count {
            self.loader.loaded().wait(self.waited as u64, stream)?;
            self.waited += 1;
        }
        Ok(())
    }

    /// Returns the number of a load of the ring among all loads.
    fn number(&self, load: u64) -> u64 {
        self.residency.kept.len() as u64 + load
    }

    /// Returns the address of a parameter.
    pub fn address(&self, parameter: ParameterId) -> u64 {
        self.region(parameter).address()
    }

    /// Returns the memory of a parameter, whose layer the pass has waited for.
    pub fn region(&self, parameter: ParameterId) -> &Region {
        let Place { regions, layer, .. } = &self.parameters[parameter.0];
        // `wait` has refused layers without a place, so there is at least one region.
        match regions.len() {
            1 => &regions[0],
            slots => &regions[self.slot(*layer) % slots],
        }
    }

    /// Returns the slot of a streamed layer. Of a layer that is not held, which only measurements
    /// ask for, it is a slot that holds some layer of the same sizes.
    fn slot(&self, layer: usize) -> usize {
        let slots = self.residency.slots.max(1);
        match self.held == Some(layer) {
            true => ((self.begun - 1) % slots as u64) as usize,
            false => layer % slots,
        }
    }

    /// Returns whether a parameter has a place on the device.
    pub fn is_placed(&self, parameter: ParameterId) -> bool {
        !self.parameters[parameter.0].regions.is_empty()
    }

    /// Returns how many values a parameter has.
    pub fn values(&self, parameter: ParameterId) -> usize {
        self.parameters[parameter.0].values
    }

    /// Returns the bytes of each layer's parameters on the device.
    pub fn layer_bytes(&self) -> &[usize] {
        &self.layer_bytes
    }
}
