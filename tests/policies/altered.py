"""Model folders with one thing changed, for the tests of what is refused."""

import json
import shutil

import torch
from safetensors.torch import load_file, save_file

from paradox_utils import config
from paradox_utils.files import resolve

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abab\nsize 434828\n"


def altered(source, target, *changes):
    """A copy of a model's folder, changed."""
    shutil.copytree(resolve(source), target)
    for change in changes:
        change(target)
    return target


def write(file, content):
    return lambda folder: (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())


def remove(*files):
    return lambda folder: [(folder / file).unlink(missing_ok=True) for file in files]


def cut(file):
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[: (folder / file).stat().st_size // 2])


def setting(file, **values):
    """Values of a JSON file; None removes one."""

    def change(folder):
        content = json.loads((folder / file).read_text()) | values
        (folder / file).write_text(json.dumps({name: value for name, value in content.items() if value is not None}))

    return change


def renamed(rename):
    """The weights under the names that ``rename`` gives them; None leaves one out."""

    def change(folder):
        weights = load_file(folder / "model.safetensors")
        kept = {rename(name): weight for name, weight in weights.items() if rename(name)}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})

    return change


def shaken(seed, size=0.3):
    """Noise on the matrices below the head: a model of about the same mind."""

    def change(folder):
        weights, random = load_file(folder / "model.safetensors"), torch.Generator().manual_seed(seed)
        for name, weight in weights.items():
            if weight.ndim == 2 and "classifier" not in name:
                weights[name] = weight + size * weight.std() * torch.randn(weight.shape, generator=random)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return change


def shaken_reward_models(task, folder, count=2):
    """Names of as many reward models of the task, near the fixture's and each other."""
    source = config.FIXTURE_REWARD_MODEL.format(task=task)
    return [str(altered(source, folder / f"{task}-{seed}", shaken(seed))) for seed in range(1, count + 1)]


def also(*names):
    """Weights of these names besides its own."""

    def change(folder):
        weights = load_file(folder / "model.safetensors") | {name: torch.ones(2) for name in names}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return change


def another_token(special):
    """The tokenizer knows a token more than the embedding has rows: its padding, or one that may stand in a text."""

    def change(folder):
        content = json.loads((folder / "tokenizer.json").read_text())
        place = len(content["model"]["vocab"])
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
        content["added_tokens"].append({"id": place, "content": "[NEW]", **flags})
        (folder / "tokenizer.json").write_text(json.dumps(content))
        if special:
            setting("tokenizer_config.json", pad_token="[NEW]")(folder)

    return change
