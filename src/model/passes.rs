//! Runs a loaded model: divides batches into passes on its backend.
//!
//! A batch is one pass, unless its sequences are of several classes ([`Backend::class`]) or it is
//! larger than what the backend holds at once ([`Backend::limits`]). Passes begin when batches are
//! submitted, and are fetched when batches are collected, so that several passes can be in
//! progress.

use super::{Collector, Embedder, LayerOutput, ModelError, Parameters, Request, Workspace};
use super::{dnabert, esm2};
use crate::architecture::{ModelConfig, ModelKind};
use crate::backend::{Backend, Builder, Limits, Pass};
use crate::batch::{Budget, PackedBatch};
use crate::dtype::States;
use std::collections::VecDeque;

/// A loaded model on a backend.
pub struct Model<B: Backend> {
    config: ModelConfig,
    backend: B,
    net: Net<B>,
    workspace: Workspace<B>,
    /// The batches that are submitted and not yet collected, oldest first.
    batches: VecDeque<SubmittedBatch>,
    /// The passes that are begun and not yet fetched, oldest first.
    passes: VecDeque<BegunPass<B>>,
}

enum Net<B: Backend> {
    Esm2(esm2::Esm2<B>),
    Dnabert(dnabert::Dnabert<B>),
}

struct SubmittedBatch {
    /// Where each sequence of the whole batch starts, and at the end the number of tokens.
    starts: Vec<usize>,
    /// One output per requested layer, in the order of the request; filled in as passes are
    /// fetched.
    outputs: Vec<LayerOutput>,
    /// The number of representations per layer.
    pools: usize,
    /// The number of passes that are not yet fetched.
    remaining: usize,
}

/// One pass: some sequences of one batch. The oldest pass belongs to the oldest batch that has
/// passes to be fetched.
struct BegunPass<B: Backend> {
    /// The numbers of these sequences in the batch, ascending.
    members: Vec<usize>,
    /// The layer, the position among the pools, and the representation.
    taken: Vec<(usize, usize, B::Pending)>,
}

/// Names the matrices and parameters of a model to a builder, for a plan: no backend is built.
///
/// # Errors
/// [`ModelError`] if parameters are missing, or if the device fails.
pub fn name_parts<B: Backend>(
    builder: &mut impl Builder<Backend = B>,
    config: &ModelConfig,
    parameters: &impl Parameters,
) -> Result<(), ModelError> {
    parts(builder, config, parameters).map(|_| ())
}

fn parts<B: Backend>(
    b: &mut impl Builder<Backend = B>,
    config: &ModelConfig,
    parameters: &impl Parameters,
) -> Result<(Workspace<B>, Net<B>), ModelError> {
    Ok(match config.kind {
        ModelKind::Esm2 => (
            esm2::Esm2::workspace(b, config)?,
            Net::Esm2(esm2::Esm2::load(b, config, parameters)?),
        ),
        ModelKind::Dnabert => (
            dnabert::Dnabert::workspace(b, config)?,
            Net::Dnabert(dnabert::Dnabert::load(b, config, parameters)?),
        ),
    })
}

impl<B: Backend> Model<B> {
    /// Loads a model: names its parameters to the builder, and builds the backend.
    ///
    /// # Errors
    /// [`ModelError`] if parameters are missing, or if the backend fails.
    pub fn load(
        mut builder: impl Builder<Backend = B>,
        config: &ModelConfig,
        parameters: &impl Parameters,
    ) -> Result<Self, ModelError> {
        let (workspace, net) = parts(&mut builder, config, parameters)?;
        Ok(Self {
            config: config.clone(),
            backend: builder.build()?,
            net,
            workspace,
            batches: VecDeque::new(),
            passes: VecDeque::new(),
        })
    }

    /// The backend that the model runs on.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// The limits of a pass on the backend.
    pub fn limits(&self) -> Limits {
        self.backend.limits()
    }

    /// The backend that the model runs on, for measuring it.
    pub fn backend_mut(&mut self) -> &mut B {
        &mut self.backend
    }

    /// Divides a batch into passes: the sequences of a pass are of one class and within the
    /// backend's limits. Returns the class of each pass and the numbers of its sequences.
    fn divide(&self, batch: &PackedBatch) -> Result<Vec<(usize, Vec<usize>)>, ModelError> {
        let limits = self.backend.limits();
        let mut classes: Vec<(usize, Vec<usize>)> = Vec::new();
        for i in 0..batch.len() {
            let tokens = batch.range(i).len();
            if tokens > limits.tokens {
                return Err(ModelError::TooLong {
                    tokens,
                    most: limits.tokens,
                });
            }
            let class = self.backend.class(tokens);
            match classes.iter_mut().find(|(c, _)| *c == class) {
                Some((_, members)) => members.push(i),
                None => classes.push((class, vec![i])),
            }
        }
        let mut passes = Vec::new();
        for (class, members) in classes {
            let (mut pass, mut tokens) = (Vec::new(), 0);
            for i in members {
                let more = batch.range(i).len();
                let full = tokens + more > limits.tokens || pass.len() == limits.sequences;
                if full && !pass.is_empty() {
                    passes.push((class, std::mem::take(&mut pass)));
                    tokens = 0;
                }
                tokens += more;
                pass.push(i);
            }
            passes.push((class, pass));
        }
        Ok(passes)
    }

    /// Begins one pass over `batch`, which holds the sequences `members` of the submitted batch.
    /// Older passes are fetched first if the backend holds no more.
    fn pass(
        &mut self,
        class: usize,
        members: Vec<usize>,
        batch: &PackedBatch,
        request: &Request,
    ) -> Result<(), ModelError> {
        while self.passes.len() >= self.backend.limits().passes.max(1) {
            self.fetch()?;
        }
        let kind = self.config.kind;
        let pooled: Vec<_> = (0..batch.len())
            .map(|i| kind.pooled_tokens(batch.range(i)))
            .collect();
        let mut collector = Collector::new(request);
        let mut pass = self.backend.begin(class, batch, &pooled)?;
        let ws = &mut self.workspace;
        match &self.net {
            Net::Esm2(net) => net.forward(&mut pass, ws, batch, &mut collector)?,
            Net::Dnabert(net) => net.forward(&mut pass, ws, batch, &mut collector)?,
        }
        pass.end()?;
        let taken = collector.taken;
        self.passes.push_back(BegunPass { members, taken });
        Ok(())
    }

    /// Waits for the oldest pass, and puts its results into the outputs of its batch.
    fn fetch(&mut self) -> Result<(), ModelError> {
        let Some(BegunPass { members, taken }) = self.passes.pop_front() else {
            return Ok(());
        };
        let Some(batch) = self.batches.iter_mut().find(|b| b.remaining > 0) else {
            return Ok(());
        };
        batch.remaining -= 1;
        let d = self.config.hidden;
        let whole = members.len() + 1 == batch.starts.len();
        for (layer, at, pending) in taken {
            let made = self.backend.fetch(pending)?;
            let Some(to) = batch.outputs.iter_mut().find(|o| o.layer == layer) else {
                continue;
            };
            let pools = batch.pools;
            if whole && pools == 1 {
                (to.pooled, to.states) = (made.pooled, made.states);
                continue;
            }
            let sequences = batch.starts.len() - 1;
            if !made.pooled.is_empty() {
                to.pooled.resize(sequences * pools * d, 0.0);
            }
            let mut row = 0;
            for (from, &i) in members.iter().enumerate() {
                if !made.pooled.is_empty() {
                    let row = i * pools + at;
                    to.pooled[row * d..(row + 1) * d]
                        .copy_from_slice(&made.pooled[from * d..(from + 1) * d]);
                }
                let range = batch.starts[i]..batch.starts[i + 1];
                let rows = row..row + range.len();
                if !made.states.is_empty() {
                    let all = batch.starts[sequences] * d;
                    let from = rows.start * d..rows.end * d;
                    to.states.put(all, range.start * d, &made.states, from);
                }
                row = rows.end;
            }
        }
        Ok(())
    }
}

impl<B: Backend> Embedder for Model<B> {
    fn submit(&mut self, batch: &PackedBatch, request: &Request) -> Result<(), ModelError> {
        let vocab = self.config.vocab;
        if let Some(&token) = batch.tokens().iter().find(|t| **t as usize >= vocab) {
            return Err(ModelError::Token { token, vocab });
        }
        let passes = self.divide(batch)?;
        let outputs = request.layers.iter().map(|&layer| LayerOutput {
            layer,
            pooled: Vec::new(),
            states: States::default(),
        });
        self.batches.push_back(SubmittedBatch {
            starts: batch.starts().to_vec(),
            outputs: outputs.collect(),
            pools: request.pools.len().max(1),
            remaining: passes.len(),
        });
        if let [(class, members)] = &passes[..] {
            return self.pass(*class, members.clone(), batch, request);
        }
        for (class, members) in passes {
            let mut part = PackedBatch::new();
            for &i in &members {
                part.push(&batch.tokens()[batch.range(i)]);
            }
            self.pass(class, members, &part, request)?;
        }
        Ok(())
    }

    fn collect(&mut self) -> Result<Option<Vec<LayerOutput>>, ModelError> {
        while self.batches.front().is_some_and(|b| b.remaining > 0) {
            self.fetch()?;
        }
        Ok(self.batches.pop_front().map(|b| b.outputs))
    }

    fn free_slots(&self) -> usize {
        let most = self.backend.limits().passes.max(1);
        most.saturating_sub(self.passes.len())
    }

    fn budget(&self) -> Budget {
        self.backend.budget()
    }

    fn config(&self) -> &ModelConfig {
        &self.config
    }
}
