//! Reads the tensors of a module that was pickled as a whole (`torch.save(module)`).
//!
//! An instance of `torch.nn.Module` is pickled as its attributes. Its tensors lie in the dicts
//! `_parameters` and `_buffers`, and its parts, which are modules again, in the dict `_modules`.
//! Here these are data: no class is looked up, and no constructor runs.

use std::collections::HashSet;

use super::super::stored::{Malformed, fitting_name};
use super::contents::no_state_dict;
use super::pickle::Pickle;
use super::value::{Id, TensorView, Value};
use crate::untrusted::Shown;

/// How deep the modules of a classifier may lie within each other.
const DEEPEST: usize = 8;

/// Lists the tensors of the module `root` by the names that they have in its `state_dict()`.
///
/// # Errors
/// [`Malformed`] if there are none, if a name is there twice, or if a module holds itself.
pub(super) fn tensors<'p>(
    pickle: &'p Pickle,
    root: Id,
) -> Result<Vec<(String, &'p TensorView)>, Malformed> {
    let mut walk = Walk {
        pickle,
        seen: HashSet::new(),
        names: HashSet::new(),
        found: Vec::new(),
    };
    walk.module(root, "", 0)?;
    match walk.found.is_empty() {
        true => Err(no_state_dict()),
        false => Ok(walk.found),
    }
}

struct Walk<'p, 'a> {
    pickle: &'p Pickle<'a>,
    /// The modules that were walked through. Each is walked through once, so that modules which
    /// hold each other make no long walk.
    seen: HashSet<Id>,
    names: HashSet<String>,
    found: Vec<(String, &'p TensorView)>,
}

impl<'p> Walk<'p, '_> {
    fn module(&mut self, id: Id, prefix: &str, depth: usize) -> Result<(), Malformed> {
        let Value::Object(_) = self.pickle.get(id) else {
            return Ok(());
        };
        if depth > DEEPEST || !self.seen.insert(id) {
            return Err(Malformed::damaged(format!(
                "module {} lies more than {DEEPEST} modules deep, or stands in more than one place",
                Shown(prefix)
            )));
        }
        for key in ["_parameters", "_buffers"] {
            for (name, value) in self.dict(id, key) {
                if let (Value::Str(name), Value::Tensor(view)) =
                    (self.pickle.get(*name), self.pickle.get(*value))
                {
                    // The length is checked before anything is copied.
                    fitting_name(name, self.found.len()).map_err(Malformed::damaged)?;
                    let name = format!("{prefix}{name}");
                    fitting_name(&name, self.found.len()).map_err(Malformed::damaged)?;
                    if !self.names.insert(name.clone()) {
                        return Err(Malformed::damaged(format!(
                            "the pickle has tensor {} twice",
                            Shown(&name)
                        )));
                    }
                    self.found.push((name, view));
                }
            }
        }
        for (name, value) in self.dict(id, "_modules") {
            if let Value::Str(name) = self.pickle.get(*name) {
                fitting_name(name, 0).map_err(Malformed::damaged)?;
                self.module(*value, &format!("{prefix}{name}."), depth + 1)?;
            }
        }
        Ok(())
    }

    /// The pairs of a dict among the attributes of a module; none if there is no such dict.
    fn dict(&self, module: Id, key: &str) -> &'p [(Id, Id)] {
        match self.pickle.entry(module, key).map(|id| self.pickle.get(id)) {
            Some(Value::Dict(pairs)) => pairs,
            _ => &[],
        }
    }
}
