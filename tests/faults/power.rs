//! Power cuts, simulated from the log of a job: after every call that changed something, the test
//! builds each possible state of the disk, and the job continues from there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::preload::{self, Call};
use crate::workplace::{Job, Workplace};

/// How much of the unsynced state a disk has.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Disk {
    /// Nothing.
    Late,
    /// All names, but no content.
    NamesFirst,
}

#[derive(Clone, Default)]
struct Node {
    /// The entries of a directory; `None` for a file.
    entries: Option<BTreeMap<String, usize>>,
    content: Vec<u8>,
    /// Entries and content at the time of the last sync.
    synced_entries: BTreeMap<String, usize>,
    synced_content: Vec<u8>,
}

/// A tree of files that knows which part of it was synced. Node 0 is the directory that holds OUT.
struct Files {
    root: PathBuf,
    nodes: Vec<Node>,
}

/// A file system as it may be found after the power cut: content by path, `None` for directories.
type Found = BTreeMap<PathBuf, Option<Vec<u8>>>;

impl Files {
    fn new(root: &Path) -> Self {
        let directory = Node {
            entries: Some(BTreeMap::new()),
            ..Node::default()
        };
        Self {
            root: root.to_owned(),
            nodes: vec![directory],
        }
    }

    /// Loads the files in `path` below the root, all of them synced.
    fn load(&mut self, path: &Path) {
        let node = match path.is_dir() {
            true => Node {
                entries: Some(BTreeMap::new()),
                ..Node::default()
            },
            false => {
                let content = std::fs::read(path).unwrap();
                Node {
                    synced_content: content.clone(),
                    content,
                    ..Node::default()
                }
            }
        };
        self.put(path, node);
        if path.is_dir() {
            std::fs::read_dir(path)
                .unwrap()
                .for_each(|e| self.load(&e.unwrap().path()));
        }
        let parent = self.find(path.parent().unwrap()).unwrap();
        self.sync(parent);
    }

    fn find(&self, path: &Path) -> Option<usize> {
        let mut node = 0;
        for part in path.strip_prefix(&self.root).ok()?.components() {
            let name = part.as_os_str().to_str()?;
            node = *self.nodes[node].entries.as_ref()?.get(name)?;
        }
        Some(node)
    }

    fn directory(&mut self, path: &Path) -> &mut BTreeMap<String, usize> {
        let parent = self.find(path.parent().unwrap()).unwrap();
        self.nodes[parent].entries.as_mut().unwrap()
    }

    fn put(&mut self, path: &Path, node: Node) -> usize {
        self.nodes.push(node);
        let number = self.nodes.len() - 1;
        self.name(path, number);
        number
    }

    fn name(&mut self, path: &Path, number: usize) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        self.directory(path).insert(name, number);
    }

    fn remove(&mut self, path: &Path) -> Option<usize> {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        self.directory(path).remove(&name)
    }

    fn sync(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        node.synced_content.clone_from(&node.content);
        if let Some(entries) = &node.entries {
            node.synced_entries.clone_from(entries);
        }
    }

    /// Applies a call; returns whether it changed the state that a power cut leaves.
    fn take(&mut self, call: &Call) -> bool {
        let inside = |p: &Path| p.starts_with(&self.root);
        let (path, second) = (&call.path, &call.second);
        if call.result < 0 || !inside(path) {
            return false;
        }
        match call.operation.as_str() {
            "mkdir" => {
                self.put(
                    path,
                    Node {
                        entries: Some(BTreeMap::new()),
                        ..Node::default()
                    },
                );
            }
            "open" if !second.as_os_str().is_empty() => match self.find(path) {
                Some(node) if second.as_os_str() == "truncate" => self.nodes[node].content.clear(),
                Some(_) => return false,
                None => drop(self.put(path, Node::default())),
            },
            "write" | "pwrite64" => {
                let (Some(node), Some((at, bytes))) = (self.find(path), &call.data) else {
                    return false;
                };
                let content = &mut self.nodes[node].content;
                let end = *at as usize + bytes.len();
                content.resize(content.len().max(end), 0);
                content[*at as usize..end].copy_from_slice(bytes);
            }
            "copy_file_range" | "ftruncate64" => panic!("not played: {}", call.operation),
            "fsync" | "fdatasync" => match self.find(path) {
                Some(node) => self.sync(node),
                None => return false,
            },
            "link" | "linkat" => {
                let node = self.find(path).unwrap();
                self.name(second, node);
            }
            "rename" => {
                let node = self.remove(path).unwrap();
                self.name(second, node);
            }
            "unlink" | "unlinkat" | "rmdir" => drop(self.remove(path)),
            _ => return false,
        }
        true
    }

    /// Returns the part of `path` that the disk has.
    fn found(&self, path: &Path, disk: Disk) -> Found {
        let mut found = Found::new();
        let mut node = 0;
        for part in path.strip_prefix(&self.root).unwrap().components() {
            match self
                .entries(node, disk)
                .get(part.as_os_str().to_str().unwrap())
            {
                Some(next) => node = *next,
                None => return found,
            }
        }
        self.walk(node, PathBuf::new(), disk, &mut found);
        found
    }

    fn entries(&self, node: usize, disk: Disk) -> &BTreeMap<String, usize> {
        let node = &self.nodes[node];
        match (disk, &node.entries) {
            (Disk::NamesFirst, Some(entries)) => entries,
            _ => &node.synced_entries,
        }
    }

    fn walk(&self, number: usize, path: PathBuf, disk: Disk, found: &mut Found) {
        let node = &self.nodes[number];
        let content = node.entries.is_none().then(|| node.synced_content.clone());
        found.insert(path.clone(), content);
        for (name, below) in self.entries(number, disk) {
            self.walk(*below, path.join(name), disk, found);
        }
    }
}

fn lay_out(found: &Found, at: &Path) {
    if at.exists() {
        std::fs::remove_dir_all(at).unwrap();
    }
    for (path, content) in found {
        let path = if path.as_os_str().is_empty() {
            at.to_owned()
        } else {
            at.join(path)
        };
        match content {
            None => std::fs::create_dir(path).unwrap(),
            Some(bytes) => std::fs::write(path, bytes).unwrap(),
        }
    }
}

#[test]
fn power_cuts_at_each_step_of_the_journal_leave_the_same_bytes_to_the_next_run() {
    let place = Workplace::new();
    for job in [Job::Embed, Job::Resume, Job::Merge] {
        let mut command = place.begin(job, "out");
        let out = place.path("out");
        let mut files = Files::new(out.parent().unwrap());
        for shares in ["part1", "part2"] {
            files.load(&place.path(shares));
        }
        if out.exists() {
            files.load(&out);
        }
        let calls = preload::calls(&mut command, true);
        let mut seen = BTreeSet::new();
        let mut cuts = 0;
        for call in &calls {
            if !files.take(call) {
                continue;
            }
            for disk in [Disk::Late, Disk::NamesFirst] {
                let found = files.found(&out, disk);
                // Many calls make no difference.
                if !seen.insert(found.clone()) {
                    continue;
                }
                cuts += 1;
                lay_out(&found, &out);
                let checked = place
                    .standing("out")
                    .and_then(|()| place.finish(job, "out"));
                checked.unwrap_or_else(|why| {
                    panic!(
                        "{job:?}, {disk:?}, after call {} ({} {}): {why}",
                        call.number,
                        call.operation,
                        call.path.display()
                    )
                });
            }
        }
        println!("{job:?}: {cuts} power cuts");
        assert!(cuts > 20, "{job:?}: {cuts}");
        let end = files.found(&out, Disk::Late);
        lay_out(&end, &out);
        place
            .is_whole("out")
            .unwrap_or_else(|why| panic!("{job:?}: after its end: {why}"));
    }
}
