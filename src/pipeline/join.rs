//! Joins the rows that both models give for a fragment, in the writer thread of a job of
//! `seqstream virnucpro`.

use std::collections::VecDeque;
use std::sync::Arc;

use super::JobError;
use super::messages::Batch;
use crate::model::LayerOutput;
use crate::output::{Features, PushError, Row, ShardWriter, Vectors, Workers};

/// Gives the scores (others, virus) of the rows of fragments, which lie one after the other. It is
/// called in a pool of threads, which it may use.
pub type Score = Arc<dyn Fn(&[f32]) -> Vec<[f32; 2]> + Send + Sync>;

/// What becomes of the joined rows.
#[derive(Clone)]
pub struct JoinOptions {
    /// Which models describe a fragment.
    pub features: Features,
    /// Which vectors are kept.
    pub vectors: Vectors,
    /// The classifier, if there is one.
    pub score: Option<Score>,
}

/// What the writer thread joins.
pub(crate) struct Join<'a> {
    pub options: &'a JoinOptions,
    /// The width and the layer of each model.
    pub lanes: Vec<(usize, usize)>,
    /// The number of threads that score rows.
    pub threads: usize,
}

/// Keeps the rows of each model until the other model has computed the same fragments. A shard
/// ends in all lanes before the next one begins, so that the rows of one shard at most are kept.
pub(crate) struct Joiner<'a> {
    options: &'a JoinOptions,
    lanes: Vec<LaneRows>,
    /// The threads that score rows, if there is a classifier.
    scoring: Option<rayon::ThreadPool>,
    /// Whether the models compute in f16.
    f16: bool,
    /// The number of rows of the shard that were written.
    written: u64,
}

/// The rows of a model that wait for those of the other one.
struct LaneRows {
    width: usize,
    layer: usize,
    rows: VecDeque<LaneRow>,
}

struct LaneRow {
    id: String,
    /// The number of the chunk over the job, from 1.
    number: u64,
    values: Vec<f32>,
}

/// Fragments with their whole rows.
#[derive(Default)]
struct JoinedRows {
    ids: Vec<String>,
    /// The rows, one after the other.
    values: Vec<f32>,
}

impl<'a> Joiner<'a> {
    /// Begins without rows. `f16` says whether the models compute in f16.
    pub(crate) fn new(join: &Join<'a>, f16: bool) -> Result<Self, JobError> {
        let options = join.options;
        let lane = |&(width, layer): &(usize, usize)| LaneRows {
            width,
            layer,
            rows: VecDeque::new(),
        };
        let scoring = match &options.score {
            Some(_) => {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(join.threads.max(1));
                let pool = pool.thread_name(|i| format!("scores {i}")).build();
                Some(pool.map_err(|e| JobError::NoThread(e.to_string()))?)
            }
            None => None,
        };
        Ok(Self {
            options,
            lanes: join.lanes.iter().map(lane).collect(),
            scoring,
            f16,
            written: 0,
        })
    }

    /// Takes the rows of a batch, and writes the rows that are whole.
    pub(crate) fn push(
        &mut self,
        batch: Batch,
        outputs: &[LayerOutput],
        shard: &mut ShardWriter<'_>,
        workers: &Workers,
    ) -> Result<(), JobError> {
        self.take(batch, outputs)?;
        let joined = self.joined()?;
        let scores = match (&self.options.score, &self.scoring) {
            (Some(score), Some(pool)) => pool.install(|| score(&joined.values)),
            _ => Vec::new(),
        };
        if self.options.score.is_some() && scores.len() != joined.ids.len() {
            return Err(internal("the classifier gave too few scores".into()));
        }
        let first = self.lanes.first().map_or(0, |lane| lane.width);
        let width = self.lanes.iter().map(|lane| lane.width).sum::<usize>();
        let values = joined.values.chunks_exact(width.max(1));
        let mut scores = scores.iter();
        let rows: Vec<Row<'_>> = joined
            .ids
            .iter()
            .zip(values)
            .map(|(id, values)| {
                let mut pooled: Vec<&[f32]> = Vec::new();
                pooled.extend(scores.next().map(|scores| scores.as_slice()));
                match (self.options.vectors, self.options.features) {
                    (Vectors::None, _) => {}
                    (Vectors::All, Features::Both) => {
                        let (dna, protein) = values.split_at(first.min(values.len()));
                        pooled.extend([dna, protein]);
                    }
                    (Vectors::Merged | Vectors::All, _) => pooled.push(values),
                }
                Row {
                    id,
                    pooled,
                    tokens: 0..0,
                }
            })
            .collect();
        self.written += rows.len() as u64;
        match shard.push(&rows, &[], workers) {
            Ok(()) => Ok(()),
            Err(PushError::Output(error)) => Err(error.into()),
            // All vectors are finite, and so are the scores of a classifier with finite weights.
            Err(PushError::Row(i)) => {
                Err(internal(format!("a score of {} is no number", rows[i].id)))
            }
        }
    }

    /// Ends a shard of `rows` rows, all of which must be written.
    pub(crate) fn end(&mut self, rows: u64) -> Result<(), JobError> {
        let waiting: usize = self.lanes.iter().map(|lane| lane.rows.len()).sum();
        let written = std::mem::take(&mut self.written);
        match waiting == 0 && written == rows {
            true => Ok(()),
            false => Err(internal(format!(
                "{written} of {rows} rows of a shard were joined, and {waiting} are left"
            ))),
        }
    }

    /// Adds the rows of a batch to its lane.
    fn take(&mut self, batch: Batch, outputs: &[LayerOutput]) -> Result<(), JobError> {
        let wrong = || internal("the model's output has the wrong shape".into());
        let lane = self.lanes.get_mut(batch.lane).ok_or_else(wrong)?;
        let [output] = outputs else {
            return Err(wrong());
        };
        let right = output.pooled.len() == batch.packed.len() * lane.width
            && batch.ids.len() == batch.packed.len()
            && output.layer == lane.layer
            && lane.width > 0;
        if !right {
            return Err(wrong());
        }
        let names = batch.ids.into_iter().zip(batch.numbers);
        for ((id, number), values) in names.zip(output.pooled.chunks_exact(lane.width)) {
            if let Some(dimension) = values.iter().position(|v| !v.is_finite()) {
                return Err(JobError::NonFinite {
                    id,
                    record: number,
                    layer: lane.layer,
                    dimension,
                    value: values[dimension],
                    f16: self.f16,
                });
            }
            let values = values.to_vec();
            lane.rows.push_back(LaneRow { id, number, values });
        }
        Ok(())
    }

    /// Returns the fragments that all models have computed.
    fn joined(&mut self) -> Result<JoinedRows, JobError> {
        let ready = self.lanes.iter().map(|lane| lane.rows.len()).min();
        let mut joined = JoinedRows::default();
        for _ in 0..ready.unwrap_or(0) {
            let mut parts = self.lanes.iter_mut().filter_map(|l| l.rows.pop_front());
            let Some(first) = parts.next() else { break };
            joined.values.extend_from_slice(&first.values);
            for other in parts {
                if (&other.id, other.number) != (&first.id, first.number) {
                    let (a, b) = (&first.id, &other.id);
                    return Err(internal(format!("rows of {a} and {b} were to be joined")));
                }
                joined.values.extend_from_slice(&other.values);
            }
            joined.ids.push(first.id);
        }
        Ok(joined)
    }
}

fn internal(what: String) -> JobError {
    JobError::Internal(what)
}
