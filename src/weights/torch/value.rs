//! The values that a checkpoint's pickle makes, and the globals that it may name.

use super::super::stored::StoredDType;
use crate::dtype::DType;

/// The number of a value in the interpreter's arena.
pub type Id = u32;

/// A value of a pickle. Its strings are borrowed from the pickle.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// Python's `None`.
    None,
    /// A truth value.
    Bool(bool),
    /// An integer of at most 64 bits.
    Int(i64),
    /// A float.
    Float(f64),
    /// A string of UTF-8 text.
    Str(&'a str),
    /// A value of which only the presence matters: bytes, sets, huge integers.
    Opaque,
    /// A tuple or a list.
    Sequence(Vec<Id>),
    /// A dict: its pairs of key and value, in the order in which they were set.
    Dict(Vec<(Id, Id)>),
    /// A class or function.
    Global(Global),
    /// An instance of an opaque class, with the state it was given.
    Object(Option<Id>),
    /// A storage in the archive.
    Storage(Storage<'a>),
    /// A tensor.
    Tensor(TensorView),
}

/// A class or function that a pickle may name.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Global {
    /// The function that makes a tensor from a storage.
    RebuildTensor,
    /// The function that makes a parameter from a tensor.
    RebuildParameter,
    /// `OrderedDict` or `defaultdict`.
    Dict,
    /// The class of storages of this number format.
    Storage(StoredDType),
    /// A class or function whose results are kept without being looked at.
    Opaque,
}

/// A run of values, which has an archive entry of its own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Storage<'a> {
    /// The number format of the values.
    pub dtype: StoredDType,
    /// The storage's key: the entry's name is `data/{key}`.
    pub key: &'a str,
    /// Number of values.
    pub len: usize,
}

/// A view of a storage. The offset and the strides count values.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorView {
    /// The number of the storage.
    pub storage: Id,
    /// The index of the tensor's first value in the storage.
    pub offset: usize,
    /// The shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// The stride of each dimension.
    pub stride: Vec<usize>,
}

/// Which globals a pickle may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Globals {
    /// Those of a model's checkpoint.
    Model,
    /// Those, and the classes of a small classifier that was saved as a whole module.
    Classifier,
}

/// Looks up a global by name. Returns `None` for a global that the pickle may not name.
pub fn global(module: &str, name: &str, allowed: Globals) -> Option<Global> {
    let found = checkpoint_global(module, name);
    match allowed {
        Globals::Model => found,
        Globals::Classifier => found.or_else(|| classifier_global(module, name)),
    }
}

/// The globals of a classifier beside those of a checkpoint. The classes are kept as data: an
/// instance of them is its state.
fn classifier_global(module: &str, name: &str) -> Option<Global> {
    match (module, name) {
        // VirNucPro saves its classifier from the script that trains it, and the fork from a package.
        ("__main__" | "train" | "prediction" | "virnucpro.pipeline.models", "MLPClassifier")
        | ("torch.nn.modules.linear", "Linear")
        | ("torch.nn.modules.batchnorm", "BatchNorm1d")
        | ("torch.nn.modules.dropout", "Dropout")
        | ("torch.nn.modules.activation", "ReLU" | "Softmax")
        // Beside the tensors, a checkpoint of a training run has numbers of NumPy and the version
        // of PyTorch.
        | ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar")
        | ("numpy", "dtype")
        | ("torch.torch_version", "TorchVersion") => Some(Global::Opaque),
        _ => None,
    }
}

/// Looks up a global that a model's checkpoint may name.
fn checkpoint_global(module: &str, name: &str) -> Option<Global> {
    let other = |name, size| Some(Global::Storage(StoredDType::Other(name, Some(size))));
    match (module, name) {
        ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor") => Some(Global::RebuildTensor),
        ("torch._utils", "_rebuild_parameter") => Some(Global::RebuildParameter),
        ("collections", "OrderedDict" | "defaultdict") => Some(Global::Dict),
        ("torch", "FloatStorage") => Some(Global::Storage(StoredDType::Float(DType::F32))),
        ("torch", "HalfStorage") => Some(Global::Storage(StoredDType::Float(DType::F16))),
        ("torch", "BFloat16Storage") => Some(Global::Storage(StoredDType::Float(DType::Bf16))),
        ("torch", "DoubleStorage") => other("f64", 8),
        ("torch", "LongStorage") => other("i64", 8),
        ("torch", "IntStorage") => other("i32", 4),
        ("torch", "ShortStorage") => other("i16", 2),
        ("torch", "CharStorage") => other("i8", 1),
        ("torch", "ByteStorage") => other("u8", 1),
        ("torch", "BoolStorage") => other("bool", 1),
        ("torch", "ComplexFloatStorage") => other("complex64", 8),
        ("argparse", "Namespace")
        | ("torch", "Size" | "device" | "float32" | "float16" | "bfloat16")
        | ("typing", "Any" | "Union")
        | ("_codecs", "encode")
        | ("builtins" | "__builtin__", "set" | "frozenset" | "dict" | "list" | "tuple")
        | ("builtins" | "__builtin__", "str" | "int" | "float" | "bool" | "bytes") => {
            Some(Global::Opaque)
        }
        // fairseq stores the settings of a training run in these classes, which only hold data.
        ("omegaconf.dictconfig", "DictConfig")
        | ("omegaconf.listconfig", "ListConfig")
        | ("omegaconf.base", "ContainerMetadata" | "Metadata")
        | (
            "omegaconf.nodes",
            "AnyNode" | "StringNode" | "IntegerNode" | "FloatNode" | "BooleanNode",
        ) => Some(Global::Opaque),
        _ => None,
    }
}
