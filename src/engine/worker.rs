//! Runs the embedder of a device on a thread of its own.

use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};
use std::thread::JoinHandle;

use crate::architecture::ModelConfig;
use crate::backend::BackendError;
use crate::batch::{Budget, PackedBatch};
use crate::gpu::stream::StreamError;
use crate::model::{Embedder, LayerOutput, ModelError, Request};

/// An embedder on a thread of its own, so that submitting a batch never waits.
///
/// Where layers are streamed, a pass can be queued no faster than its layers are loaded, so
/// submitting it takes about as long as computing it. If one thread submitted to several devices,
/// each of them would wait for all others.
pub(super) struct Worker {
    config: ModelConfig,
    budget: Budget,
    /// The number of batches that may be submitted before one has to be collected.
    slots: usize,
    submitted: usize,
    batches: Option<SyncSender<(PackedBatch, Request)>>,
    outputs: Receiver<Result<Vec<LayerOutput>, ModelError>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`ModelError::Backend`] if the thread cannot be started.
    pub fn start(embedder: impl Embedder + Send + 'static) -> Result<Self, ModelError> {
        let slots = embedder.free_slots().max(1);
        let (config, budget) = (embedder.config().clone(), embedder.budget());
        let (batches, received) = sync_channel(slots);
        let (sender, outputs) = channel();
        let thread = std::thread::Builder::new()
            .name("device".into())
            .spawn(move || work(embedder, &received, &sender))
            .map_err(|e| failed(StreamError::Thread(e.to_string())))?;
        Ok(Self {
            config,
            budget,
            slots,
            submitted: 0,
            batches: Some(batches),
            outputs,
            thread: Some(thread),
        })
    }

    /// Returns the error that ended the thread.
    fn error(&self) -> ModelError {
        let ended = StreamError::Panicked("the thread of a device ended early".into());
        let error = self.outputs.iter().find_map(Result::err);
        error.unwrap_or_else(|| failed(ended))
    }
}

fn failed(error: StreamError) -> ModelError {
    BackendError::from(error).into()
}

/// Submits batches while the embedder has free slots, and else collects the oldest batch. Ends when
/// the worker is dropped, or with the first error.
fn work(
    mut embedder: impl Embedder,
    batches: &Receiver<(PackedBatch, Request)>,
    outputs: &Sender<Result<Vec<LayerOutput>, ModelError>>,
) {
    let mut submitted = 0;
    loop {
        let next = match submitted {
            0 => batches.recv().map_err(|_| TryRecvError::Disconnected),
            _ if embedder.free_slots() > 0 => batches.try_recv(),
            _ => Err(TryRecvError::Empty),
        };
        let done = match next {
            Err(TryRecvError::Disconnected) => return,
            Ok((batch, request)) => {
                submitted += 1;
                embedder.submit(&batch, &request).map(|()| None)
            }
            Err(TryRecvError::Empty) => {
                submitted -= 1;
                embedder.collect()
            }
        };
        let failed = done.is_err();
        if let Some(done) = done.transpose()
            && (outputs.send(done).is_err() || failed)
        {
            return;
        }
    }
}

impl Embedder for Worker {
    fn submit(&mut self, batch: &PackedBatch, request: &Request) -> Result<(), ModelError> {
        let sent = self
            .batches
            .as_ref()
            .map(|b| b.send((batch.clone(), request.clone())));
        match sent {
            Some(Ok(())) => self.submitted += 1,
            _ => return Err(self.error()),
        }
        Ok(())
    }

    fn collect(&mut self) -> Result<Option<Vec<LayerOutput>>, ModelError> {
        if self.submitted == 0 {
            return Ok(None);
        }
        self.submitted -= 1;
        match self.outputs.recv() {
            Ok(outputs) => outputs.map(Some),
            Err(_) => Err(self.error()),
        }
    }

    fn free_slots(&self) -> usize {
        self.slots.saturating_sub(self.submitted)
    }

    fn budget(&self) -> Budget {
        self.budget
    }

    fn config(&self) -> &ModelConfig {
        &self.config
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The thread ends when there is no sender any more. It has caught no panic: if it panicked,
        // its message was printed, and the job has got an error.
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// Returns the first token of each batch, and fails at token 13.
    struct Echo(ModelConfig, VecDeque<f32>);

    impl Embedder for Echo {
        fn submit(&mut self, batch: &PackedBatch, _: &Request) -> Result<(), ModelError> {
            let (token, vocab) = (batch.tokens()[0], 13);
            if token == 13 {
                return Err(ModelError::Token { token, vocab });
            }
            self.1.push_back(token as f32);
            Ok(())
        }
        fn collect(&mut self) -> Result<Option<Vec<LayerOutput>>, ModelError> {
            Ok(self.1.pop_front().map(|first| {
                vec![LayerOutput {
                    layer: 0,
                    pooled: vec![first],
                    states: Vec::new().into(),
                }]
            }))
        }
        fn free_slots(&self) -> usize {
            2 - self.1.len()
        }
        fn budget(&self) -> Budget {
            Budget::even(7)
        }
        fn config(&self) -> &ModelConfig {
            &self.0
        }
    }

    fn worker() -> Worker {
        Worker::start(Echo(ModelConfig::esm2(1, 32, 4), VecDeque::new())).unwrap()
    }

    fn submit(worker: &mut Worker, token: u32) -> Result<(), ModelError> {
        let mut batch = PackedBatch::new();
        batch.push(&[token]);
        let request = Request {
            layers: vec![0],
            pools: vec![],
            per_token: false,
        };
        worker.submit(&batch, &request)
    }

    #[test]
    fn batches_come_back_in_order() {
        let mut worker = worker();
        assert_eq!((worker.free_slots(), worker.budget().tokens), (2, 7));
        assert!(worker.collect().unwrap().is_none());
        let mut back = Vec::new();
        for token in 20..60 {
            if worker.free_slots() == 0 {
                back.push(worker.collect().unwrap().unwrap()[0].pooled[0]);
            }
            submit(&mut worker, token).unwrap();
        }
        while let Some(outputs) = worker.collect().unwrap() {
            back.push(outputs[0].pooled[0]);
        }
        assert_eq!(back, (20..60).map(|token| token as f32).collect::<Vec<_>>());
        // Work that nobody collects does not hold up the end.
        submit(&mut worker, 20).unwrap();
    }

    #[test]
    fn an_error_comes_back_whether_a_batch_is_collected_or_submitted() {
        let fails =
            |error: ModelError| assert!(error.to_string().contains("token id 13"), "{error}");
        let mut collected = worker();
        submit(&mut collected, 5).unwrap();
        submit(&mut collected, 13).unwrap();
        let first = collected.collect();
        // The embedder may fail before the first batch was collected.
        fails(match first {
            Ok(Some(_)) => collected.collect().unwrap_err(),
            Ok(None) => panic!("a batch is lost"),
            Err(error) => error,
        });
        let mut submitted = worker();
        submit(&mut submitted, 13).unwrap();
        let error = (0..100).find_map(|_| submit(&mut submitted, 5).err());
        fails(error.unwrap());
        // Later calls fail too.
        assert!(submit(&mut submitted, 5).is_err() && submitted.collect().is_err());
    }
}
