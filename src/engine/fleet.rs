//! Several devices as one: batches are dealt by what they cost, and collected in order.

use crate::architecture::ModelConfig;
use crate::batch::PackedBatch;
use crate::model::{Embedder, LayerOutput, ModelError, Request};
use std::collections::VecDeque;

/// The same model on several devices. A batch goes to the device that was dealt the least so far: what it has to do at the
/// moment says less, since results are collected in order, so that some of that is done and waits.
pub struct Fleet<E> {
    members: Vec<Member<E>>,
    /// Which member has each batch that is submitted and not collected, oldest first.
    order: VecDeque<usize>,
}

struct Member<E> {
    embedder: E,
    /// The cost of all its batches so far.
    dealt: u64,
}

impl<E: Embedder> Fleet<E> {
    /// Of devices that hold the same model; `None` of none.
    pub fn new(embedders: Vec<E>) -> Option<Self> {
        if embedders.is_empty() {
            return None;
        }
        let members = embedders
            .into_iter()
            .map(|embedder| Member { embedder, dealt: 0 });
        Some(Self {
            members: members.collect(),
            order: VecDeque::new(),
        })
    }

    /// The devices.
    pub fn members(&self) -> impl Iterator<Item = &E> {
        self.members.iter().map(|m| &m.embedder)
    }
}

/// What a batch costs, in units of one token's linear layers over 6·hidden: those take 24·hidden²
/// FLOP a layer and token, attention 4·hidden·length.
fn cost(batch: &PackedBatch, hidden: usize) -> u64 {
    let one = |length: usize| (length * (6 * hidden + length)) as u64;
    (0..batch.len()).map(|i| one(batch.range(i).len())).sum()
}

impl<E: Embedder> Embedder for Fleet<E> {
    fn submit(&mut self, batch: &PackedBatch, request: &Request) -> Result<(), ModelError> {
        let cost = cost(batch, self.config().hidden);
        // One without room is taken only where none has any: it would wait.
        let free = |m: &Member<E>| (m.embedder.free_slots() == 0, m.dealt);
        let chosen = (0..self.members.len()).min_by_key(|i| free(&self.members[*i]));
        let chosen = chosen.unwrap_or(0);
        let member = &mut self.members[chosen];
        member.embedder.submit(batch, request)?;
        member.dealt += cost;
        self.order.push_back(chosen);
        Ok(())
    }

    fn collect(&mut self) -> Result<Option<Vec<LayerOutput>>, ModelError> {
        let Some(from) = self.order.pop_front() else {
            return Ok(None);
        };
        self.members[from].embedder.collect()
    }

    /// One less than there is on several devices: were all full, the next batch would go where the oldest was collected,
    /// whatever it costs.
    fn free_slots(&self) -> usize {
        let all: usize = self.members.iter().map(|m| m.embedder.free_slots()).sum();
        all.saturating_sub(usize::from(self.members.len() > 1))
    }

    fn config(&self) -> &ModelConfig {
        self.members[0].embedder.config()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives back the first token of each batch, and holds at most two.
    struct Echo {
        config: ModelConfig,
        held: VecDeque<f32>,
        tokens: usize,
    }

    impl Embedder for Echo {
        fn submit(&mut self, batch: &PackedBatch, _: &Request) -> Result<(), ModelError> {
            assert!(self.held.len() < 2, "there was no room");
            self.held.push_back(batch.tokens()[0] as f32);
            self.tokens += batch.total();
            Ok(())
        }
        fn collect(&mut self) -> Result<Option<Vec<LayerOutput>>, ModelError> {
            Ok(self.held.pop_front().map(|first| {
                vec![LayerOutput {
                    layer: 0,
                    pooled: vec![first],
                    states: vec![],
                }]
            }))
        }
        fn free_slots(&self) -> usize {
            2 - self.held.len()
        }
        fn config(&self) -> &ModelConfig {
            &self.config
        }
    }

    #[test]
    fn batches_come_back_in_order_and_the_work_is_even() {
        let echo = || Echo {
            config: ModelConfig::esm2(1, 32, 4),
            held: VecDeque::new(),
            tokens: 0,
        };
        let mut fleet = Fleet::new(vec![echo(), echo(), echo()]).unwrap();
        let request = Request {
            layers: vec![0],
            pool: None,
            per_token: false,
        };
        assert_eq!(fleet.free_slots(), 5);
        let mut back = Vec::new();
        for i in 0..60u32 {
            if fleet.free_slots() == 0 {
                back.push(fleet.collect().unwrap().unwrap()[0].pooled[0]);
            }
            let mut batch = PackedBatch::new();
            // One in three is much longer: dealt one by one, a device would have all of those.
            batch.push(&vec![i; if i % 3 == 0 { 80 } else { 20 }]);
            fleet.submit(&batch, &request).unwrap();
        }
        while let Some(output) = fleet.collect().unwrap() {
            back.push(output[0].pooled[0]);
        }
        assert_eq!(back, (0..60).map(|i| i as f32).collect::<Vec<_>>());
        let tokens: Vec<usize> = fleet.members().map(|e| e.tokens).collect();
        assert_eq!(tokens.iter().sum::<usize>(), 20 * 80 + 40 * 20);
        assert!(tokens.iter().all(|t| (760..=840).contains(t)), "{tokens:?}");
        assert!(Fleet::<Echo>::new(vec![]).is_none());
    }
}
