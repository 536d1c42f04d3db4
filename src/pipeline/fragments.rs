//! Makes the fragments of chunks, in the reader thread of a job of `seqstream virnucpro`.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;

use super::messages::Group;
use super::{JobError, MemoryCheck};
use crate::output::{
    AMINO_ACID_FILE, CHUNKS_COUNT, CONTIGS_FILE, FRAGMENTS_FILE, Features, NUCLEOTIDE_FILE,
};
use crate::sequence::{ChunkPlace, Fragment, Fragmenter, Record};

/// The first line of fragments.tsv.
pub(crate) const FRAGMENTS_HEADER: &str =
    "id\tcontig\tchunk\tframe\tstrand\tchunk_start\tchunk_end\tnt_start\tnt_end\taa\tdropped\n";
/// The first line of contigs.tsv in a shard.
pub(crate) const CONTIGS_HEADER: &str =
    "contig\tlength\tchunks\tfirst_chunk\tlast_chunk\tfragments\n";

/// How chunks become the texts of the models.
#[derive(Debug, Clone)]
pub struct FragmentOptions {
    /// The most letters of a chunk.
    pub chunk: usize,
    /// Which models read the fragments. With both models, the DNA model has the first lane.
    pub features: Features,
    /// Whether the fragments themselves are kept.
    pub keep: bool,
    /// The check of each fragment's need of memory, for the DNA model and for the protein model.
    pub memory: [Option<MemoryCheck>; 2],
}

/// Makes the fragments of one chunk after the other.
pub(crate) struct FragmentStage {
    options: FragmentOptions,
    fragmenter: Fragmenter,
}

impl FragmentStage {
    pub(crate) fn new(options: FragmentOptions) -> Self {
        Self {
            fragmenter: Fragmenter::new(options.chunk.max(1)),
            options,
        }
    }

    /// Whether the fragments themselves are kept.
    pub(crate) fn keeps(&self) -> bool {
        self.options.keep
    }

    /// Adds the fragments of a chunk to the group, and to the texts of its shard.
    ///
    /// # Errors
    /// A fragment needs more memory than there is.
    pub(crate) fn take(
        &mut self,
        record: &Record,
        shard: u64,
        texts: &mut ShardTexts,
        group: &mut Group,
    ) -> Result<(), JobError> {
        let Some(place) = record.chunk else {
            let error = format!("record \"{}\" is no chunk", record.id);
            return Err(JobError::Internal(error));
        };
        texts.begin_chunk(record, place);
        let options = &self.options;
        let mut lanes: [Option<usize>; 2] = [None, None];
        match options.features {
            Features::Both => lanes = [Some(0), Some(1)],
            Features::Dna => lanes[0] = Some(0),
            Features::Protein => lanes[1] = Some(0),
        }
        let each = |fragment: Fragment<'_>| {
            // The text is one chunk, whose number within its contig is known.
            let id = format!("{}_chunk_{}{}", record.id, place.number, fragment.frame);
            texts.fragment(&id, record, place, &fragment, options.keep);
            let letters = [fragment.nucleotides, fragment.protein];
            for ((lane, letters), memory) in lanes.iter().zip(letters).zip(&options.memory) {
                let Some(lane) = *lane else { continue };
                let fragment = Record {
                    id: id.clone(),
                    sequence: letters.to_vec(),
                    file: record.file,
                    line: record.line,
                    index: record.index,
                    chain: 0,
                    unnamed: record.unnamed,
                    source: record.source.clone(),
                    number: record.number,
                    layout: Default::default(),
                    chunk: None,
                };
                if let Some(memory) = memory {
                    memory.check(&fragment, letters.len() as u64)?;
                }
                group.push(shard, lane, fragment);
            }
            Ok::<(), JobError>(())
        };
        self.fragmenter.fragments(&record.sequence, each)?;
        Ok(())
    }
}

/// The texts and the counts of a shard, which grow with its fragments.
#[derive(Default)]
pub(crate) struct ShardTexts {
    index: Vec<u8>,
    contigs: Vec<u8>,
    nucleotides: Vec<u8>,
    proteins: Vec<u8>,
    /// The contig of the last chunk.
    contig: Option<PartOfContig>,
    /// Hashes of the fragments so far. Only the fragments of one shard are compared, so that the
    /// memory is bounded and the count is the same after a resume.
    seen: HashSet<u64>,
    rows: u64,
    contigs_begun: u64,
    empty_contigs: u64,
    dropped: u64,
    repeats: u64,
}

/// The chunks of a contig that are in the shard.
struct PartOfContig {
    name: String,
    place: ChunkPlace,
    first: u64,
    fragments: u64,
}

impl ShardTexts {
    fn begin_chunk(&mut self, record: &Record, place: ChunkPlace) {
        if place.number == 1 {
            self.contigs_begun += 1;
            self.empty_contigs += u64::from(place.contig == 0);
        }
        match &mut self.contig {
            Some(contig) if place.number > 1 => contig.place = place,
            _ => {
                self.end_contig();
                self.contig = Some(PartOfContig {
                    name: record.id.clone(),
                    place,
                    first: place.number,
                    fragments: 0,
                });
            }
        }
    }

    fn end_contig(&mut self) {
        let Some(contig) = self.contig.take() else {
            return;
        };
        let PartOfContig {
            name,
            place,
            first,
            fragments,
        } = contig;
        if self.contigs.is_empty() {
            self.contigs.extend_from_slice(CONTIGS_HEADER.as_bytes());
        }
        // A contig without letters has no chunk, although it counts as one record.
        let (of, first, last) = match place.contig {
            0 => (0, 0, 0),
            _ => (place.of, first, place.number),
        };
        let line = format!(
            "{name}\t{}\t{of}\t{first}\t{last}\t{fragments}\n",
            place.contig
        );
        self.contigs.extend_from_slice(line.as_bytes());
    }

    fn fragment(
        &mut self,
        id: &str,
        record: &Record,
        place: ChunkPlace,
        fragment: &Fragment<'_>,
        keep: bool,
    ) {
        self.rows += 1;
        self.dropped += fragment.dropped as u64;
        if let Some(contig) = &mut self.contig {
            contig.fragments += 1;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(fragment.nucleotides).update(b"\n");
        hasher.update(fragment.protein);
        let mut hash = [0; 8];
        hash.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        self.repeats += u64::from(!self.seen.insert(u64::from_le_bytes(hash)));
        if self.index.is_empty() {
            self.index.extend_from_slice(FRAGMENTS_HEADER.as_bytes());
        }
        let range = |range: &std::ops::Range<usize>| {
            let at = |n: usize| place.start + n as u64;
            (at(range.start), at(range.end))
        };
        let (chunk_start, chunk_end) = range(&fragment.chunk_range);
        let (start, end) = range(&fragment.nucleotide_range);
        let strand = if fragment.frame.is_reverse() {
            '-'
        } else {
            '+'
        };
        // Writing into memory cannot fail.
        let _ = writeln!(
            self.index,
            "{id}\t{}\t{}\t{}\t{strand}\t{chunk_start}\t{chunk_end}\t{start}\t{end}\t{}\t{}",
            record.id,
            place.number,
            fragment.frame,
            fragment.protein.len(),
            fragment.dropped
        );
        if keep {
            for (file, letters) in [
                (&mut self.nucleotides, fragment.nucleotides),
                (&mut self.proteins, fragment.protein),
            ] {
                let _ = writeln!(file, ">{id}");
                file.extend_from_slice(letters);
                file.push(b'\n');
            }
        }
    }

    /// Returns the number of rows, the texts by their names, and the counts of the shard, whose
    /// records were `records` chunks.
    pub(crate) fn finish(mut self, records: u64, keep: bool) -> FinishedTexts {
        self.end_contig();
        let with_header = |text: Vec<u8>, header: &str| match text.is_empty() {
            true => header.as_bytes().to_vec(),
            false => text,
        };
        let mut texts = vec![
            (CONTIGS_FILE, with_header(self.contigs, CONTIGS_HEADER)),
            (FRAGMENTS_FILE, with_header(self.index, FRAGMENTS_HEADER)),
        ];
        if keep {
            texts.push((NUCLEOTIDE_FILE, self.nucleotides));
            texts.push((AMINO_ACID_FILE, self.proteins));
        }
        let counts = [
            (CHUNKS_COUNT, records),
            ("contigs", self.contigs_begun),
            ("empty_contigs", self.empty_contigs),
            ("dropped_codons", self.dropped),
            ("repeated_fragments", self.repeats),
        ];
        FinishedTexts {
            rows: self.rows,
            texts,
            counts: counts.map(|(name, n)| (name.to_owned(), n)).into(),
        }
    }
}

/// What a shard has besides its rows.
pub(crate) struct FinishedTexts {
    pub rows: u64,
    pub texts: Vec<(&'static str, Vec<u8>)>,
    pub counts: BTreeMap<String, u64>,
}
