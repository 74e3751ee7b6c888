"""ResNets of torchvision and timm, which share their names: `layer1.0.conv1.weight`, `layer1.0.bn1.weight`, ..."""

from xsample_jax.weights.name_map import CONV, Family, Rule

_NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def _convolution_and_norm(ours: str, conv: str, ours_norm: str, norm: str) -> tuple[Rule, ...]:
    norms = (Rule(f"{ours_norm}/{part}", f"{norm}.{theirs}") for part, theirs in _NORM.items())
    return (Rule(f"{ours}/kernel", f"{conv}.weight", CONV), *norms)


RULES = (
    *_convolution_and_norm("stem/conv", "conv1", "stem/norm", "bn1"),
    *(
        rule
        for stage in range(4)
        for rule in (
            *_convolution_and_norm(
                rf"stages/{stage}/(\d+)/conv(\d)",
                f"layer{stage + 1}.{{0}}.conv{{1}}",
                rf"stages/{stage}/(\d+)/norm(\d)",
                f"layer{stage + 1}.{{0}}.bn{{1}}",
            ),
            *_convolution_and_norm(
                rf"stages/{stage}/(\d+)/shortcut/conv",
                f"layer{stage + 1}.{{0}}.downsample.0",
                rf"stages/{stage}/(\d+)/shortcut/norm",
                f"layer{stage + 1}.{{0}}.downsample.1",
            ),
        )
    ),
)

RESNET = Family(
    "ResNet of torchvision or timm",
    rules=lambda encoder: RULES,
    ignored=r"fc\.(weight|bias)|.*\.num_batches_tracked",
    refused={
        r"conv1\.\d.*|.*\.downsample\.2\..*": "a ResNet with one convolution as its stem and plain shortcuts, not a -D "
        "variant",
        r".*\.(se|aa|drop_block)\..*": "a plain ResNet: no squeeze-and-excitation, no anti-aliasing",
    },
)
