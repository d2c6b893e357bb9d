"""The claims: what a paper states (paraphrased), where, and the test of it, or what a test needs."""

from __future__ import annotations

from dataclasses import dataclass

from effbench.api.claims.kinds import Counted, Faster, Grows, LessMemory, Test, Untestable
from effbench.errors import UsageError, unknown_name

REGLA = "ReGLA, arXiv:2602.05262, abstract"
IFORMER = "iFormer, arXiv:2501.15369"
AFT = "AFT, arXiv:2105.14103"
LAMBDA = "LambdaNetworks, arXiv:2102.08602"


@dataclass(frozen=True)
class Claim:
    """One statement and its test."""

    name: str
    text: str
    source: str
    test: Test


CLAIMS = (
    Claim("rgma-linear", "The cost of RGMA grows linearly with the number of pixels", REGLA, Grows("rgma")),
    Claim(
        "aft-simple-linear",
        "AFT-simple is linear in the number of positions",
        f"{AFT}, section 3",
        Grows("aft-simple"),
    ),
    Claim("aft-conv-linear", "AFT-conv is linear in the number of positions", f"{AFT}, section 3.3", Grows("aft-conv")),
    Claim(
        "lambda-conv-linear",
        "The lambda convolution is linear in the number of positions",
        LAMBDA,
        Grows("lambda-conv"),
    ),
    Claim(
        "softmax-quadratic",
        "Softmax attention grows quadratically",
        f"{AFT}, Table 1; {LAMBDA}",
        Grows("softmax", True),
    ),
    Claim("shma-quadratic", "So does the attention of iFormer (SHMA)", f"{IFORMER}, section 3", Grows("shma", True)),
    Claim(
        "elrf-7x7",
        "A 3x3 and a 5x5 depthwise convolution between feed-forward units cost less than one 7x7 with the same field",
        f"{REGLA} and digests of it (reconstructed)",
        Faster("conv7", "elrf", (224, 512, 1024)),
    ),
    Claim(
        "regla-iformer-224",
        "Linear attention costs nothing at 224 px: ReGLA-M takes at most 2 % more time than iFormer-M",
        f"{REGLA} (efficiency; the bound is effbench's)",
        Faster("iformer_m", "regla_m", (224,), margin=0.02),
    ),
    Claim(
        "regla-iformer-high",
        "At high resolution ReGLA-M is faster than iFormer-M",
        f"{REGLA} (efficiency at 512 px)",
        Faster("iformer_m", "regla_m", (512, 1024)),
    ),
    Claim(
        "regla-windowed",
        "ReGLA-M is faster than iFormer-M with its attention in windows, as that paper deploys it at 512 px",
        f"{REGLA}; {IFORMER}, Table 17",
        Faster("iformer_m_faster", "regla_m", (512, 1024)),
    ),
    Claim(
        "rgma-windowed",
        "RGMA alone, which sees the whole map, is faster than SHMA alone in windows of 16 x 16",
        f"{REGLA}; {IFORMER}, Table 17",
        Faster("shma-window", "rgma", (512, 1024)),
    ),
    Claim(
        "windowed-shma",
        "Windows make SHMA faster at 512 px",
        f"{IFORMER}, Table 17",
        Faster("shma", "shma-window", (512,)),
    ),
    Claim(
        "aft-conv-memory",
        "AFT-conv needs less memory than softmax attention",
        f"{AFT}, sections 1 and 3, Table 7",
        LessMemory("softmax", "aft-conv"),
    ),
    Claim("aft-simple-memory", "So does AFT-simple", f"{AFT}, Table 1", LessMemory("softmax", "aft-simple")),
    Claim(
        "lambda-local",
        "A lambda convolution is faster than local self-attention of the same scope (7 x 7)",
        f"{LAMBDA}, comparison with local self-attention",
        Faster("local", "lambda-conv-7", (224, 512)),
    ),
    Claim(
        "lambda-params",
        "LambdaResNet-50 has 14.99 M parameters, 40 % fewer than the 25.56 M of ResNet-50",
        f"{LAMBDA}; d-li14/lambda.pytorch",
        Counted("lambda_resnet50", "parameters", lambda counts: counts["params"] / 1e6, 14.99, " M"),
    ),
    Claim(
        "iformer-m-params",
        "iFormer-M has 8.9 M parameters",
        f"{IFORMER}, Table 3",
        Counted("iformer_m", "parameters", lambda counts: counts["params"] / 1e6, 8.9, " M"),
    ),
    Claim(
        "iformer-m-macs",
        "iFormer-M takes 1.64 GMACs at 224 px",
        f"{IFORMER}, Table 3",
        Counted("iformer_m", "MACs at 224 px", lambda counts: counts["macs_224"] / 1e9, 1.64, " G"),
    ),
    Claim(
        "iformer-l-macs",
        "iFormer-L takes 2.63 GMACs at 224 px",
        f"{IFORMER}, Table 3",
        Counted("iformer_l", "MACs at 224 px", lambda counts: counts["macs_224"] / 1e9, 2.63, " G"),
    ),
    Claim(
        "regla-m-latency",
        "ReGLA-M takes 4.98 ms at 512 px",
        REGLA,
        Untestable("the authors' network, and the device, which the abstract does not name"),
    ),
    Claim(
        "regla-m-accuracy",
        "ReGLA-M reaches 80.85 % top-1 on ImageNet-1K",
        REGLA,
        Untestable("the authors' weights, or seven teachers and weeks of training on ImageNet"),
    ),
    Claim(
        "iformer-m-latency",
        "iFormer-M takes 1.10 ms at 224 px and 4.00 ms at 512 px on an iPhone 13",
        f"{IFORMER}, Tables 3 and 5",
        Untestable("an iPhone 13 with iOS 17.7, and Xcode on a Mac: `effbench export iformer_m --target coreml`"),
    ),
    Claim(
        "iformer-single-head",
        "One head instead of several takes attention from 1.40 to 1.12 ms on a phone",
        f"{IFORMER}, Table 1",
        Untestable("an iPhone 13"),
    ),
    Claim(
        "aft-accuracy",
        "AFT-conv reaches 81.0 % top-1 with 23.0 M parameters, DeiT-S 79.9 % with 22.1 M",
        f"{AFT}, Table 7",
        Untestable("training on ImageNet, twice, with one recipe"),
    ),
    Claim(
        "aft-throughput",
        "AFT-conv-small runs 936 images a second at batch 256, DeiT-S 1010",
        f"{AFT}, Table 7",
        Untestable("an NVIDIA V100: `effbench profile deit_s aft_conv_s --batch 256` on it"),
    ),
    Claim(
        "lambda-efficientnet",
        "LambdaResNets are 3.2 to 4.4 times faster than EfficientNets of the same accuracy",
        f"{LAMBDA}, abstract",
        Untestable("trained weights of both, and the accelerator of the paper"),
    ),
)


def claims_named(names: tuple[str, ...]) -> tuple[Claim, ...]:
    """Return the claims of these names, in the order of the registry; without names, all claims.

    Raises:
        UsageError: A name is unknown; the hint names --scaling, for a mixer or model.
    """
    valid = {claim.name: claim for claim in CLAIMS}
    for name in names:
        if name not in valid:
            error = unknown_name(name, valid, "claim")
            raise UsageError(error.message, hint=f"{error.hint} Mixers and models are measured with --scaling.")
    return tuple(claim for claim in CLAIMS if not names or claim.name in names)
