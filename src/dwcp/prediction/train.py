"""`python -m dwcp.prediction.train`: trains the network on measured series, and writes its weights as ONNX.

Needs the extra `training`. The same series and seed give the same weights on one machine, and on another ones that
score within 1%: the order in which sums are rounded differs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dwcp.errors import DwcpError
from dwcp.forecast.distribution import LEVELS, MIDDLE
from dwcp.forecast.features import Array, Inputs
from dwcp.prediction.network import Ensemble, Network, pinball
from dwcp.prediction.runtime import INPUTS, OUTPUT, OnnxNetwork
from dwcp.prediction.traces import FOLDS, Series, read
from dwcp.prediction.windows import INVENTED_KIND, Windows, windows

EPOCHS = 8
BATCH = 512
RATE, DECAY = 3e-3, 1e-2
NOMINAL = 0.95
LOW, HIGH = LEVELS.index(0.025), LEVELS.index(0.975)


def train(series: Sequence[Series], seed: int, epochs: int = EPOCHS) -> Ensemble:
    """One network for each fold, which it does not see. What a network says of the fold that it has not seen stretches
    the intervals of all together."""
    networks, held, said = [], [], []
    for fold in range(FOLDS):
        data = windows([entry for entry in series if entry.fold != fold], seed)
        print(f"fold {fold}: {len(data.outcome)} windows of {sum(entry.fold != fold for entry in series)} series")
        networks.append(_train_one(data, seed * 100 + fold, epochs))
        held.append(windows([entry for entry in series if entry.fold == fold], seed + 1))
        said.append(_ask(networks[-1], held[-1]))
    outcome, source = (np.concatenate([getattr(part, name) for part in held]) for name in ("outcome", "source"))
    below, above = stretch(np.concatenate(said), outcome, source)
    print(f"intervals are stretched by {below:.3f} downwards and {above:.3f} upwards")
    ensemble = Ensemble(networks, below, above)
    ensemble.eval()
    return ensemble


def _train_one(data: Windows, seed: int, epochs: int) -> Network:
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    inputs, outcome, weight = _tensors(data)
    network = Network(inputs[0].shape[2], inputs[1].shape[1])
    network.mean.copy_(inputs[1].mean(0))
    # a scalar that hardly varied in training must not be blown up when it does
    network.deviation.copy_(inputs[1].std(0) + 0.05)
    batches = max(1, len(outcome) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=epochs * batches, pct_start=0.15)
    for epoch in range(epochs):
        began, total = time.perf_counter(), 0.0
        order = torch.from_numpy(random.permutation(len(outcome)))
        for chosen in order[: batches * BATCH].split(BATCH):
            loss = pinball(network(*(column[chosen] for column in inputs)), outcome[chosen], weight[chosen])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(
            f"seed {seed}, epoch {epoch + 1}: loss {total / batches:.4f}, {time.perf_counter() - began:.0f} s",
            flush=True,
        )
    network.eval()
    return network


def _tensors(data: Windows) -> tuple[list[Tensor], Tensor, Tensor]:
    return (
        [torch.from_numpy(column) for column in data.inputs],
        torch.from_numpy(data.outcome),
        torch.from_numpy(data.weight),
    )


def _ask(network: Network, data: Windows) -> Array:
    with torch.no_grad():
        said: Array = network(*_tensors(data)[0]).numpy()
    return said


def stretch(said: Array, outcome: Array, source: NDArray[np.str_]) -> tuple[float, float]:
    """Factors on the distances from the median with which either tail is missed as often as it should be.

    Split conformal prediction on the relative score (Romano, Patterson and Candès, "Conformalized quantile regression",
    2019). Only what was measured counts, each family the same.
    """
    measured = np.array([" " not in kind and kind != INVENTED_KIND for kind in source.tolist()])
    said, outcome, source = said[measured], outcome[measured], source[measured]
    numbers = Counter(source.tolist())
    weight = np.array([1 / numbers[kind] for kind in source.tolist()])
    middle, low, high = (said[:, index] + 1e-9 for index in (MIDDLE, LOW, HIGH))
    below = np.log((outcome + 1e-9) / middle) / np.minimum(np.log(low / middle), -1e-9)
    above = (outcome - middle) / np.maximum(high - middle, 1e-9)
    return _quantile(below, weight), _quantile(above, weight)


def _quantile(score: NDArray[np.floating], weight: NDArray[np.floating]) -> float:
    order = np.argsort(score)
    reached = np.cumsum(weight[order]) / weight.sum()
    return float(score[order][np.searchsorted(reached, 1 - (1 - NOMINAL) / 2)])


def export(network: Ensemble, data: Windows, path: Path) -> None:
    """Any number of rows at once."""
    some = tuple(torch.from_numpy(column[:2].copy()) for column in data.inputs)
    batch = torch.export.Dim("rows", min=1)
    program = torch.onnx.export(
        network,
        some,
        dynamo=True,
        input_names=list(INPUTS),
        output_names=[OUTPUT],
        dynamic_shapes=tuple({0: batch} for _ in INPUTS),
        external_data=False,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch exported nothing")
    program.save(str(path), external_data=False)


def score(network: OnnxNetwork, data: Windows) -> tuple[float, float, float]:
    """(mean absolute error relative to the last value's, coverage of the 95% interval, its mean width)."""
    inputs = Inputs(*data.inputs, unit=np.ones(len(data.outcome), np.float32))
    said = network.run(inputs)
    last = np.abs(data.inputs[2][:, 0] - data.outcome).mean()
    held = (data.outcome >= said[:, LOW]) & (data.outcome <= said[:, HIGH])
    error = np.abs(said[:, MIDDLE] - data.outcome).mean()
    return float(error / last), float(held.mean()), float((said[:, HIGH] - said[:, LOW]).mean())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dwcp.prediction.train", description=__doc__)
    parser.add_argument(
        "--traces", type=Path, action="append", required=True, help="a directory of series (repeatable)"
    )
    parser.add_argument("--output", type=Path, required=True, help="where the weights are written")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="rounds through all windows (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="for torch (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        series = [entry for directory in options.traces for entry in read(directory)]
        network = train([entry for entry in series if entry.role == "train"], options.seed, options.epochs)
        data = windows([entry for entry in series if entry.role == "test"], options.seed + 2)
        export(network, data, options.output)
        for name, weights in (("these", str(options.output)), ("shipped", "")):
            try:
                error, covered, width = score(OnnxNetwork(weights), data)
            except DwcpError as problem:
                print(f"{name}: {problem}")
                continue
            print(f"{name}: error {error:.4f} of the last value's, coverage {covered:.4f}, width {width:.3f}")
    except DwcpError as error:
        print(f"train: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
