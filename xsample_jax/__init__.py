"""xsample_jax: image encoders trained with X-Sample contrastive learning (X-CLR, arXiv 2407.18134) in JAX."""

__version__ = "0.1.0"
