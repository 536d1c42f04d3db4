//! DNABERT-S and DNABERT-2 (Zhou et al. 2023, 2024): MosaicBERT's encoder, in its plain path.

use super::{ModelError, Parameters, Taps, Workspace};
use crate::backend::{Activation, AttentionSpec, Backend, LinearPart, Position};
use crate::batch::PackedBatch;
use crate::model::config::ModelConfig;
use crate::weights::F32Data;

pub(super) struct Dnabert<B: Backend> {
    config: ModelConfig,
    /// [vocab, hidden]
    words: B::Vector,
    /// The embedding of token type 0, [hidden].
    token_type: B::Vector,
    norm: Norm<B>,
    attention: AttentionSpec,
    layers: Vec<Layer<B>>,
}

/// A LayerNorm's gain and bias, [hidden] each.
struct Norm<B: Backend> {
    gain: B::Vector,
    bias: B::Vector,
}

struct Layer<B: Backend> {
    qkv: B::Linear,
    out: B::Linear,
    attention_norm: Norm<B>,
    /// Gate over up, [2·intermediate, hidden], no bias.
    gated: B::Linear,
    down: B::Linear,
    mlp_norm: Norm<B>,
}

impl<B: Backend> Dnabert<B> {
    pub(super) fn load(b: &B, config: &ModelConfig, p: &impl Parameters) -> Result<Self, ModelError> {
        let (d, ffn) = (config.hidden, config.intermediate);
        let linear = |name: String, inputs: usize, bias: bool| -> Result<B::Linear, ModelError> {
            let weight = p.get(&format!("{name}.weight"))?;
            let bias = if bias { Some(p.get(&format!("{name}.bias"))?) } else { None };
            Ok(b.linear_weights(vec![LinearPart { weight, bias }], inputs)?)
        };
        let norm = |name: String| -> Result<Norm<B>, ModelError> {
            let gain = b.vector(p.get(&format!("{name}.weight"))?)?;
            let bias = b.vector(p.get(&format!("{name}.bias"))?)?;
            Ok(Norm { gain, bias })
        };
        let layers = (0..config.layers)
            .map(|i| {
                let at = format!("encoder.layer.{i}");
                Ok(Layer {
                    qkv: linear(format!("{at}.attention.self.Wqkv"), d, true)?,
                    out: linear(format!("{at}.attention.output.dense"), d, true)?,
                    attention_norm: norm(format!("{at}.attention.output.LayerNorm"))?,
                    gated: linear(format!("{at}.mlp.gated_layers"), d, false)?,
                    down: linear(format!("{at}.mlp.wo"), ffn, true)?,
                    mlp_norm: norm(format!("{at}.mlp.layernorm"))?,
                })
            })
            .collect::<Result<_, ModelError>>()?;
        let types = p.get("embeddings.token_type_embeddings.weight")?;
        Ok(Self {
            words: b.vector(p.get("embeddings.word_embeddings.weight")?)?,
            token_type: b.vector(F32Data::Owned(types[..d].to_vec()))?,
            norm: norm("embeddings.LayerNorm".into())?,
            attention: AttentionSpec {
                heads: config.heads,
                head_dim: config.head_dim(),
                position: Position::Alibi(alibi_slopes(config.heads)),
            },
            layers,
            config: config.clone(),
        })
    }

    pub(super) fn forward(
        &self,
        b: &mut B,
        ws: &mut Workspace<B>,
        batch: &PackedBatch,
        taps: &mut Taps<'_>,
    ) -> Result<(), ModelError> {
        // `sum` holds what a LayerNorm is to make the stream of.
        let Workspace { x: sum, h, qkv, wide } = ws;
        let eps = self.config.layer_norm_eps as f32;
        let ones = vec![1.0; batch.total()];
        b.embed(batch.tokens(), &ones, &self.words, Some(&self.token_type), self.config.hidden, h)?;
        b.layer_norm(h, &self.norm.gain, &self.norm.bias, eps, sum)?;
        taps.take(b, 0, sum)?;
        for (i, layer) in self.layers.iter().enumerate().take(taps.last()) {
            b.linear(sum, &layer.qkv, Activation::None, qkv)?;
            b.attention(qkv, batch.starts(), &self.attention, h)?;
            b.linear_add(h, &layer.out, sum)?;
            b.layer_norm(sum, &layer.attention_norm.gain, &layer.attention_norm.bias, eps, h)?;

            b.linear_gated(h, &layer.gated, wide)?;
            b.linear_add(wide, &layer.down, h)?;
            b.layer_norm(h, &layer.mlp_norm.gain, &layer.mlp_norm.bias, eps, sum)?;
            taps.take(b, i + 1, sum)?;
        }
        Ok(())
    }
}

/// The slopes of ALiBi (Press et al. 2022): powers of 2^(-8/n) for n heads, n a power of two;
/// for other counts, those of the next lower power of two, then every second one of the next
/// higher.
fn alibi_slopes(heads: usize) -> Vec<f32> {
    let powers = |n: usize| (1..=n).map(move |i| 2f64.powf(-8.0 * i as f64 / n as f64) as f32);
    let below = if heads.is_power_of_two() { heads } else { heads.next_power_of_two() / 2 };
    powers(below).chain(powers(2 * below).step_by(2)).take(heads).collect()
}

#[cfg(test)]
mod tests {
    use super::alibi_slopes;

    #[test]
    fn twelve_heads_have_the_published_slopes() {
        let want: Vec<f64> = (1..=8).map(|i| -(i as f64)).chain([-0.5, -1.5, -2.5, -3.5]).collect();
        let got: Vec<f64> = alibi_slopes(12).iter().map(|s| (*s as f64).log2()).collect();
        assert!(got.iter().zip(&want).all(|(g, w)| (g - w).abs() < 1e-6), "{got:?}");
        assert_eq!(alibi_slopes(4), [0.25, 0.0625, 0.015625, 0.00390625]);
    }
}
