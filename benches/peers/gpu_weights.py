"""A Hugging Face folder's weights for the GPU scripts, and the reference models made of them."""

import contextlib
import json
import pathlib
from unittest import mock

import torch
from safetensors.torch import load_file

INV_FREQ = "encoder.layer.{}.attention.self.rotary_embeddings.inv_freq"


def load(folder, device, prefix):
    """The tensors as stored, on the device, by name, `prefix` taken off; and config.json."""
    weights = {}
    for file in sorted(pathlib.Path(folder).glob("*.safetensors")):
        for name, tensor in load_file(file, str(device)).items():
            weights[name.removeprefix(prefix)] = tensor
    return weights, load_config(folder)


def load_config(folder):
    return json.loads((pathlib.Path(folder) / "config.json").read_text())


def rounded(name, tensor, to):
    """A weight, through the dtype `to` if it is one of those that seqstream keeps in it: the layers' matrices."""
    matrix = tensor.dim() == 2 and "embeddings" not in name
    return tensor.to(to).to(tensor.dtype) if to and matrix else tensor


def hugging_face(folder, device, dtype, attention="sdpa", matrices=None):
    """EsmModel with every weight set from the folder, in `dtype`, matrices rounded to another dtype before; the stored
    inv_freq kept in float32."""
    from transformers import EsmConfig, EsmModel, logging

    logging.set_verbosity_error()
    weights, config = load(folder, device, "esm.")
    inv_freq = weights[INV_FREQ.format(0)].float()
    state = {name: rounded(name, tensor, matrices).to(dtype) for name, tensor in weights.items()
             if not name.startswith(("lm_head.", "contact_head.")) and not name.endswith("inv_freq")}
    with torch.device("meta"):  # nothing is initialised only to be overwritten
        model = EsmModel(EsmConfig(**config), add_pooling_layer=False)
    model.set_attn_implementation(attention)
    model.contact_head = None
    # Not from the file's loader: it may compute inv_freq anew, without the rounding a checkpoint carries.
    state["rotary_embeddings.inv_freq"] = inv_freq
    missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
    unexpected = [name for name in unexpected if "position" not in name]
    if missing or unexpected:
        raise SystemExit(f"EsmModel: missing {missing}, unexpected {unexpected}")
    model.embeddings.position_ids = None  # ESM-2 has none; they are still on the meta device
    return model.eval()


def exact_floats(dtype):
    """EsmModel casts to float32 in places, all by Tensor.float(); in a float64 run that must be float64."""
    if dtype == torch.float64:
        return mock.patch.object(torch.Tensor, "float", torch.Tensor.double)
    return contextlib.nullcontext()
