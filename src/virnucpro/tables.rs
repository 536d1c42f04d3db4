//! The tables of a finished job, made in one pass over its fragments and contigs.
//!
//! | file | lines |
//! |---|---|
//! | `prediction_results.txt` | one per fragment, in the order of the input |
//! | `prediction_results_highestscore.csv` | one per chunk with a fragment, separated by tabs |
//! | `contigs.tsv` | one per contig with a fragment, in natural order of the names |
//! | `virus.bedgraph` | the virus score along the contigs, in the order of the input |
//! | `no_fragment.tsv` | one per contig without a fragment, and the reason |
//!
//! Memory: 16 bytes per chunk of the contig at hand; for the whole job some 110 bytes and the name
//! per contig, and with [`Style::Original`] 12 bytes per chunk, because its table of chunks is
//! sorted as text. Everything else is written as it comes.
//!
//! The files get their names when all of them are whole and on the disk.

use std::cmp::Ordering;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::contigs::{self, Call, ChunkScores, ContigRule, Scores, Verdict, natural_order};
use super::{Style, TableError};
use crate::output::OutputError;
use crate::sequence::{Frame, chunk_ranges};

/// The names of the files that a [`TableWriter`] writes. Until a file is whole, its name is
/// `.NAME.partial`.
pub const TABLE_FILES: [&str; 5] = [
    "prediction_results.txt",
    "prediction_results_highestscore.csv",
    "contigs.tsv",
    "virus.bedgraph",
    "no_fragment.tsv",
];

/// The scores of one fragment.
#[derive(Debug, Clone, Copy)]
pub struct FragmentScore<'a> {
    /// The name of the contig.
    pub contig: &'a str,
    /// The number of the chunk within the contig, from 1.
    pub chunk: u32,
    /// The frame.
    pub frame: Frame,
    /// The first letter of the contig that the chunk covers, from 0.
    pub chunk_start: u64,
    /// The letter after the last one that the chunk covers.
    pub chunk_end: u64,
    /// The scores in the order of the classes: others, virus.
    pub scores: [f32; 2],
}

/// What is known of one contig.
#[derive(Debug, Clone, Copy)]
pub struct ContigFacts<'a> {
    /// The name.
    pub name: &'a str,
    /// The number of letters.
    pub length: u64,
    /// The number of chunks, those without a fragment included.
    pub chunks: u64,
    /// The number of fragments.
    pub fragments: u64,
}

/// How the tables are written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TableOptions {
    /// The program whose text is written.
    pub style: Style,
    /// The rule per contig.
    pub rule: ContigRule,
    /// The number of letters of a chunk.
    pub chunk: usize,
}

/// What the tables hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TableCounts {
    /// The number of fragments.
    pub fragments: u64,
    /// The number of fragments that are called a virus.
    pub viral_fragments: u64,
    /// The number of chunks with a fragment.
    pub chunks: u64,
    /// The number of chunks that are called a virus.
    pub viral_chunks: u64,
    /// The number of contigs, those without a fragment included.
    pub contigs: u64,
    /// The number of contigs that are called viral.
    pub viral: u64,
    /// The number of contigs that are called not viral.
    pub nonviral: u64,
    /// The number of contigs whose call is undecided.
    pub ambiguous: u64,
    /// The number of contigs without a fragment.
    pub without_fragment: u64,
}

/// Writes the tables. For each contig in the order of the input, call [`fragment`](Self::fragment)
/// for its fragments in order, and then [`contig`](Self::contig). If the writer is dropped before
/// [`finish`](Self::finish), it leaves no file.
#[derive(Debug)]
pub struct TableWriter<'a> {
    options: &'a TableOptions,
    dir: PathBuf,
    fragments: Table,
    chunks: Table,
    verdicts: Table,
    bedgraph: Table,
    without: Table,
    /// The contig whose fragments are coming.
    current: Option<Current>,
    /// The names of the contigs that `judged` and `rows` refer to.
    names: Vec<Box<str>>,
    judged: Vec<(u32, Verdict)>,
    rows: Vec<Row>,
    counts: TableCounts,
    line: String,
}

/// A line of the original's table of chunks, which is sorted at the end.
#[derive(Debug, Clone, Copy)]
struct Row {
    name: u32,
    chunk: u32,
    is_virus: bool,
}

#[derive(Debug)]
struct Current {
    name: String,
    last: (u32, Frame),
    fragments: u64,
    chunks: Vec<(Range<u64>, ChunkScores)>,
}

impl<'a> TableWriter<'a> {
    /// Begins the tables in the directory `dir`, which exists. Unfinished tables of an earlier job
    /// are replaced.
    ///
    /// # Errors
    /// [`TableError::Output`] if a file cannot be created.
    pub fn new(dir: &Path, options: &'a TableOptions) -> Result<Self, TableError> {
        let [fragments, chunks, verdicts, bedgraph, without] = TABLE_FILES;
        let chunks_header = match options.style {
            Style::Original => "Modified_ID\tIs_Virus\n",
            Style::Broad => "Modified_ID\tIs_Virus\tmax_score_0\tmax_score_1\n",
        };
        Ok(Self {
            options,
            dir: dir.to_owned(),
            fragments: Table::create(dir, fragments, "Sequence_ID\tPrediction\tscore1\tscore2\n")?,
            chunks: Table::create(dir, chunks, chunks_header)?,
            verdicts: Table::create(dir, verdicts, contigs::HEADER)?,
            bedgraph: Table::create(dir, bedgraph, BEDGRAPH_HEADER)?,
            without: Table::create(dir, without, "contig\tlength\treason\n")?,
            current: None,
            names: Vec::new(),
            judged: Vec::new(),
            rows: Vec::new(),
            counts: TableCounts::default(),
            line: String::new(),
        })
    }

    /// Adds the next fragment.
    ///
    /// # Errors
    /// [`TableError`] if a score is no probability, if the fragment is out of order, or if a file
    /// cannot be written.
    pub fn fragment(&mut self, fragment: &FragmentScore<'_>) -> Result<(), TableError> {
        let f = fragment;
        let scores = Scores::from(f.scores);
        // This refuses NaN as well.
        if !f.scores.iter().all(|score| (0.0..=1.0).contains(score)) {
            return Err(TableError::Score {
                contig: f.contig.to_owned(),
                chunk: f.chunk,
                frame: f.frame,
                others: scores.others,
                virus: scores.virus,
            });
        }
        let at = (f.chunk, f.frame);
        let current = match &mut self.current {
            Some(current) => {
                if current.name != f.contig {
                    let what = "a fragment of another contig stands among its fragments";
                    return Err(contradiction(&current.name, what));
                }
                if at <= current.last {
                    let what = format!("fragment {}{} is out of order", f.chunk, f.frame);
                    return Err(contradiction(f.contig, what));
                }
                current.last = at;
                current
            }
            None => {
                check_name(f.contig)?;
                self.current.insert(Current {
                    name: f.contig.to_owned(),
                    last: at,
                    fragments: 0,
                    chunks: Vec::new(),
                })
            }
        };
        current.fragments += 1;
        match current.chunks.last_mut() {
            Some((_, last)) if last.chunk == f.chunk => last.add(scores),
            _ => current.chunks.push((
                f.chunk_start..f.chunk_end,
                ChunkScores {
                    chunk: f.chunk,
                    best: scores,
                },
            )),
        }
        self.counts.fragments += 1;
        self.counts.viral_fragments += u64::from(scores.is_virus());
        self.line.clear();
        let prediction = if scores.is_virus() { "virus" } else { "others" };
        // Writing to a string cannot fail.
        let _ = write!(
            self.line,
            "{}_chunk_{}{}\t{prediction}\t",
            f.contig, f.chunk, f.frame
        );
        self.options
            .style
            .write_score(scores.others, &mut self.line);
        self.line.push('\t');
        self.options.style.write_score(scores.virus, &mut self.line);
        self.line.push('\n');
        self.fragments.write(&self.line)
    }

    /// Ends a contig, after its last fragment.
    ///
    /// # Errors
    /// [`TableError`] if the facts do not fit to the fragments, or if a file cannot be written.
    pub fn contig(&mut self, facts: &ContigFacts<'_>) -> Result<(), TableError> {
        let current = self.current.take();
        if let Some(current) = &current
            && current.name != facts.name
        {
            let what = "its fragments are not followed by its own facts";
            return Err(contradiction(&current.name, what));
        }
        let found = current.as_ref().map_or(0, |c| c.fragments);
        if found != facts.fragments {
            let what = format!(
                "there are {found} fragments in place of {}",
                facts.fragments
            );
            return Err(contradiction(facts.name, what));
        }
        let length = usize::try_from(facts.length).unwrap_or(usize::MAX);
        let expected = chunk_ranges(length, self.options.chunk);
        if expected.len() as u64 != facts.chunks {
            let what = format!(
                "it has {} chunks in place of {}",
                facts.chunks,
                expected.len()
            );
            return Err(contradiction(facts.name, what));
        }
        self.counts.contigs += 1;
        let Some(current) = current else {
            return self.without_fragment(facts);
        };
        for (range, scores) in &current.chunks {
            let number = (scores.chunk as usize).checked_sub(1);
            let wanted = number.and_then(|n| chunk_ranges(length, self.options.chunk).nth(n));
            let wanted = wanted.map(|r| r.start as u64..r.end as u64);
            if wanted.as_ref() != Some(range) {
                let what = format!(
                    "its chunk {} of the letters {} to {} is none of its chunks",
                    scores.chunk, range.start, range.end
                );
                return Err(contradiction(facts.name, what));
            }
        }
        let name = self.names.len() as u32;
        self.names.push(facts.name.into());
        self.write_chunks(name, facts.name, &current.chunks)?;
        self.write_bedgraph(facts.name, &current.chunks)?;
        let chunks: Vec<ChunkScores> = current.chunks.iter().map(|(_, scores)| *scores).collect();
        if let Some(verdict) = self.options.rule.judge(&chunks) {
            match verdict.call {
                Call::Viral => self.counts.viral += 1,
                Call::NonViral => self.counts.nonviral += 1,
                Call::Ambiguous => self.counts.ambiguous += 1,
            }
            self.judged.push((name, verdict));
        }
        Ok(())
    }

    fn without_fragment(&mut self, facts: &ContigFacts<'_>) -> Result<(), TableError> {
        check_name(facts.name)?;
        self.counts.without_fragment += 1;
        let reason = match facts.length {
            0 => "empty",
            1 | 2 => "shorter than a codon",
            _ => "no open frame",
        };
        let line = format!("{}\t{}\t{reason}\n", facts.name, facts.length);
        self.without.write(&line)
    }

    fn write_chunks(
        &mut self,
        number: u32,
        name: &str,
        chunks: &[(Range<u64>, ChunkScores)],
    ) -> Result<(), TableError> {
        for (_, scores) in chunks {
            let is_virus = scores.is_virus();
            self.counts.chunks += 1;
            self.counts.viral_chunks += u64::from(is_virus);
            let style = self.options.style;
            if style == Style::Original {
                self.rows.push(Row {
                    name: number,
                    chunk: scores.chunk,
                    is_virus,
                });
                continue;
            }
            self.line.clear();
            write_chunk(name, scores.chunk, is_virus, &mut self.line);
            self.line.push('\t');
            style.write_score(scores.best.others, &mut self.line);
            self.line.push('\t');
            style.write_score(scores.best.virus, &mut self.line);
            self.line.push('\n');
            self.chunks.write(&self.line)?;
        }
        Ok(())
    }

    fn write_bedgraph(
        &mut self,
        name: &str,
        chunks: &[(Range<u64>, ChunkScores)],
    ) -> Result<(), TableError> {
        // A line without a name would begin with its position.
        let name = if name.is_empty() { "." } else { name };
        let spans = chunks
            .iter()
            .map(|(range, scores)| (range.clone(), scores.best.virus));
        for (range, score) in without_overlap(&spans.collect::<Vec<_>>()) {
            self.line.clear();
            // Writing to a string cannot fail.
            let _ = write!(self.line, "{name}\t{}\t{}\t", range.start, range.end);
            self.options.style.write_score(score, &mut self.line);
            self.line.push('\n');
            self.bedgraph.write(&self.line)?;
        }
        Ok(())
    }

    /// Writes what is sorted, and gives the files their names.
    ///
    /// # Errors
    /// [`TableError`] if the last contig has not ended, or if a file cannot be written.
    pub fn finish(mut self) -> Result<TableCounts, TableError> {
        if let Some(current) = &self.current {
            return Err(contradiction(&current.name, "its facts are missing"));
        }
        let names = std::mem::take(&mut self.names);
        let name = |number: u32| names.get(number as usize).map_or("", |name| &**name);
        let mut judged = std::mem::take(&mut self.judged);
        judged.sort_by(|(a, _), (b, _)| natural_order(name(*a), name(*b)));
        for (number, verdict) in &judged {
            self.line.clear();
            contigs::write_line(name(*number), verdict, &mut self.line);
            self.verdicts.write(&self.line)?;
        }
        let mut rows = std::mem::take(&mut self.rows);
        rows.sort_by(|a, b| chunk_order((name(a.name), a.chunk), (name(b.name), b.chunk)));
        for row in &rows {
            self.line.clear();
            write_chunk(name(row.name), row.chunk, row.is_virus, &mut self.line);
            self.line.push('\n');
            self.chunks.write(&self.line)?;
        }
        let mut tables = [
            self.fragments,
            self.chunks,
            self.verdicts,
            self.bedgraph,
            self.without,
        ];
        for table in &mut tables {
            table.sync()?;
        }
        for table in tables {
            table.give_name()?;
        }
        sync_dir(&self.dir).map_err(|e| OutputError::io("sync", &self.dir, None, e))?;
        Ok(self.counts)
    }
}

fn contradiction(contig: &str, what: impl Into<String>) -> TableError {
    TableError::Contradiction {
        contig: contig.to_owned(),
        what: what.into(),
    }
}

fn check_name(name: &str) -> Result<(), TableError> {
    match name.contains(['\t', '\n', '\r']) {
        true => Err(TableError::Name {
            contig: name.to_owned(),
        }),
        false => Ok(()),
    }
}

/// Appends the first two fields of a line of the table of chunks, as Python writes a truth value.
fn write_chunk(name: &str, chunk: u32, is_virus: bool, out: &mut String) {
    let truth = if is_virus { "True" } else { "False" };
    // Writing to a string cannot fail.
    let _ = write!(out, "{name}_chunk_{chunk}\t{truth}");
}

/// Compares the ids of two chunks as text, without making the text.
fn chunk_order((a, i): (&str, u32), (b, j): (&str, u32)) -> Ordering {
    let (i, j) = (i.to_string(), j.to_string());
    if a == b {
        return i.cmp(&j);
    }
    let id = |name: &'_ str| name.bytes().chain(*b"_chunk_").collect::<Vec<u8>>();
    let common = a.len().min(b.len());
    // Most names differ before the shorter one ends.
    match a.as_bytes()[..common].cmp(&b.as_bytes()[..common]) {
        Ordering::Equal => {}
        order => return order,
    }
    let (mut a, mut b) = (id(a), id(b));
    a.extend(i.bytes());
    b.extend(j.bytes());
    a.cmp(&b)
}

/// The line that makes the file a track of the browsers.
const BEDGRAPH_HEADER: &str = "track type=bedGraph name=\"virus score\" \
     description=\"VirNucPro: largest virus score of the chunks that cover a base\" \
     viewLimits=0:1 autoScale=off\n";

/// Resolves the overlaps of spans, which are sorted by their starts and by their ends: a base gets
/// the largest score of the spans that cover it. Neighbours of the same score become one span, and
/// a base that no span covers is in none.
fn without_overlap(spans: &[(Range<u64>, f32)]) -> Vec<(Range<u64>, f32)> {
    let mut edges: Vec<u64> = spans.iter().flat_map(|(r, _)| [r.start, r.end]).collect();
    edges.sort_unstable();
    edges.dedup();
    let mut first = 0;
    let mut flat: Vec<(Range<u64>, f32)> = Vec::new();
    for pair in edges.windows(2) {
        let &[start, end] = pair else { continue };
        // The spans before `first` end before this piece begins.
        while spans.get(first).is_some_and(|(r, _)| r.end <= start) {
            first += 1;
        }
        let covering = spans
            .iter()
            .skip(first)
            .take_while(|(r, _)| r.start <= start);
        let Some(score) = covering.map(|(_, score)| *score).reduce(f32::max) else {
            continue;
        };
        match flat.last_mut() {
            Some((last, same)) if last.end == start && *same == score => last.end = end,
            _ => flat.push((start..end, score)),
        }
    }
    flat
}

/// A table that has its name only when it is whole.
#[derive(Debug)]
struct Table {
    file: Option<BufWriter<File>>,
    path: PathBuf,
    partial: PathBuf,
}

impl Table {
    fn create(dir: &Path, name: &str, header: &str) -> Result<Self, TableError> {
        let partial = dir.join(format!(".{name}.partial"));
        let file =
            File::create(&partial).map_err(|e| OutputError::io("create", &partial, None, e))?;
        let mut table = Self {
            file: Some(BufWriter::with_capacity(1 << 16, file)),
            path: dir.join(name),
            partial,
        };
        table.write(header)?;
        Ok(table)
    }

    fn write(&mut self, text: &str) -> Result<(), TableError> {
        if let Some(file) = &mut self.file {
            let written = file.write_all(text.as_bytes());
            written.map_err(|e| OutputError::io("write", &self.partial, None, e))?;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), TableError> {
        if let Some(file) = &mut self.file {
            file.flush()
                .map_err(|e| OutputError::io("write", &self.partial, None, e))?;
            let synced = file.get_ref().sync_all();
            synced.map_err(|e| OutputError::io("sync", &self.partial, None, e))?;
        }
        Ok(())
    }

    fn give_name(mut self) -> Result<(), TableError> {
        fs::rename(&self.partial, &self.path)
            .map_err(|e| OutputError::io("rename to", &self.path, None, e))?;
        self.file = None;
        Ok(())
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            // `into_parts` discards the buffer; a plain drop would write the rest of it first.
            drop(file.into_parts());
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// Makes renames durable. On Unix the directory holds the names.
fn sync_dir(dir: &Path) -> io::Result<()> {
    match cfg!(unix) {
        true => File::open(dir)?.sync_all(),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_gets_the_largest_score_of_the_chunks_that_cover_it() {
        let flat = |spans: &[(Range<u64>, f32)]| without_overlap(spans);
        assert_eq!(flat(&[]), []);
        assert_eq!(flat(&[(0..500, 0.5)]), [(0..500, 0.5)]);
        // The second chunk has the larger score, and gets the bases that both cover.
        assert_eq!(
            flat(&[(0..500, 0.25), (333..833, 0.75)]),
            [(0..333, 0.25), (333..833, 0.75)]
        );
        assert_eq!(
            flat(&[(0..500, 0.75), (333..833, 0.25), (666..1001, 0.25)]),
            [(0..500, 0.75), (500..1001, 0.25)]
        );
        // A chunk without a fragment leaves a gap.
        assert_eq!(
            flat(&[(0..500, 0.5), (666..1001, 0.5)]),
            [(0..500, 0.5), (666..1001, 0.5)]
        );
        // Short chunks overlap in more than two layers.
        assert_eq!(
            flat(&[(0..3, 0.1), (1..4, 0.9), (2..5, 0.4)]),
            [(0..1, 0.1), (1..4, 0.9), (4..5, 0.4)]
        );
    }

    #[test]
    fn ids_are_compared_as_text() {
        let mut ids = Vec::new();
        for name in [
            "",
            "a",
            "a_chunk_1",
            "a_chunk_10",
            "a_",
            "ab",
            "b",
            "\u{e9}",
            "a!",
            "a~",
        ] {
            for chunk in [1, 2, 9, 10, 11, 100] {
                ids.push((name, chunk));
            }
        }
        for a in &ids {
            for b in &ids {
                let text = |(name, chunk): &(&str, u32)| format!("{name}_chunk_{chunk}");
                assert_eq!(chunk_order(*a, *b), text(a).cmp(&text(b)), "{a:?} {b:?}");
            }
        }
    }
}
