//! What a model requests from a backend, checked by a backend that computes nothing: parameters are
//! used only after they were waited for, passes keep the limits, and a pass takes exactly the requested
//! outputs.

use seqstream::architecture::{ModelConfig, ModelKind};
use seqstream::backend::{
    Activation, AttentionSpec, Backend, BackendError, Builder, Limits, LinearKind, LinearPart,
    Norm, Output, OutputKinds, Pass, Pooling, Role,
};
use seqstream::batch::PackedBatch;
use seqstream::model::{Embedder, Model, Parameters, Pool, Request};
use seqstream::weights::{F32Data, Weight, WeightsError};
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

const WIDTH: usize = 8;
const LAYERS: usize = 4;
/// The limits are low, so that the number of sequences limits a pass as often as the number of
/// tokens.
const LIMITS: Limits = Limits {
    tokens: 1024,
    sequences: 64,
    passes: 3,
};

/// An output taken in a pass: the number of layers before it, whether it went through a LayerNorm,
/// and the parts that were wanted.
type Taken = (usize, bool, OutputKinds);

/// A pass as the backend saw it.
#[derive(Debug, Clone)]
struct Seen {
    class: usize,
    lengths: Vec<usize>,
    /// The pooled range of each sequence, counted from the sequence's first token.
    pooled: Vec<Range<usize>>,
    taken: Vec<Taken>,
    /// The number of attention layers so far.
    layers: usize,
}

/// Names parameters by their layer.
#[derive(Default)]
struct Naming {
    layer: usize,
    passes: Rc<RefCell<Vec<Seen>>>,
}

impl Builder for Naming {
    type Backend = Looking;

    fn matrix(&mut self, _: Role, _: usize) -> Result<(), BackendError> {
        Ok(())
    }
    fn next_layer(&mut self) {
        self.layer += 1;
    }
    fn vector(&mut self, _: Weight) -> Result<usize, BackendError> {
        Ok(self.layer)
    }
    fn linear_weights(
        &mut self,
        _: Vec<LinearPart>,
        _: usize,
        _: LinearKind,
    ) -> Result<usize, BackendError> {
        Ok(self.layer)
    }
    fn attention_weights(&mut self, _: AttentionSpec) -> Result<usize, BackendError> {
        Ok(self.layer)
    }
    fn build(self) -> Result<Looking, BackendError> {
        Ok(Looking {
            passes: self.passes,
        })
    }
}

/// A backend that computes nothing.
struct Looking {
    passes: Rc<RefCell<Vec<Seen>>>,
}

impl Backend for Looking {
    type Matrix = ();
    type Vector = usize;
    type Linear = usize;
    type Attention = usize;
    type Pending = Output;
    type Pass<'a> = LookingPass<'a>;

    fn class(&self, tokens: usize) -> usize {
        usize::from(tokens < 16)
    }
    fn limits(&self) -> Limits {
        LIMITS
    }
    fn begin<'a>(
        &'a mut self,
        class: usize,
        batch: &'a PackedBatch,
        pooled: &'a [Range<usize>],
    ) -> Result<LookingPass<'a>, BackendError> {
        assert!(batch.total() <= LIMITS.tokens && batch.len() <= LIMITS.sequences);
        assert_eq!(pooled.len(), batch.len());
        let ranges = || (0..batch.len()).map(|i| batch.range(i));
        assert!(ranges().all(|r| self.class(r.len()) == class));
        let of_own = |(r, p): (Range<usize>, &Range<usize>)| p.start - r.start..p.end - r.start;
        let seen = Seen {
            class,
            lengths: ranges().map(|r| r.len()).collect(),
            pooled: ranges().zip(pooled).map(of_own).collect(),
            taken: Vec::new(),
            layers: 0,
        };
        Ok(LookingPass {
            // Nothing is kept from the previous pass: if weights do not stay on a device, they
            // would be gone.
            waited: Vec::new(),
            unused: None,
            seen,
            passes: &self.passes,
        })
    }
    fn fetch(&mut self, pending: Output) -> Result<Output, BackendError> {
        Ok(pending)
    }
}

struct LookingPass<'a> {
    /// The layers that the pass has waited for so far, and the latest one of them until it is used.
    waited: Vec<usize>,
    unused: Option<usize>,
    seen: Seen,
    passes: &'a RefCell<Vec<Seen>>,
}

impl LookingPass<'_> {
    #[track_caller]
    fn uses(&mut self, layers: &[usize]) {
        for layer in layers {
            let there = self.waited.contains(layer);
            assert!(
                there,
                "layer {layer} is used, waited for were {:?}",
                self.waited
            );
            if self.unused == Some(*layer) {
                self.unused = None;
            }
        }
    }
}

impl Pass<Looking> for LookingPass<'_> {
    fn wait_for_weights(&mut self, layer: usize) -> Result<(), BackendError> {
        // A layer must not be waited for while another one is unused, because the wait would come
        // too early.
        assert_eq!(self.unused, None, "layer {layer} is waited for too early");
        self.unused = Some(layer);
        self.waited.push(layer);
        Ok(())
    }

    fn embed(
        &mut self,
        scale: &[f64],
        table: &usize,
        shift: Option<&usize>,
        (): &mut (),
    ) -> Result<(), BackendError> {
        assert_eq!(scale.len(), self.seen.lengths.iter().sum::<usize>());
        self.uses(&[*table]);
        self.uses(shift.map_or(&[], std::slice::from_ref));
        Ok(())
    }
    fn layer_norm(&mut self, (): &(), norm: &Norm<usize>, (): &mut ()) -> Result<(), BackendError> {
        self.uses(&[norm.gain, norm.bias]);
        Ok(())
    }
    fn linear(
        &mut self,
        (): &(),
        w: &usize,
        _: Activation,
        (): &mut (),
    ) -> Result<(), BackendError> {
        self.uses(&[*w]);
        Ok(())
    }
    fn linear_add(&mut self, (): &(), w: &usize, (): &mut ()) -> Result<(), BackendError> {
        self.uses(&[*w]);
        Ok(())
    }
    fn linear_gated(&mut self, (): &(), w: &usize, (): &mut ()) -> Result<(), BackendError> {
        self.uses(&[*w]);
        Ok(())
    }
    fn attention(&mut self, (): &(), attention: &usize, (): &mut ()) -> Result<(), BackendError> {
        self.uses(&[*attention]);
        self.seen.layers += 1;
        Ok(())
    }
    fn represent(
        &mut self,
        (): &(),
        norm: Option<&Norm<usize>>,
        wanted: OutputKinds,
    ) -> Result<Output, BackendError> {
        if let Some(norm) = norm {
            self.uses(&[norm.gain, norm.bias]);
        }
        let taken = (self.seen.layers, norm.is_some(), wanted);
        self.seen.taken.push(taken);
        let values = |wanted: bool, rows: usize| vec![0.5; if wanted { rows * WIDTH } else { 0 }];
        Ok(Output {
            pooled: values(wanted.pooled.is_some(), self.seen.lengths.len()),
            states: values(wanted.states, self.seen.lengths.iter().sum()).into(),
        })
    }
    fn end(self) -> Result<(), BackendError> {
        assert_eq!(self.unused, None, "waited for, and not used");
        self.passes.borrow_mut().push(self.seen);
        Ok(())
    }
}

/// Parameters of any name, too short to compute with.
struct Anything;

impl Parameters for Anything {
    fn get(&self, _: &str) -> Result<Weight, WeightsError> {
        Ok(Weight::F32(F32Data::Owned(vec![1.0; 2 * WIDTH])))
    }
    fn find(&self, _: &str) -> Option<Weight> {
        None
    }
}

/// Returns the passes that the model runs on the backend for sequences of these lengths.
fn passes(kind: ModelKind, lengths: &[usize], request: &Request) -> Vec<Seen> {
    let config = match kind {
        ModelKind::Esm2 => ModelConfig::esm2(LAYERS, WIDTH, 2),
        ModelKind::Dnabert => ModelConfig::dnabert(LAYERS, WIDTH, 2),
    };
    let builder = Naming::default();
    let passes = Rc::clone(&builder.passes);
    let mut model = Model::load(builder, &config, &Anything).unwrap();
    let mut batch = PackedBatch::new();
    lengths.iter().for_each(|n| batch.push(&vec![5; *n]));
    let outputs = model.embed(&batch, request).unwrap();
    let layers = outputs.iter().map(|o| o.layer);
    assert!(layers.eq(request.layers.iter().copied()));
    // Some pass wrote each value: no value is left as it was before.
    for output in &outputs {
        let pooled = lengths.len() * request.pools.len();
        let states = batch.total() * usize::from(request.per_token);
        assert_eq!(output.pooled, vec![0.5; pooled * WIDTH]);
        assert_eq!(output.states, vec![0.5; states * WIDTH].into());
    }
    passes.take()
}

const KINDS: [ModelKind; 2] = [ModelKind::Esm2, ModelKind::Dnabert];

fn request(layers: &[usize], pools: &[Pool], per_token: bool) -> Request {
    Request {
        layers: layers.to_vec(),
        pools: pools.to_vec(),
        per_token,
    }
}

/// Each operation's parameters belong to a layer that the pass has waited for, and each layer is
/// waited for at its turn and not before, whichever layers are requested. ESM-2's final LayerNorm belongs only
/// to the last layer, not to the deepest requested layer.
#[test]
fn parameters_are_waited_for_before_their_use_and_the_last_norm_is_the_last_layers() {
    for kind in KINDS {
        for layers in (1..1u32 << (LAYERS + 1)).map(|some| {
            let wanted = (0..=LAYERS).filter(|layer| some >> layer & 1 == 1);
            wanted.collect::<Vec<_>>()
        }) {
            let passes = passes(kind, &[20, 30], &request(&layers, &[Pool::Mean], true));
            let [pass] = &passes[..] else {
                panic!("{} passes", passes.len())
            };
            let wanted = OutputKinds {
                pooled: Some(Pooling::Mean),
                states: true,
            };
            let normed = |layer: usize| kind == ModelKind::Esm2 && layer == LAYERS;
            let expected = layers.iter().map(|l| (*l, normed(*l), wanted));
            assert_eq!(
                pass.taken,
                expected.collect::<Vec<_>>(),
                "{kind:?} {layers:?}"
            );
            assert_eq!(pass.layers, layers[layers.len() - 1], "layers after it run");
        }
    }
}

/// Each pooling of a layer is taken by itself, and the states are taken once.
#[test]
fn what_is_pooled_is_the_first_token_or_the_tokens_of_the_mean() {
    let all = [Pool::Max, Pool::Mean, Pool::Cls];
    for kind in KINDS {
        for (pools, per_token) in [
            (&[Pool::Cls][..], true),
            (&[Pool::Cls], false),
            (&[Pool::Mean], false),
            (&[], true),
            (&all, true),
            (&all[..2], false),
        ] {
            let passes = passes(kind, &[20, 3, 70], &request(&[LAYERS], pools, per_token));
            for pass in &passes {
                for (pooled, length) in pass.pooled.iter().zip(&pass.lengths) {
                    let expected = match kind {
                        ModelKind::Esm2 => 1..length - 1,
                        ModelKind::Dnabert => 0..*length,
                    };
                    assert_eq!(*pooled, expected, "{kind:?} {pools:?}");
                }
                let kinds = |at: usize| OutputKinds {
                    pooled: pools.get(at).map(|pool| match pool {
                        Pool::Mean => Pooling::Mean,
                        Pool::Cls => Pooling::First,
                        Pool::Max => Pooling::Max,
                    }),
                    states: per_token && at == 0,
                };
                let wanted = (0..pools.len().max(1)).map(kinds);
                assert!(pass.taken.iter().map(|(_, _, w)| *w).eq(wanted));
            }
        }
    }
}

/// A pass has at most the allowed number of sequences and tokens, only sequences of one class, and
/// is as full as these limits allow.
#[test]
fn passes_are_as_full_as_the_limits_allow() {
    let full = |passes: &[Seen]| -> Vec<(usize, usize)> {
        let one = |p: &Seen| (p.lengths.len(), p.lengths.iter().sum());
        passes.iter().map(one).collect()
    };
    for kind in KINDS {
        let request = request(&[1, LAYERS], &[Pool::Mean], true);
        let of = |lengths: &[usize]| passes(kind, lengths, &request);
        assert_eq!(full(&of(&[5; 100])), [(64, 320), (36, 180)]);
        assert_eq!(full(&of(&[5; 128])), [(64, 320), (64, 320)]);
        assert_eq!(full(&of(&[16; 64])), [(64, 1024)]);
        assert_eq!(full(&of(&[16; 65])), [(64, 1024), (1, 16)]);
        assert_eq!(full(&of(&[1024])), [(1, 1024)]);
        assert_eq!(full(&of(&[1000, 24, 1])), [(2, 1024), (1, 1)]);
        assert_eq!(full(&of(&[1000, 25, 999])), [(1, 1000), (2, 1024)]);
        // There are two classes, and each is divided separately.
        let mixed: Vec<usize> = (0..140).map(|i| if i % 2 == 0 { 3 } else { 17 }).collect();
        let passes = of(&mixed);
        let classes: Vec<usize> = passes.iter().map(|p| p.class).collect();
        assert_eq!(classes, [1, 1, 0, 0]);
        assert_eq!(full(&passes), [(64, 192), (6, 18), (60, 1020), (10, 170)]);
    }
}
