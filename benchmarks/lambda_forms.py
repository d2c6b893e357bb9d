"""Paired latency ratio of two forms of the lambda convolution: 2-D over folded value channels, and 3-D.

One layer of LambdaResNet (256 channels, 4 queries per lambda, depth 16, scope 23) behind a stem of negligible cost. The
forms have the same weights, and the script first checks that their outputs agree. One thread, both sides alternating in
one fresh process per round; a t-interval over rounds.

    python benchmarks/lambda_forms.py [--rounds 12] [--side 14 --side 32] [--target ort --target ov]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from effbench.api.compare.rounds import RoundSettings
from effbench.api.export.run import export
from effbench.deploy.artifact import bundle
from effbench.models.mixers.lambdas import LambdaConv
from ratio import paired

STRIDE = 16
AGREE = 1e-4


class LambdaConv3d(LambdaConv):
    """The same layer with its position lambdas from a 3-D convolution, value channels as its depth."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__(channels, kernel=kernel)
        padding = (0, kernel // 2, kernel // 2)
        self.volume = nn.Conv3d(self.intra, self.depth, (1, kernel, kernel), padding=padding, bias=False)

    def position_lambdas(self, value: Tensor) -> Tensor:
        height, width = value.shape[2:]
        volume = value.reshape(-1, self.width, self.intra, height, width).transpose(1, 2)
        lambdas: Tensor = self.volume(volume)
        return lambdas.transpose(1, 2).reshape(-1, self.width, self.depth, height * width)


def networks(channels: int = 256, kernel: int = 23) -> tuple[nn.Module, nn.Module]:
    """Return the 3-D and the 2-D form with the same weights, each behind the same stem."""
    torch.manual_seed(0)
    stem, volume = nn.Conv2d(3, channels, 1, stride=STRIDE), LambdaConv3d(channels, kernel)
    nn.init.normal_(volume.volume.weight, std=1 / kernel)
    flat = LambdaConv(channels, kernel=kernel)
    shared = {name: value for name, value in volume.state_dict().items() if not name.startswith("volume.")}
    flat.load_state_dict({**shared, "position.weight": volume.volume.weight.squeeze(2)})
    return nn.Sequential(stem, volume).eval(), nn.Sequential(stem, flat).eval()


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each round")
    parser.add_argument("--side", type=int, action="append", help="height and width of the map; repeatable")
    parser.add_argument("--target", action="append", help="repeatable (default: ort and ov)")
    options = parser.parse_args()
    settings = RoundSettings(round_seconds=options.seconds, min_pairs=5)
    print("| target | map | 2-D / 3-D form [95 %] | rounds |\n|---|---|---|---|", flush=True)
    for side in options.side or [14, 32]:
        image = torch.randn(1, 3, side * STRIDE, side * STRIDE)
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            forms = networks()
            volume, flat = (form(image) for form in forms)
            difference = float((volume - flat).abs().max() / volume.std())
            if difference > AGREE:
                raise SystemExit(f"The two forms differ by {difference:.1e} of the deviation of their outputs.")
            by_form = []
            for name, form in zip(("volume", "flat"), forms, strict=True):
                path = Path(folder) / f"{name}.onnx"
                torch.onnx.export(
                    form, (image,), path, dynamo=True, opset_version=20, external_data=False, verbose=False
                )
                cells = export(str(path), options.target or ["ort", "ov"], [side * STRIDE], out=folder)
                by_form.append({cell.target: bundle.load(Path(cell.artifact)) for cell in cells if cell.artifact})
            for target, artifact in by_form[0].items():
                low, mid, high = paired(artifact, by_form[1][target], settings, options.rounds)
                print(
                    f"| {target} | {side}x{side} | {mid:.3f} [{low:.3f}, {high:.3f}] | {options.rounds} |", flush=True
                )


if __name__ == "__main__":
    main()
