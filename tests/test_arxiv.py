"""Every arXiv number of the project is that of the paper it is cited for: one table, checked once by a person.

faults A6: numbers typed from memory.
"""

import os
import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).parent.parent
NUMBER = re.compile(r"(?<![\d.])([0-2]\d(?:0[1-9]|1[0-2])\.\d{4,5})(?![\d.])")
# Where a number with a dot is a citation: prose and sources, not tables of data.
SUFFIXES = {".py", ".md", ".ipynb", ".toml", ".cfg", ".sh", ".yml", ".yaml", ".html"}

TITLES = {
    "2205.01917": "CoCa: Contrastive Captioners are Image-Text Foundation Models",
    "2401.00849": "COSMO: COntrastive Streamlined MultimOdal Model with Interleaved Pre-Training",
    "2502.19642": "Contrastive MIM: A Contrastive Mutual Information Framework for Unified Generative and "
    "Discriminative Representation Learning",
    "2202.06417": "A Contrastive Framework for Neural Text Generation",
    "2006.05929": "Dataset Condensation with Gradient Matching",
    "2202.02916": "Dataset Condensation with Contrastive Signals",
    "2305.09062": "SuSana Distancia is all you need: Enforcing class separability in metric learning via two novel "
    "distance-based loss functions for few-shot image classification",
    "2310.02699": "Continual Contrastive Spoken Language Understanding",
    "2401.10458": "Contrastive Unlearning: A Contrastive Approach to Machine Unlearning",
    "1802.03426": "UMAP: Uniform Manifold Approximation and Projection for Dimension Reduction",
    "2010.01412": "Sharpness-Aware Minimization for Efficiently Improving Generalization",
    "2104.09864": "RoFormer: Enhanced Transformer with Rotary Position Embedding",
    "2508.10104": "DINOv3",
    "2002.05202": "GLU Variants Improve Transformer",
    "2201.03545": "A ConvNet for the 2020s",
    "2301.00808": "ConvNeXt V2: Co-designing and Scaling ConvNets with Masked Autoencoders",
    "1603.09382": "Deep Networks with Stochastic Depth",
    "2103.17239": "Going deeper with Image Transformers",
    "2106.04560": "Scaling Vision Transformers",
    "2301.12643": "Adversarial Style Augmentation for Domain Generalization",
    "2202.03958": "Uncertainty Modeling for Out-of-Distribution Generalization",
    "2305.13035": "Getting ViT in Shape: Scaling Laws for Compute-Optimal Model Design",
    "2309.16588": "Vision Transformers Need Registers",
    "1412.6980": "Adam: A Method for Stochastic Optimization",
    "1608.03983": "SGDR: Stochastic Gradient Descent with Warm Restarts",
    "1610.09585": "Conditional Image Synthesis With Auxiliary Classifier GANs",
    "1710.10196": "Progressive Growing of GANs for Improved Quality, Stability, and Variation",
    "1802.05637": "cGANs with Projection Discriminator",
    "1802.05957": "Spectral Normalization for Generative Adversarial Networks",
    "1804.04235": "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost",
    "1904.00962": "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes",
    "2006.10738": "Differentiable Augmentation for Data-Efficient GAN Training",
    "2104.14294": "Emerging Properties in Self-Supervised Vision Transformers",
    "2106.04990": "It Takes Two to Tango: Mixup for Deep Metric Learning",
    "2309.16633": "Mixup Your Own Pairs",
    "2401.15896": "M2-Encoder: Advancing Bilingual Image-Text Understanding by Large-scale Efficient Pretraining",
    "2008.11702": "Delving into Inter-Image Invariance for Unsupervised Visual Representations",
    "2310.05615": "Adaptive Multi-head Contrastive Learning",
    "2106.08254": "BEiT: BERT Pre-Training of Image Transformers",
    "2111.07991": "LiT: Zero-Shot Transfer with Locked-image text Tuning",
    "2302.02334": "Revisiting Discriminative vs. Generative Classifiers: Theory and Implications",
    "2302.06675": "Symbolic Discovery of Optimization Algorithms",
    "2403.12448": "Do Generated Data Always Help Contrastive Learning?",
    "2404.06395": "MiniCPM: Unveiling the Potential of Small Language Models with Scalable Training Strategies",
    "2405.15682": "The Road Less Scheduled",
    "2502.16982": "Muon is Scalable for LLM Training",
    "2202.06464": "Synthetic Data Can Also Teach: Synthesizing Effective Data for Unsupervised Visual "
    "Representation Learning",
    "1512.03385": "Deep Residual Learning for Image Recognition",
    "1604.08859": "The Z-loss: a shift and scale invariant classification loss belonging to the Spherical Family",
    "1604.06174": "Training Deep Nets with Sublinear Memory Cost",
    "1710.09412": "mixup: Beyond Empirical Risk Minimization",
    "1905.04899": "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features",
    "2010.08887": "i-Mix: A Domain-Agnostic Strategy for Contrastive Representation Learning",
    "1706.02677": "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour",
    "1706.03762": "Attention Is All You Need",
    "1706.04599": "On Calibration of Modern Neural Networks",
    "1708.03888": "Large Batch Training of Convolutional Networks",
    "1711.05101": "Decoupled Weight Decay Regularization",
    "1805.00932": "Exploring the Limits of Weakly Supervised Pretraining",
    "1805.01978": "Unsupervised Feature Learning via Non-Parametric Instance-level Discrimination",
    "1805.09501": "AutoAugment: Learning Augmentation Policies from Data",
    "1909.13719": "RandAugment: Practical automated data augmentation with a reduced search space",
    "1810.04805": "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
    "1909.08053": "Megatron-LM: Training Multi-Billion Parameter Language Models Using Model Parallelism",
    "1911.04623": "SimpleShot: Revisiting Nearest-Neighbor Classification for Few-Shot Learning",
    "1911.05722": "Momentum Contrast for Unsupervised Visual Representation Learning",
    "2002.04745": "On Layer Normalization in the Transformer Architecture",
    "2002.05709": "A Simple Framework for Contrastive Learning of Visual Representations",
    "2007.00224": "Debiased Contrastive Learning",
    "2003.04297": "Improved Baselines with Momentum Contrastive Learning",
    "2004.09297": "MPNet: Masked and Permuted Pre-training for Language Understanding",
    "2004.11362": "Supervised Contrastive Learning",
    "2005.10242": "Understanding Contrastive Representation Learning through Alignment and Uniformity on the Hypersphere",  # noqa: E501
    "2006.07733": "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning",
    "2006.09882": "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments",
    "2006.09994": "Noise or Signal: The Role of Image Backgrounds in Object Recognition",
    "2010.01028": "Hard Negative Mixing for Contrastive Learning",
    "2010.04592": "Contrastive Learning with Hard Negative Samples",
    "2010.06192": "Revisiting BFloat16 Training",
    "2010.11929": "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
    "2011.02803": "Intriguing Properties of Contrastive Losses",
    "2012.09740": "Understanding the Behavior of Contrastive Loss",
    "2101.06983": "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
    "2102.05918": "Scaling Up Visual and Vision-Language Representation Learning With Noisy Text Supervision",
    "2103.00020": "Learning Transferable Visual Models From Natural Language Supervision",
    "2103.03230": "Barlow Twins: Self-Supervised Learning via Redundancy Reduction",
    "2104.02057": "An Empirical Study of Training Self-Supervised Vision Transformers",
    "2104.14548": "With a Little Help from My Friends: Nearest-Neighbor Contrastive Learning of Visual Representations",
    "2105.04906": "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning",
    "2106.04156": "Provable Guarantees for Self-Supervised Deep Learning with Spectral Contrastive Loss",
    "2106.08808": "Contrastive Learning with Continuous Proxy Meta-Data for 3D MRI Classification",
    "2107.02027": "Efficient Sequence Packing without Cross-contamination",
    "2107.07651": "Align before Fuse: Vision and Language Representation Learning with Momentum Distillation",
    "2107.09282": "ReSSL: Relational Self-Supervised Learning with Weak Augmentation",
    "2110.06848": "Decoupled Contrastive Learning",
    "2111.06377": "Masked Autoencoders Are Scalable Vision Learners",
    "2111.14585": "Similarity Contrastive Estimation for Self-Supervised Soft Contrastive Learning",
    "2112.12750": "SLIP: Self-supervision meets Language-Image Pre-training",
    "2201.04309": "Robust Contrastive Learning against Noisy Views",
    "2202.10401": "Vision-Language Pre-Training with Triple Contrastive Learning",
    "2202.12387": "Provable Stochastic Optimization for Global Contrastive Learning: Small Batch Does Not Harm Performance",  # noqa: E501
    "2203.02053": "Mind the Gap: Understanding the Modality Gap in Multi-modal Contrastive Representation Learning",
    "2203.05482": "Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing "
    "inference time",
    "2203.15331": "CNN Filter DB: An Empirical Investigation of Trained Convolutional Filters",
    "2203.17248": "Dual Temperature Helps Contrastive Learning Without Many Negative Samples",
    "2204.02311": "PaLM: Scaling Language Modeling with Pathways",
    "2204.03162": "Winoground: Probing Vision and Language Models for Visio-Linguistic Compositionality",
    "2210.01936": "When and why vision-language models behave like bags-of-words, and what to do about it?",
    "2204.03610": "Unified Contrastive Learning in Image-Text-Label Space",
    "2205.01580": "Better plain ViT baselines for ImageNet-1k",
    "2205.13147": "Matryoshka Representation Learning",
    "2205.14135": "FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness",
    "2205.14459": "CyCLIP: Cyclic Contrastive Language-Image Pretraining",
    "2207.07874": "Model-Aware Contrastive Learning: Towards Escaping the Dilemmas",
    "2210.14140": "Contrastive Search Is What You Need For Neural Text Generation",
    "2212.00552": "An Effective Deployment of Contrastive Learning in Multi-label Text Classification",
    "2402.11816": "Learning the Unlearned: Mitigating Feature Suppression in Contrastive Learning",
    "2210.01189": "Rank-N-Contrast: Learning Continuous Representations for Regression",
    "2211.13081": "Robust Mean Teacher for Continual and Gradual Test-Time Adaptation",
    "2212.13847": "Heterogeneous Graph Contrastive Learning with Meta-path Contexts and Adaptively Weighted Negative Samples",  # noqa: E501
    "2303.13664": "Temperature Schedules for Self-Supervised Contrastive Methods on Long-Tail Data",
    "2303.15343": "Sigmoid Loss for Language Image Pre-Training",
    "2305.08675": "Improved baselines for vision-language pre-training",
    "2305.11965": "Not All Semantics are Created Equal: Contrastive Self-supervised Learning with Automatic "
    "Temperature Individualization",
    "2306.15925": "Subclass-balancing Contrastive Learning for Long-tailed Recognition",
    "2307.12616": "CTVIS: Consistent Training for Online Video Instance Segmentation",
    "2309.14580": "CWCL: Cross-Modal Transfer with Continuously Weighted Contrastive Loss",
    "2310.10636": "Dual-Encoders for Extreme Multi-Label Classification",
    "2403.11391": "Investigating the Benefits of Projection Head for Representation Learning",
    "2405.18570": "It's Not a Modality Gap: Characterizing and Addressing the Contrastive Gap",
    "2407.18134": "X-Sample Contrastive Loss: Improving Contrastive Learning with Sample Similarity Graphs",
    "2105.03746": "Contrastive Attraction and Contrastive Repulsion for Representation Learning",
    "2301.02009": "Learning by Sorting: Self-supervised Learning with Group Ordering Constraints",
    "2305.17746": "Whitening-based Contrastive Learning of Sentence Embeddings",
    "2205.14083": "Sharpness-Aware Training for Free",
    "2101.04731": "SEED: Self-supervised Distillation For Visual Representation",
    "2305.17007": "Improving Knowledge Distillation via Regularizing Feature Norm and Direction",
    "2409.17777": "Harnessing Shared Relations via Multimodal Mixup Contrastive Learning for Multimodal Classification",
    "2410.18200": "Rethinking Positive Pairs in Contrastive Learning",
    "2411.01053": "Contrasting with Symile: Simple Model-Agnostic Representation Learning for Unlimited Modalities",
    "2412.11959": "Gramian Multimodal Representation Learning and Alignment",
    "2502.06733": "Dynamic Loss-Based Sample Reweighting for Improved Large Language Model Pretraining",
    "2506.20923": "KaLM-Embedding-V2: Superior Training Techniques and Data Inspire A Versatile Embedding Model",
    "2507.06979": "A Principled Framework for Multi-View Contrastive Learning",
    "2508.11442": "CoDiEmb: A Collaborative yet Distinct Framework for Unified Representation Learning in Information Retrieval and Semantic Textual Similarity",  # noqa: E501
    "2510.14824": "Supervised Fine-Tuning or Contrastive Learning? Towards Better Multimodal LLM Reranking",
    "2510.00137": "Optimizing What Matters: AUC-Driven Learning for Robust Neural Retrieval",
}
# What the objectives page must cite for names whose numbers were mixed up.
OF_NAME = {
    "DEXML": "2310.10636",
    "MACL": "2207.07874",
    "SimLAP": "2410.18200",
    "M3CoL": "2409.17777",
    "GroCo": "2301.02009",
    "CACR": "2105.03746",
    "WhitenedCSE": "2305.17746",
    "MESA": "2205.14083",
    "SEED": "2101.04731",
    "MEOW": "2212.13847",
    "SBCL": "2306.15925",
}


def names_in(root: pathlib.Path) -> list[str]:
    """What git tracks or would track; without git, or a checkout of it, all but environments."""
    try:
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
        return listed.stdout.split("\n")
    except (OSError, subprocess.CalledProcessError):
        found = []
        for folder, inside, files in os.walk(root):
            inside[:] = [name for name in inside if not name.startswith(".venv")]
            found += [str((pathlib.Path(folder) / name).relative_to(root)) for name in files]
        return found


def test_without_git_environments_are_not_searched(tmp_path, monkeypatch):
    for name in ("pages/a.md", ".venv/lib/b.py", ".venv-gpu/lib/c.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert names_in(tmp_path) == ["pages/a.md"]
    monkeypatch.setenv("PATH", str(tmp_path))  # there is no git
    assert names_in(tmp_path) == ["pages/a.md"]


def cited() -> dict[str, set[str]]:
    """{arXiv number: files} of everything in the repository, the tests apart."""
    found: dict[str, set[str]] = {}
    for name in names_in(ROOT):
        path = ROOT / name
        if path.suffix not in SUFFIXES or name.startswith("tests/") or not path.is_file():
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            if "arxiv" in line.lower():
                for number in NUMBER.findall(line):
                    found.setdefault(number, set()).add(name)
    return found


def test_every_arxiv_number_is_in_the_table_of_titles():
    """faults A6: a number that nobody has looked up does not get in."""
    found = cited()
    assert len(found) > 60  # the search works
    unknown = {number: sorted(files) for number, files in found.items() if number not in TITLES}
    assert unknown == {}, "look the paper up, then add its title to TITLES"


def test_names_are_cited_with_their_own_numbers():
    """faults A6: wherever one of these names has an arXiv number right behind it, it is the paper's."""
    for name, number in OF_NAME.items():
        pattern = re.compile(rf"{name}[^\d\n|]{{0,40}}arXiv (\d{{4}}\.\d{{4,5}})")
        files = [*(ROOT / "xsample_jax").rglob("*.py"), *(ROOT / "configs").rglob("*.py"), *ROOT.glob("docs/*.md")]
        found = {match for path in files for match in pattern.findall(path.read_text(encoding="utf-8"))}
        assert found == {number}, name
