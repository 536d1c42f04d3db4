//! Embeds text with a model and its tokenizer: the main entry point of the library.

use std::path::Path;
use std::sync::Arc;

use super::{
    Device, Engine, EngineError, HostMemory, Job, alphabet, fits, host_memory, load, tokenizer,
};
use crate::backend::cuda::WeightMode;
use crate::batch::PackedBatch;
use crate::gpu::cublaslt::Algorithms;
use crate::hub::{self, Hub};
use crate::model::{LayerOutput, Request};
use crate::sequence::{Alphabet, CleanCounts, Cleaning, Record, Tokenizer, clean};
use crate::trace::Trace;
use crate::weights::Checkpoint;

/// A model on its devices, with its alphabet and tokenizer.
pub struct Session {
    engine: Engine,
    tokenizer: Tokenizer,
    alphabet: Alphabet,
    request: Request,
    width: usize,
    memory: Option<HostMemory>,
    warnings: Vec<String>,
}

/// The representations of one sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    /// One entry per requested layer, in the order of the request. `pooled` is `[pools, width]` and
    /// `states` is `[tokens, width]`, as f32, special tokens included; each is empty unless the
    /// request asks for it.
    pub layers: Vec<LayerOutput>,
    /// What cleaning changed in the text or counted as unknown.
    pub cleaned: CleanCounts,
}

impl Session {
    /// Opens a model and puts it on `device`. `path` is a folder or a weight file, or else the name
    /// of a model, such as `facebook/esm2_t6_8M_UR50D` or `esm2_8m`, with `@REVISION` or without: it
    /// is looked for in the cache of the Hugging Face Hub and downloaded if it is not there, as the
    /// environment allows (see [`crate::hub`]). `request` says which layers and poolings each
    /// sequence gets.
    ///
    /// # Errors
    /// [`EngineError`] if the model cannot be found or downloaded, if the weights, the tokenizer or the device cannot be used, or if the
    /// request names a layer that the model does not have, or names a layer twice.
    pub fn open(path: &Path, device: &Device, request: Request) -> Result<Self, EngineError> {
        let path = &hub::find(path, &Hub::from_environment(), &mut ())?.path;
        let checkpoint = Checkpoint::open(path)?;
        let config = checkpoint.config();
        if let Some(layer) = request.layers.iter().find(|l| **l > config.layers) {
            return Err(EngineError::NoLayer {
                layer: *layer,
                layers: config.layers,
            });
        }
        let repeated = |(i, layer): &(usize, &usize)| request.layers[..*i].contains(layer);
        if let Some((_, layer)) = request.layers.iter().enumerate().find(repeated) {
            return Err(EngineError::RepeatedLayer { layer: *layer });
        }
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let memory = host_memory(device, &checkpoint, &request, threads)?;
        let algorithms = Arc::new(Algorithms::new(Algorithms::default_cache()));
        let job = Job {
            memory,
            algorithms: Arc::clone(&algorithms),
            request: request.clone(),
            half_states: false,
            token_budget: None,
            threads,
            longest: None,
            weights: WeightMode::Auto,
            loading: Default::default(),
            trace: Trace::off(),
        };
        Ok(Self {
            tokenizer: tokenizer(path, &checkpoint)?,
            alphabet: alphabet(config.kind),
            width: config.hidden,
            engine: load(device, &checkpoint, &job)?,
            warnings: [checkpoint.warnings().to_vec(), algorithms.take_warnings()].concat(),
            request,
            memory,
        })
    }

    /// The model's width: the length of a pooled row, and of a token's state.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Messages for the user about problems that do not stop the work: a checkpoint without its
    /// rotary frequencies, or a cache of GEMM algorithms that cannot be written.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Embeds sequences and returns one [`Embedding`] per sequence, in their order. Text is cleaned
    /// as `seqstream embed` cleans it, and [`Embedding::cleaned`] says what was changed.
    ///
    /// # Errors
    /// [`EngineError`] if a sequence is empty or cannot be read as text, if a sequence does not fit
    /// the device, if a value is not finite (f16 overflows past 65504), or if the device failed.
    pub fn embed<S: AsRef<[u8]>>(
        &mut self,
        sequences: impl IntoIterator<Item = S>,
    ) -> Result<Vec<Embedding>, EngineError> {
        let mut embeddings: Vec<Embedding> = Vec::new();
        let mut batch = PackedBatch::new();
        let mut ids = Vec::new();
        let budget = self.engine.embedder.budget().tokens;
        for (i, sequence) in sequences.into_iter().enumerate() {
            let mut record = Record::new("", sequence.as_ref());
            // Errors name the place of a record by its source.
            record.source = format!("sequence {}", i + 1).into();
            let cleaned = clean(self.alphabet, Cleaning::On, false, &mut record)?;
            ids.clear();
            self.tokenizer.encode(&record.sequence, &mut ids);
            if let Some(memory) = &self.memory {
                fits(memory, ids.len())?;
            }
            if !batch.is_empty() && batch.total() + ids.len() > budget {
                self.run(&mut batch, &mut embeddings)?;
            }
            batch.push(&ids);
            embeddings.push(Embedding {
                layers: Vec::new(),
                cleaned,
            });
        }
        if !batch.is_empty() {
            self.run(&mut batch, &mut embeddings)?;
        }
        Ok(embeddings)
    }

    /// Computes the batch, whose sequences are the last ones of `embeddings`, and empties it.
    fn run(
        &mut self,
        batch: &mut PackedBatch,
        embeddings: &mut [Embedding],
    ) -> Result<(), EngineError> {
        let outputs = self.engine.embedder.embed(batch, &self.request)?;
        let first = embeddings.len() - batch.len();
        let width = self.width;
        let part = |values: &[f32], from: usize, to: usize| match values.is_empty() {
            true => Vec::new(),
            false => values[from * width..to * width].to_vec(),
        };
        let pools = self.request.pools.len();
        for (i, embedding) in embeddings[first..].iter_mut().enumerate() {
            let tokens = batch.range(i);
            let layers = outputs.iter().map(|output| LayerOutput {
                layer: output.layer,
                pooled: part(&output.pooled, i * pools, (i + 1) * pools),
                states: part(output.states.f32s(), tokens.start, tokens.end).into(),
            });
            embedding.layers = layers.collect();
            let finite = |o: &LayerOutput| {
                o.pooled
                    .iter()
                    .chain(o.states.f32s())
                    .all(|v| v.is_finite())
            };
            if let Some(bad) = embedding.layers.iter().find(|o| !finite(o)) {
                return Err(EngineError::NonFinite {
                    sequence: first + i + 1,
                    layer: bad.layer,
                });
            }
        }
        *batch = PackedBatch::new();
        Ok(())
    }
}
