"""Families of weights of convolutional encoders (weights/families.py): ResNets and ConvNeXts."""

from xsample_jax.models.convnext import STEM, STEP, ConvNeXt
from xsample_jax.weights.name_map import CONV, DENSE, DEPTHWISE, POINTWISE, Family, Rule, patches

# ResNets of torchvision and timm, which share their names: `layer1.0.conv1.weight`, `layer1.0.bn1.weight`, ...


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
    kind="resnet",
    rules=lambda encoder: RULES,
    ignored=r"fc\.(weight|bias)|.*\.num_batches_tracked",
    refused={
        r"conv1\.\d.*|.*\.downsample\.2\..*": "a ResNet with one convolution as its stem and plain shortcuts, not a -D "
        "variant",
        r".*\.(se|aa|drop_block)\..*": "a plain ResNet: no squeeze-and-excitation, no anti-aliasing",
    },
)


# ConvNeXts of timm, V1 and V2: `stem.0.weight`, `stages.1.downsample.1.weight`, `stages.1.blocks.0.conv_dw.weight`, ...


def convnext_rules(encoder: ConvNeXt) -> tuple[Rule, ...]:
    maps, block = POINTWISE if encoder.variant.convolutions else DENSE, "stages.{0}.blocks.{1}"
    ours = r"stages/(\d+)/blocks/(\d+)"
    norms = {"stem_norm": "stem.1", r"stages/(\d+)/downsample/norm": "stages.{0}.downsample.0"}
    norms |= {f"{ours}/norm": f"{block}.norm", f"{ours}/response": f"{block}.mlp.grn", "norm": "head.norm"}
    biases = {"stem/map": "stem.0", r"stages/(\d+)/downsample/patches/map": "stages.{0}.downsample.1"}
    biases |= {f"{ours}/conv": f"{block}.conv_dw"}
    biases |= {f"{ours}/expand": f"{block}.mlp.fc1", f"{ours}/contract": f"{block}.mlp.fc2"}
    return (
        Rule("stem/map/kernel", "stem.0.weight", patches(STEM)),
        Rule(r"stages/(\d+)/downsample/patches/map/kernel", "stages.{0}.downsample.1.weight", patches(STEP)),
        Rule(f"{ours}/conv/kernel", f"{block}.conv_dw.weight", DEPTHWISE),
        Rule(f"{ours}/expand/kernel", f"{block}.mlp.fc1.weight", maps),
        Rule(f"{ours}/contract/kernel", f"{block}.mlp.fc2.weight", maps),
        Rule(f"{ours}/scale", f"{block}.gamma"),
        *(Rule(f"{path}/scale", f"{name}.weight") for path, name in norms.items()),
        *(Rule(f"{path}/bias", f"{name}.bias") for path, name in (norms | biases).items()),
    )


CONVNEXT = Family(
    "ConvNeXt of timm",
    convnext_rules,
    kind="convnext",
    ignored=r"head\.fc\.(weight|bias)",
    refused={
        r"stages\.\d+\.blocks\.\d+\.gamma": "a ConvNeXt V2, without LayerScale: take convnext_*",
        r"stages\.\d+\.blocks\.\d+\.mlp\.grn\..*": "a ConvNeXt V1, without response normalization: take convnextv2_*",
        r"stem\.[2-9]\..*": "a stem of one convolution, not an -ols variant",
        r"norm_pre\..*": "the norm after the pooling, not an -hnf variant",
        r"head\.pre_logits\..*": "features right after the last norm, not an -mlp variant",
        r"(downsample_layers|stages\.\d+\.\d+)\..*": "names of timm, not those of the authors' repository",
    },
)
