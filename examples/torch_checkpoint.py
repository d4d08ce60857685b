"""Checkpoints of a PyTorch model at another site.

    python examples/torch_checkpoint.py --config FILE dwcp://PEER/EXPORT/PATH [STEPS]

`save` and `load` are what a training loop needs. Here a small model is trained for some steps, saved after each of
them, and goes on from its checkpoint when the example is run again. Needs torch and the extra fsspec.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import fsspec
import torch


def save(state: dict[str, Any], url: str, **options: Any) -> None:
    """Puts state dicts at `url`, whose old content stays until all of the new one is there and verified.

    What an older checkpoint has already is not sent again. `options`: of the file system, as `config`.
    """
    fs, path = fsspec.url_to_fs(url, **options)
    with fs.open(path, "wb") as file:
        torch.save(state, file)


def load(url: str, device: str = "cpu", **options: Any) -> dict[str, Any]:
    """What `save` has put there; the file comes by a transfer, on many streams. Raises FileNotFoundError.

    Only tensors and plain values are taken: a checkpoint is data, and must not run what somebody put into it.
    """
    fs, path = fsspec.url_to_fs(url, **options)
    with tempfile.TemporaryDirectory() as directory:
        local = Path(directory, "checkpoint")
        fs.get_file(path, str(local))
        state: dict[str, Any] = torch.load(local, map_location=device, weights_only=True)
        return state


def main(url: str, steps: int, **options: Any) -> None:
    model = torch.nn.Linear(16, 1)
    optimizer = torch.optim.Adam(model.parameters())
    done = 0
    try:
        state = load(url, **options)
    except FileNotFoundError:
        print("begins anew")
    else:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["step"]
        print(f"goes on after step {done}")
    for step in range(done + 1, done + steps + 1):
        inputs = torch.randn(64, 16)
        loss = torch.nn.functional.mse_loss(model(inputs), inputs.sum(dim=1, keepdim=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, url, **options)
        print(f"step {step} is kept")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train a small model with checkpoints at a peer.")
    parser.add_argument("--config", help="as of dwcp")
    parser.add_argument("url", metavar="dwcp://PEER/EXPORT/PATH")
    parser.add_argument("steps", type=int, nargs="?", default=3)
    arguments = parser.parse_args()
    main(arguments.url, arguments.steps, config=arguments.config)
