"""Makes the small classifiers in tests/golden/classifier/ and their scores, with a real PyTorch.

    pip install torch==2.15.0 numpy==2.4.6
    python tests/golden/classifier/make_classifiers.py tests/golden/classifier

The class has the name, the parts and the order of the parts of VirNucPro's (Li-Jing-1997/VirNucPro, prediction.py), so
that the pickles name the same globals as the published files; the sizes are 8 hidden units and 12 values. The scores are
computed by NumPy in float64 from the same float32 weights, and compared with PyTorch's own float32 scores.
"""

import json
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from torch import nn

WIDTH, HIDDEN, CLASSES, ROWS = 12, 8, 2, 11


class MLPClassifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden_layer = nn.Linear(WIDTH, HIDDEN)
        self.bn1 = nn.BatchNorm1d(HIDDEN)
        self.output_layer = nn.Linear(HIDDEN, CLASSES)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.output_layer(self.dropout(torch.relu(self.bn1(self.hidden_layer(x)))))


def rezip(path, change):
    """Rewrites the pickle of an archive, and leaves the other entries as they are."""
    with zipfile.ZipFile(path) as old:
        entries = [(item.filename, old.read(item.filename)) for item in old.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for name, data in entries:
            new.writestr(zipfile.ZipInfo(name), change(data) if name.endswith("data.pkl") else data)


def float64_scores(state, rows):
    wide = {name: tensor.numpy().astype(np.float64) for name, tensor in state.items()}
    x = rows.astype(np.float64) @ wide["hidden_layer.weight"].T + wide["hidden_layer.bias"]
    x = (x - wide["bn1.running_mean"]) / np.sqrt(wide["bn1.running_var"] + 1e-5)
    x = np.maximum(x * wide["bn1.weight"] + wide["bn1.bias"], 0)
    x = x @ wide["output_layer.weight"].T + wide["output_layer.bias"]
    x = np.exp(x - x.max(axis=1, keepdims=True))
    return x / x.sum(axis=1, keepdims=True)


def safetensors(path, state):
    header, data = {}, b""
    for name, tensor in state.items():
        if tensor.dtype == torch.float32:
            content = tensor.numpy().tobytes()
            offsets = [len(data), len(data) + len(content)]
            header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": offsets}
            data += content
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def main():
    out = Path(sys.argv[1])
    torch.manual_seed(21)
    model = MLPClassifier()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(3):
        loss = nn.functional.cross_entropy(model(3 * torch.randn(16, WIDTH)), torch.arange(16) % 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    model.eval()
    state = OrderedDict((name, tensor.clone()) for name, tensor in model.state_dict().items())

    # The whole module, with the device of the training as in the published files.
    path = out / "module.pth"
    torch.save(model, path)
    rezip(path, lambda pickle: pickle.replace(b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0"))
    # Older releases of PyTorch keep the parts of a module in OrderedDicts.
    for module in model.modules():
        for name, value in list(module.__dict__.items()):
            if type(value) is dict:
                module.__dict__[name] = OrderedDict(value)
    torch.save(model, out / "module_ordered.pth")
    # The class as the fork names it.
    torch.save(model, out / "module_fork.pth")
    names = (b"c__main__\nMLPClassifier\n", b"cvirnucpro.pipeline.models\nMLPClassifier\n")
    rezip(out / "module_fork.pth", lambda pickle: pickle.replace(*names))
    # A class that no classifier has.
    torch.save(model, out / "foreign.pth")
    names = (b"ctorch.nn.modules.dropout\nDropout\n", b"cposix\nsystem\n")
    rezip(out / "foreign.pth", lambda pickle: pickle.replace(*names))
    torch.save(model, out / "legacy.pth", _use_new_zipfile_serialization=False)

    torch.save(state, out / "state_dict.pth")
    checkpoint = {
        "epoch": 3,
        "model_state_dict": state,
        "optimizer_state_dict": optimizer.state_dict(),
        "best_loss": np.float64(loss.item()),
        "metadata": {
            "checkpoint_version": "2.0.0",
            "input_dim": WIDTH,
            "hidden_dim": HIDDEN,
            "num_class": CLASSES,
            "torch": torch.__version__,
        },
    }
    torch.save(checkpoint, out / "checkpoint.pth")
    torch.save({"epoch": 3, "model_state_dict": state, "metadata": {}}, out / "checkpoint_bare.pth")
    torch.save(OrderedDict(("module." + k, v) for k, v in state.items()), out / "parallel.pth")
    safetensors(out / "classifier.safetensors", state)

    rows = (2 * np.random.default_rng(21).standard_normal((ROWS, WIDTH))).astype(np.float32)
    scores = float64_scores(state, rows)
    with torch.no_grad():
        theirs = torch.softmax(model(torch.from_numpy(rows)), dim=1).numpy()
    assert np.abs(scores - theirs).max() < 1e-6, np.abs(scores - theirs).max()
    assert scores.min() < 0.1 and scores.max() > 0.9, scores
    content = {"rows": rows.astype(np.float64).tolist(), "scores": scores.tolist()}
    (out / "scores.json").write_text(json.dumps(content) + "\n")
    for path in sorted(out.iterdir()):
        print(path.stat().st_size, path)


if __name__ == "__main__":
    main()
